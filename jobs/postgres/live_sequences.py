"""Sequences of a live database that give values to columns, and where they stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote


@dataclass(frozen=True, slots=True)
class OwnedSequence:
    """A sequence that gives values to a column (`column` is empty: to none). `increment` may be negative."""

    sequence: TableName
    table: TableName
    column: str
    increment: int
    least: int
    most: int


async def read_owned_sequences(connection: Connection, oids: Sequence[int]) -> tuple[OwnedSequence, ...]:
    """Sequences from which integer columns of these tables take their values: identity, serial, or a default."""
    with translated("looking at the target's sequences"):
        return _made_of(await connection.fetch(_SEQUENCES, list(oids)))


async def read_free_sequences(connection: Connection, names: Sequence[TableName]) -> tuple[OwnedSequence, ...]:
    """Those of the named sequences that are there and do not start anew at their end: one that does is never behind."""
    with translated("looking at the target's sequences"):
        rows = await connection.fetch(_FREE, [name.schema for name in names], [name.name for name in names])
    return _made_of(rows)


def _made_of(rows: Sequence[asyncpg.Record]) -> tuple[OwnedSequence, ...]:
    return tuple(
        OwnedSequence(
            sequence=TableName(row["schema"], row["name"]),
            table=TableName(row["table_schema"], row["table"]),
            column=row["attname"],
            increment=row["seqincrement"],
            least=row["seqmin"],
            most=row["seqmax"],
        )
        for row in rows
    )


_FREE = """
    SELECT n.nspname AS schema, s.relname AS name, '' AS table_schema, '' AS table, '' AS attname,
           q.seqincrement, q.seqmin, q.seqmax
      FROM pg_catalog.pg_sequence q JOIN pg_catalog.pg_class s ON s.oid = q.seqrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
      JOIN ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted (schema, name)
        ON n.nspname = wanted.schema AND s.relname = wanted.name
     WHERE NOT q.seqcycle ORDER BY 1, 2
"""

_SEQUENCES = """
    SELECT DISTINCT n.nspname AS schema, s.relname AS name, m.nspname AS table_schema, t.relname AS table, a.attname,
           q.seqincrement, q.seqmin, q.seqmax
      FROM pg_catalog.pg_sequence q JOIN pg_catalog.pg_class s ON s.oid = q.seqrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace,
           LATERAL (SELECT d.refobjid AS relid, d.refobjsubid AS attnum FROM pg_catalog.pg_depend d
                     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = s.oid
                       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
                     UNION
                    SELECT f.adrelid, f.adnum FROM pg_catalog.pg_depend d
                      JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid
                     WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refobjid = s.oid
                       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) use
      JOIN pg_catalog.pg_class t ON t.oid = use.relid JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = use.relid AND a.attnum = use.attnum
     WHERE use.relid = ANY ($1::oid[]) AND a.atttypid IN (20, 21, 23, 1700)
     ORDER BY 1, 2, 3, 4
"""


async def advance_sequence(connection: Connection, sequence: OwnedSequence, stood_at: int | None) -> bool:
    """Move a sequence on if it stands behind the data, or behind where it stood in the backup; return whether it moved.

    RESTART, unlike setval(), is undone by a rollback: https://www.postgresql.org/docs/current/sql-altersequence.html
    """
    furthest = max if sequence.increment > 0 else min
    with translated(f"setting the sequence {sequence.sequence}"):
        used = await _used(connection, sequence)
        in_data = await _furthest_in_data(connection, sequence) if sequence.column else None
        wanted = furthest(value for value in (used, stood_at, in_data) if value is not None)
        if wanted == used:
            return False
        # Past its end there is nothing: the last value fails once more, if it is taken.
        begin = min(max(wanted + sequence.increment, sequence.least), sequence.most)
        await connection.execute(f"ALTER SEQUENCE {qualified(sequence.sequence)} RESTART WITH {begin}")
    return True


async def _used(connection: Connection, sequence: OwnedSequence) -> int:
    """The last value that it gave out."""
    at = await connection.fetchrow(f"SELECT last_value, is_called FROM {qualified(sequence.sequence)}")
    last: int = at["last_value"]
    return last if at["is_called"] else last - sequence.increment


async def _furthest_in_data(connection: Connection, sequence: OwnedSequence) -> int | None:
    furthest = "max" if sequence.increment > 0 else "min"
    value: int | None = await connection.fetchval(
        f"SELECT {furthest}({quote(sequence.column)})::bigint FROM {qualified(sequence.table)}"
        f" WHERE {quote(sequence.column)} BETWEEN {sequence.least} AND {sequence.most}"
    )
    return value
