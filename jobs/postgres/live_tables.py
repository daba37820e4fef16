"""What a restore into an existing database must know of each table there: shape, key, triggers, foreign keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """One column. `identity` is `a` (always), `d` (by default) or empty; `required`: not null, and no default."""

    name: str
    type: str
    generated: bool
    identity: str
    required: bool


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One column of a key, and the operator by which its index takes two values for equal, schema and all."""

    name: str
    equals: str

    def same(self, one: str, other: str) -> str:
        """SQL: this column is the same in two relations, given by their aliases."""
        return f"{one}.{quote(self.name)} {self.equals} {other}.{quote(self.name)}"


@dataclass(frozen=True, slots=True)
class Switch:
    """A user's trigger or rule, and when it fires: `O` origin, `D` disabled, `R` replica, `A` always."""

    kind: str
    name: str
    enabled: str

    @property
    def set_back(self) -> str:
        """The ALTER TABLE action that makes it as it was."""
        return f"{_SWITCHED[self.enabled]} {self.kind} {quote(self.name)}"


_SWITCHED = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


@dataclass(frozen=True, slots=True)
class LiveTable:
    """One table as it is now. `key` is its primary key, else a unique key without NULLs, else empty.

    `line` holds its own oid and those of the partitioned tables above it.
    """

    oid: int
    table: TableName
    kind: str
    owned: bool
    row_security: bool
    force_row_security: bool
    columns: tuple[LiveColumn, ...]
    key: tuple[KeyColumn, ...]
    switches: tuple[Switch, ...]
    line: frozenset[int]
    publications: tuple[str, ...]
    readers: tuple[str, ...] = field(compare=False)

    def column(self, name: str) -> LiveColumn | None:
        """A column by its name."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class LiveForeignKey:
    """A foreign key that comes from or points to one of the tables in question.

    `on_delete` and `on_update` are pg_constraint's letters: a and r refuse, c, n and d change the child.
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

    def __str__(self) -> str:
        return f"foreign key {quote(self.name)} of {self.table}"

    def parent_of(self, child: str, parent: str) -> str:
        """SQL: of two relations, given by their aliases, the one is a child of the other by this key."""
        columns = zip(self.referenced, self.equals, self.columns, strict=True)
        return " AND ".join(
            f"{parent}.{quote(column)} {equals} {child}.{quote(of_child)}" for column, equals, of_child in columns
        )

    @property
    def drop(self) -> str:
        """SQL that takes it away."""
        return f"ALTER TABLE {qualified(self.table)} DROP CONSTRAINT {quote(self.name)}"

    @property
    def add(self) -> str:
        """SQL that adds it again, which proves it, but for one that is NOT VALID."""
        return f"ALTER TABLE {qualified(self.table)} ADD CONSTRAINT {quote(self.name)} {self.definition}"


async def read_live_tables(connection: Connection, tables: Sequence[TableName]) -> dict[TableName, LiveTable]:
    """Those of the tables that are there."""
    with translated("looking at the target's tables"):
        rows = await connection.fetch(_TABLES, [table.schema for table in tables], [table.name for table in tables])
        oids = [row["oid"] for row in rows]
        columns = _grouped(await connection.fetch(_COLUMNS, oids))
        keys = _grouped(await connection.fetch(_KEYS, oids))
        switches = _grouped(await connection.fetch(_SWITCHES, oids))
    return {
        TableName(row["nspname"], row["relname"]): LiveTable(
            oid=row["oid"],
            table=TableName(row["nspname"], row["relname"]),
            kind=row["relkind"],
            owned=row["owned"],
            row_security=row["relrowsecurity"],
            force_row_security=row["relforcerowsecurity"],
            columns=tuple(
                LiveColumn(c["attname"], c["type"], c["generated"], c["identity"], c["required"])
                for c in columns.get(row["oid"], [])
            ),
            key=_best_key(keys.get(row["oid"], [])),
            switches=tuple(Switch(s["kind"], s["name"], s["enabled"]) for s in switches.get(row["oid"], [])),
            line=frozenset([row["oid"], *row["above"]]),
            publications=tuple(row["publications"]),
            readers=tuple(row["readers"]),
        )
        for row in rows
    }


def _grouped(rows: Sequence[asyncpg.Record]) -> dict[int, list[asyncpg.Record]]:
    groups: dict[int, list[asyncpg.Record]] = {}
    for row in rows:
        groups.setdefault(row["relid"], []).append(row)
    return groups


def _best_key(rows: Sequence[asyncpg.Record]) -> tuple[KeyColumn, ...]:
    """The primary key, else the first unique one whose columns are NOT NULL. `rows` hold the primary one first."""
    for row in rows:
        if row["primary"] or row["not_null"]:
            return tuple(KeyColumn(name, equals) for name, equals in zip(row["columns"], row["equals"], strict=True))
    return ()


_TABLES = """
    SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity,
           pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned,
           ARRAY(SELECT relid::oid::bigint FROM pg_catalog.pg_partition_ancestors(c.oid) WHERE relid <> c.oid) AS above,
           ARRAY(SELECT p.pubname FROM pg_catalog.pg_publication_tables p
                  WHERE p.schemaname = n.nspname AND p.tablename = c.relname ORDER BY 1) AS publications,
           ARRAY(SELECT DISTINCT v.oid::pg_catalog.regclass::text FROM pg_catalog.pg_depend d
                   JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
                  WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refobjid = c.oid
                    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND v.oid <> c.oid
                  ORDER BY 1) AS readers
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted (schema, name)
        ON n.nspname = wanted.schema AND c.relname = wanted.name
"""

_COLUMNS = """
    SELECT attrelid::bigint AS relid, attname, pg_catalog.format_type(atttypid, atttypmod) AS type,
           attgenerated <> '' AS generated, attidentity::text AS identity,
           attnotnull AND NOT atthasdef AND attidentity = '' AS required
      FROM pg_catalog.pg_attribute
     WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum
"""

# A unique index finds equals by strategy 3 of its B-tree operator class, which need not be pg_catalog's `=`.
# https://www.postgresql.org/docs/current/xindex.html#XINDEX-STRATEGIES
_KEYS = """
    SELECT i.indrelid::bigint AS relid, i.indisprimary AS primary, pg_catalog.bool_and(a.attnotnull) AS not_null,
           pg_catalog.array_agg(a.attname ORDER BY k.position) AS columns,
           pg_catalog.array_agg(pg_catalog.format('OPERATOR(%I.%s)', s.nspname, p.oprname)
                                ORDER BY k.position) AS equals
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
      JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree',
           ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]))
               WITH ORDINALITY AS k (attnum, opclass, position)
      JOIN pg_catalog.pg_opclass c ON c.oid = k.opclass
      JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 3
       AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
      JOIN pg_catalog.pg_operator p ON p.oid = o.amopopr JOIN pg_catalog.pg_namespace s ON s.oid = p.oprnamespace,
           LATERAL (SELECT attname, attnotnull FROM pg_catalog.pg_attribute
                     WHERE attrelid = i.indrelid AND attnum = k.attnum) a
     WHERE i.indrelid = ANY ($1::oid[]) AND i.indisunique AND i.indimmediate AND i.indisvalid
       AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts
     GROUP BY i.indrelid, i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC, i.indexrelid
"""

_SWITCHES = """
    SELECT tgrelid::bigint AS relid, 'TRIGGER' AS kind, tgname AS name, tgenabled::text AS enabled
      FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY ($1::oid[])
     UNION ALL
    SELECT ev_class::bigint, 'RULE', rulename, ev_enabled::text
      FROM pg_catalog.pg_rewrite WHERE ev_type <> '1' AND ev_class = ANY ($1::oid[])
     ORDER BY 1, 2, 3
"""


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
        )
        for row in rows
    )


_FOREIGN_KEYS = """
    SELECT k.conname, k.conrelid::bigint, n.nspname AS schema, c.relname AS table,
           k.confrelid::bigint, m.nspname AS to_schema, r.relname AS to_table,
           pg_catalog.pg_get_constraintdef(k.oid) AS definition,
           pg_catalog.obj_description(k.oid, 'pg_constraint') AS comment,
           k.confdeltype::text, k.confupdtype::text,
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
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = ANY ($1::oid[]) OR k.confrelid = ANY ($1::oid[]))
     ORDER BY 3, 4, 1
"""


@dataclass(frozen=True, slots=True)
class OwnedSequence:
    """A sequence that gives values to a column, and where it stands. `increment` may be negative."""

    sequence: TableName
    table: TableName
    column: str
    last_value: int
    is_called: bool
    increment: int


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
                )
            )
    return tuple(found)


_SEQUENCES = """
    SELECT DISTINCT n.nspname AS schema, s.relname AS name, m.nspname AS table_schema, t.relname AS table, a.attname,
           q.seqincrement
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
