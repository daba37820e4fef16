"""Sequences of a live database that give values to columns, and where they stand."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote


@dataclass(frozen=True, slots=True)
class OwnedSequence:
    """A sequence that gives values to a column, and where it stands. `increment` may be negative."""

    sequence: TableName
    table: TableName
    column: str
    last_value: int
    is_called: bool
    increment: int
    least: int
    most: int

    @property
    def used(self) -> int:
        """The last value that it gave out."""
        return self.last_value if self.is_called else self.last_value - self.increment


async def read_owned_sequences(connection: Connection, oids: Sequence[int]) -> tuple[OwnedSequence, ...]:
    """Sequences from which integer columns of these tables take their values: identity, serial, or a default."""
    with translated("looking at the target's sequences"):
        rows = await connection.fetch(_SEQUENCES, list(oids))
        found = []
        for row in rows:
            name = TableName(row["schema"], row["name"])
            at = await connection.fetchrow(f"SELECT last_value, is_called FROM {qualified(name)}")
            found.append(
                OwnedSequence(
                    sequence=name,
                    table=TableName(row["table_schema"], row["table"]),
                    column=row["attname"],
                    last_value=at["last_value"],
                    is_called=at["is_called"],
                    increment=row["seqincrement"],
                    least=row["seqmin"],
                    most=row["seqmax"],
                )
            )
    return tuple(found)


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
    up = sequence.increment > 0
    furthest = max if up else min
    column = f"{'max' if up else 'min'}({quote(sequence.column)})::bigint"
    with translated(f"setting the sequence {sequence.sequence}"):
        in_data = await connection.fetchval(
            f"SELECT {column} FROM {qualified(sequence.table)}"
            f" WHERE {quote(sequence.column)} BETWEEN {sequence.least} AND {sequence.most}"
        )
        wanted = furthest(value for value in (sequence.used, stood_at, in_data) if value is not None)
        if wanted == sequence.used:
            return False
        # Past its end there is nothing: the last value fails once more, if it is taken.
        begin = min(max(wanted + sequence.increment, sequence.least), sequence.most)
        await connection.execute(f"ALTER SEQUENCE {qualified(sequence.sequence)} RESTART WITH {begin}")
    return True
