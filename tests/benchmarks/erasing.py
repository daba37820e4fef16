"""Erasing one subject from many backups, against reading these backups once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.changing import rowvault_incremental
from tests.benchmarks.contenders import rowvault_backup
from tests.programs import command_environment
from tests.servers import Database

# One row of a table of many, and some hundreds of another, which is searched by value and then by as many keys.
SUBJECTS = (
    ("messages", "id", "SELECT id::text FROM messages ORDER BY id LIMIT 1"),
    ("events", "agent", "SELECT agent::text FROM events LIMIT 1"),
)


@dataclass(frozen=True, slots=True)
class Erased:
    """Bytes of COPY text; seconds of whole commands: to verify all, to erase a subject of each table; memory in MB."""

    raw: int
    read: float
    seconds: Mapping[str, float]
    peak_mb: float


async def erasures(source: Database, settings: Mapping[str, str], backups: int, folder: Path) -> Erased:
    """Take backups that differ, then erase one subject after the other; the database must be one's own."""
    raw = 0
    for number in range(backups):
        await source.execute(f"UPDATE events SET cost = cost + 1 WHERE id % 7 = {number % 7}")
        raw += rowvault_backup(settings, folder).raw
    read, _ = _timed(settings, folder, "verify", "--all")
    seconds, peaks = {}, []
    for table, column, query in SUBJECTS:
        value = await source.value(query)
        await source.execute(f"DELETE FROM {table} WHERE {column}::text = $1", value)
        rowvault_incremental(settings, folder)
        asked = ("erase", f"--where={column}={value}", "--table", table, "--yes")
        seconds[table], peak = _timed(settings, folder, *asked)
        peaks.append(peak)
    return Erased(raw, read, seconds, max(peaks))


def _timed(settings: Mapping[str, str], folder: Path, *args: str) -> tuple[float, float]:
    """Seconds and peak resident memory in MB of one command that must be done."""
    began = time.perf_counter()
    with (folder / "out.json").open("w+b") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon", *args, "--json"],
            env=command_environment(settings), cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        result: Any = json.load(out)
    if process.returncode != 0:
        raise RuntimeError(f"{args[0]} failed: {result}")
    return seconds, usage.ru_maxrss / 1024
