"""Loses something in a scratch database and brings it back, as a person would, and takes the time.

The largest table is lost, and one row of the largest that has a primary key: nothing else takes longer.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.errors import UnsafeTarget
from jobs.postgres.changing import quieten, waken
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.postgres.live_tables import read_live_tables
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.restoring.key import can_be_named
from jobs.results import Check
from jobs.scope import Scope
from storage.manifest import Manifest, Table
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Recovery:
    """One loss made good: what was lost, in how many seconds it was back, and whether it was as before."""

    of: str
    seconds: float
    check: Check


@dataclass(frozen=True, slots=True)
class Ground:
    """Where losses are played through."""

    repositories: Sequence[Repository]
    manifest: Manifest
    scratch: Source
    options: RestoreOptions

    @property
    def tables(self) -> list[Table]:
        """Tables with rows that can be restored by themselves, the largest first."""
        fit = [table for table in self.manifest.tables if table.rows and table.load_into is None]
        return sorted(fit, key=lambda table: -table.bytes_raw)


async def lose_a_row(ground: Ground) -> Recovery | None:
    """Delete one row and restore it by its key; None if no row of any table can be named."""
    async with session(ground.scratch, "drill") as connection:
        table = await _first_named(connection, ground.tables)
        if table is None:
            return None
        name = _name(table)
        key = await _some_key(connection, table)
        before = await _row(connection, table, key)
        await _lose(connection, name, _where(table), list(key.values()))
        seconds, failed = await _timed_restore(ground, Scope(tables=(_written(name),), key=key))
        equal = before == await _row(connection, table, key)
    return Recovery(f"a row of {name}", seconds, _check("one row", name, equal=equal, failed=failed))


async def lose_a_table(ground: Ground) -> Recovery | None:
    """Delete all rows of a table and restore it; None if no table can be restored by itself."""
    for table in ground.tables:
        name = _name(table)
        scope = Scope(tables=(_written(name),))
        try:
            await plan_restore(ground.repositories, ground.manifest, ground.scratch, scope, ground.options)
        except UnsafeTarget:
            continue  # a person would be told the same, and choose --into-schema
        async with session(ground.scratch, "drill") as connection:
            await _lose(connection, name, "true", [])
            seconds, failed = await _timed_restore(ground, scope)
            count = await connection.fetchval(f"SELECT count(*) FROM ONLY {qualified(name)}")
        check = _check("one table", name, equal=count == table.rows, failed=failed)
        return Recovery(f"all {table.rows:,} rows of {name}", seconds, check)
    return None


def _check(scenario: str, table: TableName, *, equal: bool, failed: str) -> Check:
    trouble = failed if equal else f"{table} is not what it was before"
    return Check(scenario, "failed" if trouble else "ok", trouble)


async def _timed_restore(ground: Ground, scope: Scope) -> tuple[float, str]:
    """Plan and restore; how many seconds it took, and which checks failed."""
    began = time.monotonic()
    plan = await plan_restore(ground.repositories, ground.manifest, ground.scratch, scope, ground.options)
    result = await restore(plan, ground.repositories, ground.options)
    failed = [f"{check.name}: {check.message}" for check in result.checks if check.state == "failed"]
    return time.monotonic() - began, "; ".join(failed)


async def _first_named(connection: Connection, tables: Sequence[Table]) -> Table | None:
    for table in tables:
        if await can_be_named(connection, table):
            return table
    return None


def _name(table: Table) -> TableName:
    return TableName(table.schema_name, table.name)


def _written(table: TableName) -> str:
    """As a person would name it without any doubt."""
    return qualified(table)


async def _some_key(connection: Connection, table: Table) -> dict[str, str]:
    """The key of a row in the middle of the table."""
    values = ", ".join(f"pg_catalog.format('%s', {quote(column)})" for column in table.primary_key)
    with translated(f"choosing a row of {_name(table)}"):
        row = await connection.fetchrow(
            f"SELECT {values} FROM ONLY {qualified(_name(table))} LIMIT 1 OFFSET $1", table.rows // 2
        )
    return dict(zip(table.primary_key, row.values(), strict=True))


def _where(table: Table) -> str:
    types = {column.name: column.type for column in table.columns}
    return " AND ".join(
        f"{quote(column)} = CAST(${number}::text AS {types[column]})"
        for number, column in enumerate(table.primary_key, 1)
    )


async def _row(connection: Connection, table: Table, key: dict[str, str]) -> str | None:
    """A hash of the row as text."""
    with translated(f"looking at the row of {_name(table)}"):
        found: str | None = await connection.fetchval(
            f"SELECT pg_catalog.md5(t::text) FROM ONLY {qualified(_name(table))} t WHERE {_where(table)}", *key.values()
        )
    return found


async def _lose(connection: Connection, table: TableName, where: str, values: Sequence[str]) -> None:
    """Delete rows as a fault would: no trigger fires, not even one that always does, and no foreign key forbids it."""
    live = (await read_live_tables(connection, [table])).values()
    with translated(f"deleting rows of {table}"):
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await quieten(connection, live)
            await connection.execute(f"DELETE FROM ONLY {qualified(table)} WHERE {where}", *values)
            await waken(connection, live)
