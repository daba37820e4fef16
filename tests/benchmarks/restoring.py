"""Restores against pg_restore of the same data: everything into an empty database, and one row back into its table."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contenders import pg_dump, rowvault_backup, timed
from tests.programs import command_environment
from tests.servers import Database, Server


@dataclass(frozen=True, slots=True)
class Restored:
    """One restore by Rowvault: seconds as it says itself, seconds of the whole command, peak resident memory in MB."""

    seconds: float
    check: float
    whole: float
    peak_mb: float


def rowvault_restore(settings: Mapping[str, str], target: Database, folder: Path, *arguments: str) -> Restored:
    """Run `rowvault restore --yes --json` into a database."""
    began = asyncio.get_running_loop().time()
    command = [sys.executable, "-m", "daemon", "restore", "--yes", "--json", "--to", "env:TARGET", *arguments]
    with (folder / "out.json").open("w+b") as out:
        process = subprocess.Popen(
            command, env=command_environment({**settings, "TARGET": target.dsn}), cwd=folder,
            stdin=subprocess.DEVNULL, stdout=out,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        result: dict[str, Any] = json.load(out)
    if process.returncode != 0:
        raise RuntimeError(f"the restore failed: {result}")
    whole = asyncio.get_running_loop().time() - began
    return Restored(result["duration_seconds"], result["check_seconds"], whole, usage.ru_maxrss / 1024)


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians: seconds of a whole restore and of pg_restore, of one row's and of its table's by pg_restore."""

    everything: Restored
    pg_restore: float
    row: Restored
    pg_restore_table: float
    rows: int


async def restores(source: Database, settings: Mapping[str, str], runs: int, folder: Path) -> Figures:
    """Take one backup and one dump, then restore both, interleaved."""
    server = source.server
    rowvault_backup(settings, folder)
    pg_dump(server.binaries / "pg_dump", source, "-Z1", folder)
    everything, theirs, rows, tables = [], [], [], []
    number = await source.value("SELECT count(*) FROM events")
    for _ in range(runs):
        async with scratch(server) as target:
            everything.append(rowvault_restore(settings, target, folder))
        async with scratch(server) as target:
            theirs.append(_pg_restore(server, target, folder, "-j2"))
        await source.execute(f"DELETE FROM events WHERE id = {number // 2}")
        rows.append(rowvault_restore(settings, source, folder, "--table", "events", "--key", f"id={number // 2}"))
        async with scratch(server) as target:
            tables.append(_pg_restore(server, target, folder, "-t", "events"))
    shutil.rmtree(folder / "dump")
    return Figures(_median(everything), median(theirs), _median(rows), median(tables), number)


def _median(restored: list[Restored]) -> Restored:
    return Restored(
        median(one.seconds for one in restored),
        median(one.check for one in restored),
        median(one.whole for one in restored),
        max(one.peak_mb for one in restored),
    )


@asynccontextmanager
async def scratch(server: Server) -> AsyncIterator[Database]:
    """An empty database for one restore."""
    database = await server.create()
    yield database
    await server.drop(database)


def _pg_restore(server: Server, target: Database, folder: Path, *arguments: str) -> float:
    return timed([server.binaries / "pg_restore", *arguments, "-d", target.dsn, folder / "dump"])
