"""What tables have by which they can be compared with what is known of them. Reads the catalogue alone."""

from collections.abc import Collection
from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated


@dataclass(frozen=True, slots=True)
class Comparable:
    """Whether a table has a primary key, and whether the data has it: not if a generated column is part of it.

    `columns` are those of the type that was asked for.
    """

    has_key: bool
    key_is_copied: bool
    columns: frozenset[str]


async def read_comparable(connection: Connection, oids: Collection[int], column_type: str) -> dict[int, Comparable]:
    """How tables can be compared, by oid; `column_type` as `format_type` writes it."""
    with translated("looking at keys and columns"):
        rows = await connection.fetch(_COMPARABLE, list(oids), column_type)
    return {row["oid"]: Comparable(row["has_key"], row["copied"], frozenset(row["columns"])) for row in rows}


_COMPARABLE = """
    SELECT c.oid::bigint, i.indrelid IS NOT NULL AS has_key,
           i.indrelid IS NOT NULL AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND a.attgenerated <> '') AS copied,
           ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND pg_catalog.format_type(a.atttypid, a.atttypmod) = $2) AS columns
      FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
     WHERE c.oid = ANY ($1::oid[])
"""
