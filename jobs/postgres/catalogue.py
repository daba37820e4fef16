"""What the database holds, read from its system catalogue: https://www.postgresql.org/docs/current/catalogs.html"""

from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import NoSuchTable
from jobs.postgres.identifiers import Pattern, TableName, qualified

OWN_SCHEMA = "rowvault"

USER_SCHEMA = f"""
    n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '{OWN_SCHEMA}')
"""

_RELATIONS = f"""
    SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relrowsecurity,
           (SELECT i.inhparent::bigint FROM pg_catalog.pg_inherits i
             WHERE i.inhrelid = c.oid AND c.relispartition) AS partition_of,
           EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                   AND d.objid = c.oid AND d.deptype = 'e') AS of_extension,
           EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p
                     JOIN pg_catalog.pg_opclass o ON o.oid = ANY (p.partclass)
                    WHERE p.partrelid = c.oid AND p.partstrat = 'h' AND o.opcname = 'enum_ops') AS hashes_oids
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' AND {USER_SCHEMA}
     ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation of a user's schema. `kind` is pg_class.relkind; `partition_of` the parent's oid.

    `hashes_oids`: it is partitioned by the hash of an enum, which is that of an oid, so rows lie elsewhere in a copy.
    """

    oid: int
    table: TableName
    kind: str
    unlogged: bool
    row_security: bool
    partition_of: int | None
    of_extension: bool
    hashes_oids: bool = False

    @property
    def has_rows(self) -> bool:
        """Whether rows rest in the relation itself."""
        return self.kind == "r"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tables a person wants. No `tables` means every ordinary and partitioned table of `public`."""

    tables: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a selection comes to: tables with rows to copy, and tables that were excluded by name."""

    relations: tuple[Relation, ...]
    excluded: tuple[Relation, ...]


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """One column as the data needs it."""

    name: str
    type: str
    generated: bool
    identity: bool


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table's columns in order, its primary key, and its size with what is TOASTed.

    `pages` is None where rows cannot be found by page.
    """

    columns: tuple[ColumnShape, ...]
    primary_key: tuple[str, ...]
    pages: int | None
    total_bytes: int

    @property
    def copied_columns(self) -> tuple[str, ...]:
        """The columns that are in the data: generated ones are not."""
        return tuple(column.name for column in self.columns if not column.generated)

    @property
    def copied_key(self) -> tuple[str, ...]:
        """The primary key, if the data tells its rows apart by it: not if a generated column is in it."""
        return self.primary_key if set(self.primary_key) <= set(self.copied_columns) else ()


async def read_relations(connection: Connection) -> tuple[Relation, ...]:
    """Every relation of every user schema; touches no relation's lock."""
    rows = await connection.fetch(_RELATIONS)
    return tuple(
        Relation(
            oid=row["oid"],
            table=TableName(row["nspname"], row["relname"]),
            kind=row["relkind"],
            unlogged=row["relpersistence"] == "u",
            row_security=row["relrowsecurity"],
            partition_of=row["partition_of"],
            of_extension=row["of_extension"],
            hashes_oids=row["hashes_oids"],
        )
        for row in rows
    )


def choose(relations: tuple[Relation, ...], selection: Selection) -> Chosen:
    """Apply the patterns. A partitioned table stands for its leaves, wherever they are. Raises `NoSuchTable`."""
    by_oid = {relation.oid: relation for relation in relations}
    candidates = [relation for relation in relations if relation.kind in "rp" and not relation.of_extension]
    for pattern in selection.tables:
        if not any(pattern.matches(relation.table) for relation in candidates):
            raise NoSuchTable(
                f"the pattern {pattern.text} in ROWVAULT_TABLES matches no table",
                "names are case-sensitive; write SCHEMA.TABLE, with double quotes around odd characters",
            )
    lines = [ancestry(relation, by_oid) for relation in candidates]
    wanted = [line for line in lines if _wanted(line, selection)]
    excluded = [line[0] for line in wanted if _excluded(line, selection)]
    kept = [line[0] for line in wanted if not _excluded(line, selection)]
    if not kept:
        raise NoSuchTable("there is no table to back up", "set ROWVAULT_TABLES to patterns such as public.*, app.*")
    return Chosen(tuple(relation for relation in kept if relation.has_rows), tuple(excluded))


def ancestry(relation: Relation, by_oid: dict[int, Relation]) -> list[Relation]:
    """The relation, and the partitioned tables above it, the topmost last."""
    line = [relation]
    while line[-1].partition_of is not None:
        line.append(by_oid[line[-1].partition_of])
    return line


def _wanted(line: list[Relation], selection: Selection) -> bool:
    if not selection.tables:
        return any(relation.table.schema == "public" for relation in line)
    return any(pattern.matches(relation.table) for pattern in selection.tables for relation in line)


def _excluded(line: list[Relation], selection: Selection) -> bool:
    return any(pattern.matches(relation.table) for pattern in selection.exclude for relation in line)


async def read_shapes(connection: Connection, oids: list[int]) -> dict[int, TableShape]:
    """Columns and sizes of tables that are locked already (sizes would wait for a lock otherwise)."""
    columns: dict[int, dict[int, ColumnShape]] = {oid: {} for oid in oids}
    for row in await connection.fetch(_COLUMNS, oids):
        column = ColumnShape(row["attname"], row["type"], row["generated"], row["identity"])
        columns[row["attrelid"]][row["attnum"]] = column
    shapes = {}
    for row in await connection.fetch(_KEYS_AND_SIZES, oids):
        own = columns[row["oid"]]
        key = tuple(own[attnum].name for attnum in row["primary_key"] or ())
        shapes[row["oid"]] = TableShape(tuple(own.values()), key, row["pages"], row["total"])
    return shapes


_COLUMNS = """
    SELECT attrelid::bigint, attnum, attname, pg_catalog.format_type(atttypid, atttypmod) AS type,
           attgenerated <> '' AS generated, attidentity <> '' AS identity
      FROM pg_catalog.pg_attribute
     WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum
"""

# Not pg_table_size: it opens the index of each TOAST table too, which takes longer than all the rest.
_KEYS_AND_SIZES = """
    SELECT c.oid::bigint, pg_catalog.pg_relation_size(c.oid)
           + CASE WHEN c.reltoastrelid <> 0 THEN pg_catalog.pg_relation_size(c.reltoastrelid) ELSE 0 END AS total,
           CASE WHEN a.amname = 'heap' THEN pg_catalog.pg_relation_size(c.oid)
                / pg_catalog.current_setting('block_size')::int END AS pages,
           (i.indkey::int2[])[0:i.indnkeyatts - 1] AS primary_key
      FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
      LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
     WHERE c.oid = ANY ($1::oid[])
"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key between two tables, by their oids."""

    table: int
    references: int
    name: str
    table_name: TableName
    references_name: TableName


async def read_foreign_keys(connection: Connection) -> tuple[ForeignKey, ...]:
    """Every foreign key of a user's table; those that partitions inherit are left to their parents."""
    rows = await connection.fetch(
        """
        SELECT k.conrelid::bigint, k.confrelid::bigint, k.conname, n.nspname, c.relname,
               m.nspname AS to_schema, r.relname AS to_table
          FROM pg_catalog.pg_constraint k
          JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0
        """
    )
    return tuple(
        ForeignKey(
            row["conrelid"],
            row["confrelid"],
            row["conname"],
            TableName(row["nspname"], row["relname"]),
            TableName(row["to_schema"], row["to_table"]),
        )
        for row in rows
    )


@dataclass(frozen=True, slots=True)
class SequenceState:
    """Where a sequence stands."""

    table: TableName
    last_value: int
    is_called: bool


async def read_sequences(connection: Connection, names: list[TableName]) -> tuple[SequenceState, ...]:
    """Read sequences, a hundred a query. They are not transactional: after a snapshot it is never too early."""
    states = []
    for start in range(0, len(names), 100):
        batch = names[start : start + 100]
        query = " UNION ALL ".join(
            f"SELECT {index} AS i, last_value, is_called FROM {qualified(name)}" for index, name in enumerate(batch)
        )
        rows = await connection.fetch(query)
        states += [SequenceState(batch[row["i"]], row["last_value"], row["is_called"]) for row in rows]
    return tuple(states)


async def count_large_objects(connection: Connection) -> int:
    """Large objects live outside tables and are not backed up."""
    count: int = await connection.fetchval("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata")
    return count


async def read_schemas(connection: Connection) -> tuple[str, ...]:
    """Every user schema, whatever is in it, but for those that extensions made, and `public` if it is empty."""
    rows = await connection.fetch(_SCHEMAS)
    return tuple(row["nspname"] for row in rows)


_SCHEMAS = f"""
    SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA}
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_namespace'::regclass
                       AND d.objid = n.oid AND d.deptype = 'e')
       AND (n.nspname <> 'public' OR EXISTS (
           SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass
              AND d.refobjid = n.oid AND d.deptype = 'n' AND d.classid <> 'pg_catalog.pg_extension'::regclass
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                               WHERE (e.classid, e.objid) = (d.classid, d.objid) AND e.deptype = 'e')))
     ORDER BY n.nspname
"""


@dataclass(frozen=True, slots=True)
class Extension:
    """An installed extension."""

    name: str
    version: str
    schema: str


async def read_extensions(connection: Connection) -> tuple[Extension, ...]:
    """Every extension but plpgsql, which every database has."""
    rows = await connection.fetch(
        """
        SELECT e.extname, e.extversion, n.nspname FROM pg_catalog.pg_extension e
          JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 1
        """
    )
    return tuple(Extension(row["extname"], row["extversion"], row["nspname"]) for row in rows)
