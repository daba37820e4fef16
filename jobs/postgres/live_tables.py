"""What a restore into an existing database must know of each table there: shape, key, triggers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg

from jobs.postgres.capture import PUBLICATION
from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, quote


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

    `filtered`: row security hides rows from this role. `line` holds its own oid and those of the partitioned tables
    above it.
    """

    oid: int
    table: TableName
    kind: str
    owned: bool
    row_security: bool
    force_row_security: bool
    filtered: bool
    columns: tuple[LiveColumn, ...]
    key: tuple[KeyColumn, ...]
    switches: tuple[Switch, ...]
    line: frozenset[int]
    publications: tuple[str, ...]
    readers: tuple[str, ...] = field(compare=False)

    @property
    def stubborn_columns(self) -> tuple[str, ...]:
        """Identities that refuse an UPDATE and may need one: not in the key, nor of a partition."""
        key = {column.name for column in self.key}
        mine = self.columns if len(self.line) == 1 else ()
        return tuple(column.name for column in mine if column.identity == "a" and column.name not in key)

    def column(self, name: str) -> LiveColumn | None:
        """A column by its name."""
        return next((column for column in self.columns if column.name == name), None)


async def read_live_tables(connection: Connection, tables: Sequence[TableName]) -> dict[TableName, LiveTable]:
    """Those of the tables that are there."""
    with translated("looking at the target's tables"):
        rows = await connection.fetch(
            _TABLES, [table.schema for table in tables], [table.name for table in tables], PUBLICATION
        )
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
            filtered=row["filtered"],
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


async def read_roots(connection: Connection, tables: Iterable[LiveTable]) -> list[LiveTable]:
    """The partitioned tables above these."""
    tables = list(tables)
    above = {oid for one in tables for oid in one.line} - {one.oid for one in tables}
    with translated("looking at partitioned tables"):
        rows = await connection.fetch(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[])",
            sorted(above),
        )
    return list((await read_live_tables(connection, [TableName(*row) for row in rows])).values())


async def read_publications(connection: Connection) -> list[str]:
    """Publications that name their tables, one by one; without Rowvault's own, of which nobody needs to know."""
    with translated("looking at publications"):
        rows = await connection.fetch(
            "SELECT pubname FROM pg_catalog.pg_publication WHERE NOT puballtables AND pubname <> $1 ORDER BY 1",
            PUBLICATION,
        )
    return [row[0] for row in rows]


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
           pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned, pg_catalog.row_security_active(c.oid) AS filtered,
           ARRAY(SELECT relid::oid::bigint FROM pg_catalog.pg_partition_ancestors(c.oid) WHERE relid <> c.oid) AS above,
           ARRAY(SELECT p.pubname FROM pg_catalog.pg_publication_tables p
                  WHERE p.schemaname = n.nspname AND p.tablename = c.relname AND p.pubname <> $3
                  ORDER BY 1) AS publications,
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
