"""Constraints of a live database that a restore holds still for its time: foreign keys, and what is NOT VALID."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, quote


@dataclass(frozen=True, slots=True)
class LooseConstraint:
    """A CHECK or NOT NULL constraint that is NOT VALID: rows that came before it may break it."""

    name: str
    table: TableName
    definition: str
    comment: str | None

    def __str__(self) -> str:
        return f"constraint {quote(self.name)} of {self.table}"


@dataclass(frozen=True, slots=True)
class LiveForeignKey:
    """A foreign key that comes from or points to one of the tables in question.

    `on_delete` and `on_update` are pg_constraint's letters: a and r refuse, c, n and d change the child. `loose`: it is
    NOT VALID, and rows that came before it may break it.
    """

    name: str
    table_oid: int
    table: TableName
    columns: tuple[str, ...]
    references_oid: int
    references: TableName
    referenced: tuple[str, ...]
    equals: tuple[str, ...]
    definition: str
    comment: str | None
    on_delete: str
    on_update: str
    loose: bool

    def __str__(self) -> str:
        return f"foreign key {quote(self.name)} of {self.table}"

    def parent_of(self, child: str, parent: str) -> str:
        """SQL: of two relations, given by their aliases, the one is a child of the other by this key."""
        columns = zip(self.referenced, self.equals, self.columns, strict=True)
        return " AND ".join(
            f"{parent}.{quote(column)} {equals} {child}.{quote(of_child)}" for column, equals, of_child in columns
        )


LiveConstraint = LiveForeignKey | LooseConstraint
"""What can be taken away, and added again as it was."""


async def read_live_foreign_keys(connection: Connection, oids: Sequence[int]) -> tuple[LiveForeignKey, ...]:
    """Every foreign key that comes from or points to one of these; what partitions inherit is left to their parents."""
    with translated("looking at the target's foreign keys"):
        rows = await connection.fetch(_FOREIGN_KEYS, list(oids))
    return tuple(
        LiveForeignKey(
            name=row["conname"],
            table_oid=row["conrelid"],
            table=TableName(row["schema"], row["table"]),
            columns=tuple(row["columns"]),
            references_oid=row["confrelid"],
            references=TableName(row["to_schema"], row["to_table"]),
            referenced=tuple(row["referenced"]),
            equals=tuple(row["equals"]),
            definition=row["definition"],
            comment=row["comment"],
            on_delete=row["confdeltype"],
            on_update=row["confupdtype"],
            loose=row["loose"],
        )
        for row in rows
    )


# Of a foreign key `k`: its columns, those that they refer to, and the operators by which two of them are equal.
FOREIGN_KEY_COLUMNS = """
           ARRAY(SELECT a.attname FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u (attnum, position)
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
                  ORDER BY u.position) AS columns,
           ARRAY(SELECT a.attname FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u (attnum, position)
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
                  ORDER BY u.position) AS referenced,
           ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', s.nspname, p.oprname)
                   FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY u (operator, position)
                   JOIN pg_catalog.pg_operator p ON p.oid = u.operator
                   JOIN pg_catalog.pg_namespace s ON s.oid = p.oprnamespace
                  ORDER BY u.position) AS equals
"""

_FOREIGN_KEYS = f"""
    SELECT k.conname, k.conrelid::bigint, n.nspname AS schema, c.relname AS table,
           k.confrelid::bigint, m.nspname AS to_schema, r.relname AS to_table,
           pg_catalog.pg_get_constraintdef(k.oid) AS definition,
           pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
           k.confdeltype::text, k.confupdtype::text, NOT k.convalidated AS loose,
           {FOREIGN_KEY_COLUMNS}
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = ANY ($1::oid[]) OR k.confrelid = ANY ($1::oid[]))
     ORDER BY 3, 4, 1
"""


async def read_loose_constraints(connection: Connection, oids: Sequence[int]) -> tuple[LooseConstraint, ...]:
    """Those of these tables; what a table inherits can only be taken away above it, and is left out."""
    with translated("looking at the target's constraints"):
        rows = await connection.fetch(_LOOSE, list(oids))
    return tuple(
        LooseConstraint(row["conname"], TableName(row["schema"], row["table"]), row["definition"], row["comment"])
        for row in rows
    )


_LOOSE = """
    SELECT k.conname, n.nspname AS schema, c.relname AS table,
           pg_catalog.pg_get_constraintdef(k.oid) AS definition,
           pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE k.contype IN ('c', 'n') AND NOT k.convalidated AND k.coninhcount = 0 AND k.conrelid = ANY ($1::oid[])
       AND pg_catalog.pg_get_constraintdef(k.oid) LIKE '%NOT VALID'
     ORDER BY 2, 3, 1
"""
