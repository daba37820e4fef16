"""Exports for tests: as the job makes them, and what PostgreSQL's own client makes of the files."""

import asyncio
from dataclasses import replace
from os import environ
from pathlib import Path

from jobs.as_of import opened
from jobs.export import ExportResult, export
from jobs.exporting.plan import ExportOptions, ExportScope, plan_export
from tests.round_trip import Taken
from tests.servers import Database

KEY = "a key that nobody else has"
OPTIONS = ExportOptions(mask_key=KEY.encode())
REPLACING = replace(OPTIONS, replace=True)


async def exported(taken: Taken, folder: Path, scope: ExportScope, *, replacing: bool = False) -> ExportResult:
    """Export a backup into a folder."""
    async with opened([taken.repository], taken.result.id) as found:
        plan = await plan_export(found.manifest, scope, OPTIONS)
        return await export(found, plan, folder, REPLACING if replacing else OPTIONS)


async def psql(database: Database, *args: str, stdin: str = "") -> tuple[int, str]:
    """Run psql on a database, whatever PG* variables say; its exit code and all it says."""
    embedded = database.server.embedded
    surroundings = {
        "PATH": environ["PATH"],
        "PGHOST": "127.0.0.1",
        "PGPORT": str(embedded.port),
        "PGUSER": embedded.user,
        "PGPASSWORD": embedded.password.get_secret_value(),
        "PGDATABASE": database.name,
        "PGCLIENTENCODING": "UTF8",
    }
    process = await asyncio.create_subprocess_exec(
        *(str(database.server.binaries / "psql"), "-X", "-q", *args),
        env=surroundings,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(stdin.encode())
    return process.returncode or 0, said.decode(errors="replace")
