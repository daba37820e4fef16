"""Incremental backups against draining a slot with psql, and a moment brought back against a whole full restore."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.restoring import Restored, rowvault_restore, scratch
from tests.programs import command_environment
from tests.servers import Database

DRAIN = (
    "COPY (SELECT data FROM pg_logical_slot_peek_binary_changes('drained', NULL, NULL,"
    " 'proto_version', '1', 'publication_names', 'rowvault')) TO STDOUT (FORMAT binary)"
)


@dataclass(frozen=True, slots=True)
class Incremental:
    """One incremental backup: seconds to the commit, bytes stored, changes, peak resident memory in MB."""

    commit: float
    stored: int
    changes: int
    peak_mb: float


def rowvault_incremental(settings: Mapping[str, str], folder: Path) -> Incremental:
    """Run `rowvault backup incremental --json`; it must not have begun a new chain."""
    with (folder / "out.json").open("w+b") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon", "backup", "incremental", "--json"],
            env=command_environment(settings), cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        result: dict[str, Any] = json.load(out)
    if process.returncode != 0 or result["state"] != "success":
        raise RuntimeError(f"the incremental backup failed: {result}")
    tables = result["tables"]
    return Incremental(
        result["duration_seconds"],
        sum(table["bytes_stored"] for table in tables),
        sum(table["rows"] for table in tables) if result["kind"] == "incremental" else 0,
        usage.ru_maxrss / 1024,
    )


async def drain(database: Database) -> float:
    """Seconds that psql takes to read the same changes from a slot of its own."""
    began = time.perf_counter()
    command = [str(database.server.binaries / "psql"), "-qX", "-d", database.dsn, "-c", DRAIN]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError("psql could not drain the slot")
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Changed:
    """Medians of some runs: one incremental backup each, and psql's drain of the same changes."""

    backup: Incremental
    drain: float


async def changed_rows(
    database: Database, settings: Mapping[str, str], statement: str, runs: int, folder: Path
) -> Changed:
    """Change rows, drain them, take them into an incremental backup; again and again."""
    backups, drains = [], []
    rowvault_incremental(settings, folder)
    for _ in range(runs):
        await database.execute("SELECT pg_create_logical_replication_slot('drained', 'pgoutput')")
        await database.execute(statement)
        drains.append(await drain(database))
        await database.execute("SELECT pg_drop_replication_slot('drained')")
        backups.append(rowvault_incremental(settings, folder))
    one = Incremental(
        median(backup.commit for backup in backups),
        max(backup.stored for backup in backups),
        backups[0].changes,
        max(backup.peak_mb for backup in backups),
    )
    return Changed(one, median(drains))


async def as_of_now(database: Database, settings: Mapping[str, str], folder: Path) -> tuple[Restored, Restored]:
    """The newest full backup into an empty database, then the newest moment."""
    full = next(backup["id"] for backup in _listed(settings, folder) if backup["kind"] == "full")
    newest = max(datetime.fromisoformat(backup["recoverable_to"]) for backup in _listed(settings, folder))
    async with scratch(database.server) as target:
        plain = rowvault_restore(settings, target, folder, full)
    async with scratch(database.server) as target:
        moment = rowvault_restore(settings, target, folder, "--at", newest.isoformat())
    return plain, moment


def _listed(settings: Mapping[str, str], folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "list", "--json"],
        env=command_environment(settings), cwd=folder, capture_output=True, check=True,
    )  # fmt: skip
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    return listed
