"""What change capture from WAL needs of the server, of the role, of each table. Reads the catalogue alone."""

from collections.abc import Collection
from dataclasses import dataclass

from jobs.postgres.capture import PUBLICATION
from jobs.postgres.catalogue import OWN_SCHEMA
from jobs.postgres.connection import Connection
from jobs.postgres.errors import CannotCapture, translated
from jobs.postgres.identifiers import TableName, quote


async def require_capture(connection: Connection) -> None:
    """Raise `CannotCapture`, with what to do, unless this server and role allow change capture from WAL."""
    for obstacle in await read_obstacles(connection):
        raise obstacle


async def refuse_standby(connection: Connection) -> None:
    """Raise `CannotCapture` on a standby: its snapshots leave out transactions that are running."""
    with translated("looking whether the server is a standby"):
        if await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()"):
            raise _standby()


def _standby() -> CannotCapture:
    return CannotCapture("the server is a standby", "let ROWVAULT_DATABASE_URL name the primary")


async def read_obstacles(connection: Connection) -> list[CannotCapture]:
    """Everything that keeps this server, or this role, from change capture, each with what to do about it."""
    with translated("looking at what change capture needs"):
        row = await connection.fetchrow(
            """
            SELECT pg_catalog.current_setting('wal_level') AS wal_level, pg_catalog.pg_is_in_recovery() AS standby,
                   r.rolreplication OR r.rolsuper AS replication, current_user::text AS role,
                   pg_catalog.current_database() AS database,
                   pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create
              FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
            """
        )
    role, database = row["role"], row["database"]
    if row["standby"]:
        return [_standby()]
    obstacles = []
    if row["wal_level"] != "logical":
        hint = "as superuser: ALTER SYSTEM SET wal_level = logical; then restart the server"
        obstacles.append(CannotCapture(f"wal_level is {row['wal_level']}", hint))
    if not row["replication"]:
        hint = f"as superuser: ALTER ROLE {quote(role)} REPLICATION;"
        obstacles.append(CannotCapture(f"role {role} has no REPLICATION", hint))
    if not row["may_create"]:
        hint = f"as its owner: GRANT CREATE ON DATABASE {quote(database)} TO {quote(role)};"
        obstacles.append(CannotCapture(f"role {role} may not create a publication in {database}", hint))
    return obstacles


async def read_left_by_another(connection: Connection) -> list[str]:
    """What of Rowvault's own another role made, so that this one cannot begin anew: as `ALTER` names it."""
    with translated("looking at who made what capture needs"):
        rows = await connection.fetch(_LEFT_BY_ANOTHER, PUBLICATION, OWN_SCHEMA)
    return [row["what"] for row in rows]


_LEFT_BY_ANOTHER = """
    SELECT 'PUBLICATION ' || p.pubname AS what FROM pg_catalog.pg_publication p
     WHERE p.pubname = $1 AND NOT pg_catalog.pg_has_role(p.pubowner, 'USAGE')
     UNION ALL
    SELECT 'SCHEMA ' || n.nspname FROM pg_catalog.pg_namespace n
     WHERE n.nspname = $2 AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                               AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'))
     UNION ALL
    SELECT 'TABLE ' || n.nspname || '.' || c.relname
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $2 AND c.relname = 'capture'
       AND NOT (pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
            AND pg_catalog.has_table_privilege(c.oid, 'DELETE'))
"""


@dataclass(frozen=True, slots=True)
class Stranger:
    """An owner with whose rights this role does not act, so that it cannot publish these tables."""

    owner: str
    superuser: bool
    tables: tuple[TableName, ...]


async def read_strangers(connection: Connection, oids: Collection[int]) -> list[Stranger]:
    """Who owns those of the tables that the role may not publish.

    https://www.postgresql.org/docs/current/sql-createpublication.html#SQL-CREATEPUBLICATION-NOTES
    """
    with translated("looking at who owns the tables"):
        rows = await connection.fetch(
            """
            SELECT o.rolname AS owner, o.rolsuper AS superuser,
                   pg_catalog.array_agg(n.nspname ORDER BY n.nspname, c.relname) AS schemas,
                   pg_catalog.array_agg(c.relname ORDER BY n.nspname, c.relname) AS tables
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
             WHERE c.oid = ANY ($1::oid[]) AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
             GROUP BY o.rolname, o.rolsuper ORDER BY o.rolname
            """,
            list(oids),
        )
    return [
        Stranger(row["owner"], row["superuser"], tuple(map(TableName, row["schemas"], row["tables"]))) for row in rows
    ]


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """How many replication slots there may be and are; `unlimited`: the server never limits what one holds back."""

    most: int
    taken: int
    unlimited: bool


async def read_slot_limits(connection: Connection) -> SlotLimits:
    """What the server's settings say of replication slots."""
    with translated("looking at the replication slots"):
        row = await connection.fetchrow(
            """
            SELECT pg_catalog.current_setting('max_replication_slots')::int AS most,
                   (SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_replication_slots) AS taken,
                   pg_catalog.current_setting('max_slot_wal_keep_size') = '-1' AS unlimited
            """
        )
    return SlotLimits(row["most"], row["taken"], row["unlimited"])


@dataclass(frozen=True, slots=True)
class Remedy:
    """What could let a table into the change log: `index` is one that may be its replica identity, if there is one."""

    unlogged: bool
    has_primary_key: bool
    index: str | None
    index_is_primary: bool


async def read_remedies(connection: Connection, oids: Collection[int]) -> dict[int, Remedy]:
    """What each table has that could tell its rows apart in the log; a primary key goes before other indexes.

    https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-REPLICA-IDENTITY
    """
    with translated("looking for keys"):
        rows = await connection.fetch(_REMEDIES, list(oids))
    return {
        row["oid"]: Remedy(row["unlogged"], row["has_primary_key"], row["index"], bool(row["index_is_primary"]))
        for row in rows
    }


_REMEDIES = """
    SELECT c.oid::bigint, c.relpersistence = 'u' AS unlogged, fit.index, fit.indisprimary AS index_is_primary,
           EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_primary_key
      FROM pg_catalog.pg_class c LEFT JOIN LATERAL (
        SELECT x.relname AS index, i.indisprimary
          FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indisready AND i.indislive
           AND i.indpred IS NULL AND i.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
                              AND (NOT a.attnotnull OR a.attgenerated <> ''))
         ORDER BY i.indisprimary DESC, x.relname LIMIT 1) fit ON true
     WHERE c.oid = ANY ($1::oid[])
"""
