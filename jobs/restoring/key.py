"""The rows of one key: what a person typed becomes the text that the server would write, sought in a backup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from jobs.chains.row_search import find_row, needle
from jobs.errors import NotThere, UnsafeTarget
from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import BadName, TableName, qualified, quote
from jobs.postgres.live_tables import LiveTable
from jobs.progress import OnProgress
from storage.errors import Corrupt, StorageError
from storage.manifest import Manifest, Table
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Rows of a table in a backup, as COPY text, and the place they were read from."""

    repository: Repository
    text: bytes

    @property
    def number(self) -> int:
        """How many rows."""
        return self.text.count(b"\n")


@dataclass(frozen=True, slots=True)
class WantedRows:
    """The table that a key is of, and the key's values as the server writes them: any way to write one finds it."""

    table: Table
    values: Mapping[str, str]


async def read_key(connection: Connection, tables: Sequence[Table], key: Mapping[str, str]) -> WantedRows:
    """What a key means to the target; raises `BadName` if it is not the primary key of the one table."""
    if len(tables) != 1:
        raise BadName("--key is of one table alone", "name it: --table TABLE --key COL=VALUE")
    (table,) = tables
    check_key(table, key)
    types = {column.name: column.type for column in table.columns}
    return WantedRows(table, {name: await written(connection, name, types[name], key[name]) for name in key})


async def find_key(
    repositories: Sequence[Repository], manifest: Manifest, wanted: WantedRows, on_progress: OnProgress
) -> FoundRows:
    """Look for the rows in the first place where the table is whole; `NotThere` if the backup has none."""
    repository, text = await _find(repositories, wanted, on_progress)
    if not text:
        name = TableName(wanted.table.schema_name, wanted.table.name)
        raise NotThere(
            f"backup {manifest.id} has no row of {name} with that key",
            "it may be in an older or newer one: rowvault list",
        )
    return FoundRows(repository, text)


def check_key(table: Table, key: Mapping[str, str]) -> None:
    """Raise `BadName` unless the key has each column of the table's primary key, and no other."""
    name = TableName(table.schema_name, table.name)
    columns = ", ".join(table.primary_key)
    if not table.primary_key:
        raise BadName(f"{name} has no primary key, so no row of it can be named", "restore the table: --table")
    for column in table.primary_key:
        if column not in key:
            raise BadName(f"--key lacks column {column} of the primary key of {name}", f"give each of: {columns}")
    for column in key:
        if column not in table.primary_key:
            raise BadName(f"{column} is not in the primary key of {name}", f"give each of: {columns}")


# Types of which two equal values always look alike. Of others (numeric 1.0 and 1.00, citext, intervals) they need not.
_EXACT = """
    WITH RECURSIVE line AS (
        SELECT oid, typbasetype, typtypmod, $2::boolean AS limited
          FROM pg_catalog.pg_type WHERE oid = $1::text::pg_catalog.regtype
         UNION ALL
        SELECT t.oid, t.typbasetype, t.typtypmod, line.typtypmod >= 0
          FROM line JOIN pg_catalog.pg_type t ON t.oid = line.typbasetype
    )
    SELECT typtype = 'e' OR (t.oid = 1700 AND limited) OR t.oid::pg_catalog.regtype::text = ANY (ARRAY[
           'smallint', 'integer', 'bigint', 'oid', 'uuid', 'text', 'character varying', 'character', 'name', 'date',
           'boolean', 'bytea', 'timestamp without time zone', 'timestamp with time zone', 'inet', 'cidr', 'macaddr',
           'time without time zone', '"char"'])
      FROM line JOIN pg_catalog.pg_type t USING (oid) WHERE line.typbasetype = 0
"""

# A cast to varchar(3) cuts what is longer, one to numeric(5,0) rounds: that would be another row's key.
_WRITTEN = """
    SELECT pg_catalog.format('%s', CAST($1::text AS {kind})),
           CAST($1::text AS {kind}) = CAST($1::text AS {unlimited})
"""


_OTHERWISE = "restore the table to look at with --into-schema, and take the row from there"


async def can_be_named(connection: Connection, table: Table) -> bool:
    """Whether single rows of a table can be named by its primary key."""
    types = {column.name: column.type for column in table.columns}
    exact = [await _is_exact(connection, types[column]) for column in table.primary_key]
    return bool(exact) and all(exact)


async def _is_exact(connection: Connection, kind: str) -> bool:
    exact: bool = await connection.fetchval(_EXACT, kind, "(" in kind)
    return exact


async def written(
    connection: Connection, column: str, kind: str, value: str, option: str = "--key", otherwise: str = _OTHERWISE
) -> str:
    """A column's value as the database writes it; raises `BadName` for what is none, naming the option it was given by.

    Raises `UnsafeTarget` if equal values of the type may be written in several ways, and says what to do `otherwise`.
    """
    try:
        exact = await _is_exact(connection, kind)
        unlimited = await connection.fetchval("SELECT pg_catalog.format_type($1::text::pg_catalog.regtype, -1)", kind)
        text, fits = await connection.fetchrow(_WRITTEN.format(kind=kind, unlimited=unlimited), value)
    except asyncpg.PostgresError as error:
        raise BadName(f"{option} {column}: {str(error).splitlines()[0]}", f"it is of type {kind}") from error
    if not exact:
        raise UnsafeTarget(
            f"equal values of type {kind} (column {column}) can look different, so a row cannot be found by one",
            otherwise,
        )
    if not fits:
        raise BadName(f"{option} {column}: the value does not fit its type", f"it is of type {kind}")
    return str(text)


async def count_key(connection: Connection, live: LiveTable, key: Mapping[str, str]) -> int:
    """How many rows with that key the target has."""
    equals = {column.name: column.equals for column in live.key}
    types = {column.name: column.type for column in live.columns}
    matches = " AND ".join(
        f"{quote(column)} {equals.get(column, 'OPERATOR(pg_catalog.=)')}"
        f" CAST(${number}::text AS {types.get(column, 'text')})"
        for number, column in enumerate(key, 1)
    )
    with translated(f"looking for the row in {live.table}"):
        count: int = await connection.fetchval(
            f"SELECT count(*) FROM ONLY {qualified(live.table)} WHERE {matches}", *key.values()
        )
    return count


async def _find(
    repositories: Sequence[Repository], wanted: WantedRows, on_progress: OnProgress
) -> tuple[Repository, bytes]:
    sought = needle(wanted.table, wanted.values)
    failures: list[StorageError] = []
    for repository in repositories:
        try:
            return repository, await find_row(repository, wanted.table, sought, on_progress)
        except StorageError as error:
            failures.append(error)
    raise next((one for one in failures if isinstance(one, Corrupt)), failures[0])
