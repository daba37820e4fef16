"""Exports against what reads a live server: CSV against psql's COPY as CSV, Parquet against reading into pandas."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contenders import rowvault_backup
from tests.programs import command_environment
from tests.servers import Database

TABLE = "events"

# pandas.read_sql wants psycopg or SQLAlchemy, which are not here. asyncpg is the fastest that could be read by.
PANDAS = f"""
import asyncio, sys, time
import asyncpg, pandas
async def read():
    connection = await asyncpg.connect(sys.argv[1])
    rows = await connection.fetch("SELECT * FROM {TABLE}")
    return pandas.DataFrame([tuple(row) for row in rows], columns=[*rows[0].keys()])
began = time.perf_counter()
frame = asyncio.run(read())
print(time.perf_counter() - began)
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """One export by Rowvault: seconds of the whole command and as it says itself, bytes, peak resident memory in MB."""

    whole: float
    seconds: float
    bytes: int
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of one table: CSV and Parquet, and what they are measured against, in seconds."""

    csv: Exported
    psql: float
    parquet: Exported
    pandas: float


def exports(source: Database, settings: Mapping[str, str], runs: int, folder: Path) -> Figures:
    """Take one backup, then export a table of it, interleaved with reading it from the server."""
    rowvault_backup(settings, folder)
    csvs, psqls, parquets, frames = [], [], [], []
    for run in range(runs):
        csvs.append(_export(settings, folder, "csv", run))
        psqls.append(_psql(source, folder))
        parquets.append(_export(settings, folder, "parquet", run))
        answer = subprocess.run([sys.executable, "-c", PANDAS, source.dsn], capture_output=True, check=True)
        frames.append(float(answer.stdout))
    return Figures(_median(csvs), median(psqls), _median(parquets), median(frames))


def _median(exported: list[Exported]) -> Exported:
    return Exported(
        median(one.whole for one in exported),
        median(one.seconds for one in exported),
        exported[0].bytes,
        max(one.peak_mb for one in exported),
    )


def _export(settings: Mapping[str, str], folder: Path, format_: str, run: int) -> Exported:
    out = folder / f"{format_}-{run}"
    command = [sys.executable, "-m", "daemon", "export", "--format", format_, "--table", TABLE, "--out", str(out)]
    began = time.perf_counter()
    with (folder / "out.json").open("w+b") as said:
        process = subprocess.Popen(
            [*command, "--json"], env=command_environment(settings), cwd=folder, stdin=subprocess.DEVNULL, stdout=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        whole = time.perf_counter() - began
        said.seek(0)
        result: dict[str, Any] = json.load(said)
    if process.returncode != 0:
        raise RuntimeError(f"the export failed: {result}")
    (file,) = result["files"]
    (out / file["file"]).unlink()
    return Exported(whole, result["duration_seconds"], file["bytes"], usage.ru_maxrss / 1024)


def _psql(source: Database, folder: Path) -> float:
    statement = f"COPY {TABLE} TO STDOUT (FORMAT csv, HEADER)"
    began = time.perf_counter()
    with (folder / "psql.csv").open("wb") as file:
        subprocess.run(
            [source.server.binaries / "psql", "-qX", "-d", source.dsn, "-c", statement], stdout=file, check=True
        )
    seconds = time.perf_counter() - began
    (folder / "psql.csv").unlink()
    return seconds
