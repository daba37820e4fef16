"""Removes from the source database whatever Rowvault made there: slot, publication, and the schema of its own."""

from jobs.postgres.capture import PUBLICATION, own_slots, take_down
from jobs.postgres.catalogue import OWN_SCHEMA
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.errors import translated
from jobs.postgres.pooling import refuse_transaction_pooling


async def what_is_there(source: Source) -> tuple[str, ...]:
    """Everything of Rowvault's own in the database, in words."""
    await refuse_transaction_pooling(source)
    async with session(source, "teardown") as connection:
        return await _there(connection)


async def tear_down(source: Source) -> tuple[str, ...]:
    """Remove it all; return what was removed. The job lock is the caller's to hold."""
    async with session(source, "teardown") as connection:
        there = await _there(connection)
        await take_down(connection)
        with translated(f"removing schema {OWN_SCHEMA}"):
            await connection.execute("SET lock_timeout = '5s'")
            await connection.execute(f"DROP SCHEMA IF EXISTS {OWN_SCHEMA} CASCADE")
    return there


async def _there(connection: Connection) -> tuple[str, ...]:
    found = [f"replication slot {slot.name}" for slot in await own_slots(connection)]
    with translated("reading the catalogue"):
        if await connection.fetchval("SELECT true FROM pg_catalog.pg_publication WHERE pubname = $1", PUBLICATION):
            found.append(f"publication {PUBLICATION}")
        if await connection.fetchval("SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1", OWN_SCHEMA):
            found.append(f"schema {OWN_SCHEMA}")
        rows = (
            await connection.fetch(
                "SELECT relname FROM pg_catalog.pg_class WHERE relkind = 'r' AND relnamespace = $1::text::regnamespace"
                " ORDER BY 1",
                OWN_SCHEMA,
            )
            if f"schema {OWN_SCHEMA}" in found
            else []
        )
    return (*found, *(f"table {OWN_SCHEMA}.{row['relname']}" for row in rows))
