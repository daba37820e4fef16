"""What `doctor` asks a database: facts about the session, the server and the role's rights. Changes and locks nothing.

Rights are asked of the server itself, by the functions of https://www.postgresql.org/docs/current/functions-info.html
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from jobs.postgres.catalogue import OWN_SCHEMA, Chosen, Relation
from jobs.postgres.connection import Connection, Source
from jobs.postgres.errors import translated

_CLOCK_ROUNDS = 3
_LOCK_TIMEOUT = "2s"

# Loopback, or a folder with a Unix socket; no host means these too.
_LOCAL = re.compile(r"(|localhost|127(\.\d+){3}|\[?::1\]?)(:\d+)?|(/|%2F).*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Route:
    """How the DSN leads to the server: `local` never leaves this machine, `sslmode` is libpq's."""

    local: bool
    sslmode: str


def route_of(source: Source) -> Route:
    """Read from the DSN alone. https://www.postgresql.org/docs/current/libpq-ssl.html"""
    parts = urlsplit(source.dsn)
    query = dict(parse_qsl(parts.query))
    hosts = (query.get("host") or parts.netloc.rpartition("@")[2]).split(",")
    return Route(all(_LOCAL.fullmatch(host) for host in hosts), query.get("sslmode", "prefer"))


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """One session. `pooled`: a pooler lies between, and `tls` (the protocol, or None) is of its way, not of ours."""

    role: str
    superuser: bool
    standby: bool
    tls: str | None
    pooled: bool


async def read_session(connection: Connection) -> SessionFacts:
    """Who we are to the server, and by which way."""
    with translated("looking at the session"):
        row = await connection.fetchrow(
            """
            SELECT current_user AS role, pg_catalog.pg_is_in_recovery() AS standby,
                   (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser,
                   (SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid() AND ssl) AS tls,
                   pg_catalog.pg_backend_pid() AS pid
            """
        )
    # A pooler has process ids of its own.
    pooled = row["pid"] != connection.get_server_pid()
    return SessionFacts(row["role"], row["superuser"], row["standby"], row["tls"], pooled)


async def read_clock_difference(connection: Connection) -> float:
    """Seconds by which the server's clock is ahead of ours: the best of some rounds, half a round trip taken off."""
    best = (float("inf"), 0.0)
    with translated("comparing the clocks"):
        for _ in range(_CLOCK_ROUNDS):
            asked, started = datetime.now(UTC), time.monotonic()
            theirs: datetime = await connection.fetchval("SELECT pg_catalog.clock_timestamp()")
            round_trip = time.monotonic() - started
            best = min(best, (round_trip, (theirs - asked).total_seconds() - round_trip / 2))
    return best[1]


@dataclass(frozen=True, slots=True)
class Room:
    """How many more sessions the server would take, and which limit says so."""

    sessions: int
    limit: str


async def read_room(connection: Connection) -> Room:
    """Room for sessions beside our own: of the server, the database and the role, the least."""
    with translated("counting connections"):
        row = await connection.fetchrow(
            """
            SELECT pg_catalog.current_setting('max_connections')::int
                     - pg_catalog.current_setting('superuser_reserved_connections')::int
                     - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0)
                     - (SELECT pg_catalog.sum(numbackends)::int FROM pg_catalog.pg_stat_database) + 1 AS server,
                   nullif(datconnlimit, -1) + 1
                     - pg_catalog.pg_stat_get_db_numbackends(d.oid) AS database,
                   (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user) + 1
                     - (SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_stat_activity WHERE usename = current_user)
                     AS role
              FROM pg_catalog.pg_database d WHERE datname = pg_catalog.current_database()
            """
        )
    limits = {
        "max_connections of the server": row["server"],
        "the CONNECTION LIMIT of the database": row["database"],
        "the CONNECTION LIMIT of the role": row["role"],
    }
    sessions, limit = min((room, name) for name, room in limits.items() if room is not None)
    return Room(sessions, limit)


@dataclass(frozen=True, slots=True)
class OwnSchema:
    """Rowvault's own schema: whether it and its table are there, and whether the role may write a token, or read it."""

    exists: bool
    has_table: bool
    usable: bool


async def read_own_schema(connection: Connection) -> OwnSchema:
    """Whether the lineage token can be read or, if there is none yet, written."""
    with translated("looking at Rowvault's own schema"):
        row = await connection.fetchrow(
            """
            SELECT n.oid IS NOT NULL AS exists, c.oid IS NOT NULL AS has_table,
                   CASE WHEN c.oid IS NOT NULL
                        THEN pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                         AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
                        WHEN n.oid IS NOT NULL
                        THEN pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                         AND pg_catalog.has_schema_privilege(n.oid, 'CREATE')
                        ELSE pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') END AS usable
              FROM (VALUES ($1::text)) v (own) LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = v.own
                   LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'lineage'
            """,
            OWN_SCHEMA,
        )
    return OwnSchema(row["exists"], row["has_table"], row["usable"])


async def schemas_not_usable(connection: Connection, schemas: Iterable[str]) -> list[str]:
    """Those of the schemas on which the role has no USAGE."""
    with translated("looking at the rights on schemas"):
        rows = await connection.fetch(
            """
            SELECT nspname FROM pg_catalog.pg_namespace
             WHERE nspname = ANY ($1::text[]) AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE') ORDER BY 1
            """,
            list(schemas),
        )
    return [row["nspname"] for row in rows]


async def not_selectable(connection: Connection, relations: Iterable[Relation]) -> list[Relation]:
    """Those of the tables and sequences that the role may not SELECT from."""
    by_oid = {relation.oid: relation for relation in relations}
    with translated("looking at the rights on tables"):
        # LOCK TABLE and COPY want the right on the whole table, so rights on all its columns will not do.
        rows = await connection.fetch(
            """
            SELECT oid::bigint FROM pg_catalog.unnest($1::oid[]) oid
             WHERE NOT pg_catalog.has_table_privilege(oid, 'SELECT')
            """,
            list(by_oid),
        )
    return [by_oid[row["oid"]] for row in rows]


@dataclass(frozen=True, slots=True)
class Filtered:
    """A table of which row security would show the role only some rows; `forced` binds its owner too."""

    relation: Relation
    owner: str
    forced: bool


async def filtered_tables(connection: Connection, chosen: Chosen) -> list[Filtered]:
    """Chosen tables that row security filters for this role.

    https://www.postgresql.org/docs/current/ddl-rowsecurity.html
    """
    by_oid = {relation.oid: relation for relation in chosen.relations}
    with translated("looking at row security"):
        rows = await connection.fetch(
            """
            SELECT oid::bigint, pg_catalog.pg_get_userbyid(relowner) AS owner, relforcerowsecurity AS forced
              FROM pg_catalog.pg_class WHERE oid = ANY ($1::oid[]) AND pg_catalog.row_security_active(oid)
             ORDER BY relname
            """,
            list(by_oid),
        )
    return [Filtered(by_oid[row["oid"]], row["owner"], row["forced"]) for row in rows]


async def read_total_bytes(connection: Connection, chosen: Chosen) -> int:
    """Bytes that the chosen tables take on the server, TOAST included; raises `Contended` where one is locked."""
    oids = [relation.oid for relation in chosen.relations]
    with translated("measuring the tables"):
        async with connection.transaction():
            # Measuring waits for whoever rewrites the table.
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            total: int = await connection.fetchval(
                "SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(oid)), 0)::bigint"
                " FROM pg_catalog.unnest($1::oid[]) oid",
                oids,
            )
    return total
