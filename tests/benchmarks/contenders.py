"""What is measured, and what it is measured against, each as whole processes against one server."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig

from tests.programs import command_environment
from tests.servers import Database


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup by Rowvault: seconds to the commit and for verification, bytes stored, peak resident memory in MB.

    `cpu` are seconds of processor time of the whole command, the server's not among them.
    """

    commit: float
    verify: float
    stored: int
    raw: int
    peak_mb: float
    whole: float
    cpu: float


def rowvault_backup(settings: Mapping[str, str], folder: Path) -> Backup:
    """Run `rowvault backup --json` and read what it says of itself, and the kernel of it."""
    began = time.perf_counter()
    with (folder / "out.json").open("w+b") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon", "backup", "--json"],
            env=command_environment(settings), cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        result: dict[str, Any] = json.load(out)
    if process.returncode != 0 or result["state"] != "success":
        raise RuntimeError(f"the backup failed: {result}")
    return Backup(
        result["duration_seconds"],
        result["verify_seconds"],
        sum(table["bytes_stored"] for table in result["tables"]),
        sum(table["bytes_raw"] for table in result["tables"]),
        usage.ru_maxrss / 1024,
        seconds,
        usage.ru_utime + usage.ru_stime,
    )


def pg_dump(program: Path, database: Database, compression: str, folder: Path) -> tuple[float, int]:
    """`pg_dump -Fd -j2` with some compression; seconds and bytes. The server's own version of it, or newer."""
    target = folder / "dump"
    shutil.rmtree(target, ignore_errors=True)
    seconds = timed([program, "-Fd", "-j2", compression, "-f", target, "-d", database.dsn])
    return seconds, sum(file.stat().st_size for file in target.iterdir())


def has_zstd(program: Path) -> bool:
    """Whether this pg_dump was built with zstd."""
    answer = subprocess.run(
        [program, "--compress=zstd:1", "-f", "/dev/null"], capture_output=True, text=True, check=False
    )
    return "does not support" not in answer.stderr and "invalid" not in answer.stderr


async def two_drains(psql: Path, database: Database) -> float:
    """Two connections that together copy every row out as text, to nowhere: each half of each table's pages."""
    rows = await database.fetch(
        "SELECT relname, relpages FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    halves = [
        [f"COPY (SELECT * FROM ONLY {name} WHERE ctid < '({pages // 2},0)') TO STDOUT" for name, pages in rows],
        [f"COPY (SELECT * FROM ONLY {name} WHERE ctid >= '({pages // 2},0)') TO STDOUT" for name, pages in rows],
    ]
    began = time.perf_counter()
    await asyncio.gather(*(asyncio.to_thread(_drain, psql, database, half) for half in halves))
    return time.perf_counter() - began


def _drain(psql: Path, database: Database, statements: list[str]) -> None:
    commands = [word for statement in statements for word in ("-c", statement)]
    subprocess.run([psql, "-qX", "-d", database.dsn, *commands], stdout=subprocess.DEVNULL, check=True)


def bare_upload(folder: Path, client: dict[str, str], bucket: str) -> float:
    """Upload the files of a folder as boto3 does by itself, as many at a time as we do; seconds."""
    s3 = boto3.client("s3", **client)
    config = TransferConfig(multipart_chunksize=8 * 1024 * 1024, multipart_threshold=8 * 1024 * 1024, max_concurrency=3)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    began = time.perf_counter()
    for file in files:
        s3.upload_file(str(file), bucket, f"bare/{file.relative_to(folder)}", Config=config)
    return time.perf_counter() - began


def timed(command: list[Any]) -> float:
    """Seconds that a command takes; it must succeed."""
    began = time.perf_counter()
    subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
