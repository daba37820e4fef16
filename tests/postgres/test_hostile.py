"""The hostile data themselves: they load everywhere, and pg_dump alone carries them over, as the comparator sees it."""

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from tests import hostile
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.servers import Database, Server


async def carry_over(source: Database, target: Database) -> None:
    """Dump and restore by the server's own programs."""
    programs = source.server.binaries
    archive = await run(programs / "pg_dump", "-Fc", "--dbname", source.dsn)
    await run(programs / "pg_restore", "--exit-on-error", "--dbname", target.dsn, read=archive)


async def run(program: Path, *options: str, read: bytes = b"") -> bytes:
    process = await asyncio.create_subprocess_exec(program, *options, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate(read)
    assert process.returncode == 0, errors.decode()
    return output


async def test_the_hard_schema_survives_dump_and_restore(any_server: Server, create_database: CreateDatabase) -> None:
    source = await create_database(any_server, key="hostile", build=hostile.hard_schema(any_server.major))
    target = await create_database(any_server)
    await carry_over(source, target)
    assert await differences(source, target) == []


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sql=hostile.databases())
async def test_any_hostile_database_survives_dump_and_restore(
    server: Server, create_database: CreateDatabase, sql: str
) -> None:
    source, target = await create_database(), await create_database()
    await source.execute(sql)
    await carry_over(source, target)
    assert await differences(source, target) == []
    await server.drop(source)
    await server.drop(target)
