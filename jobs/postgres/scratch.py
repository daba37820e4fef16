"""Scratch databases on a server that was given: made, dropped, and swept where a killed drill left one.

A drill keeps a session in its database for as long as it lives, so the server itself says which are abandoned. Roles
that a drill had to make carry a comment that names its database.
"""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import asyncpg

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import quote

PREFIX = "rowvault_drill_"
_STAMP = "%Y%m%d%H%M%S"
# Between its making and its first session a database looks abandoned.
_GRACE = timedelta(minutes=1)
_MADE_FOR = "made by rowvault drill for "


def new_name() -> str:
    """A name that says when it was made and that nobody else chooses."""
    return f"{PREFIX}{datetime.now(UTC).strftime(_STAMP)}_{secrets.token_hex(4)}"


async def create_database(connection: Connection, name: str, most_sessions: int) -> None:
    """An empty database that nobody but its owner and superusers may enter."""
    with translated("making a scratch database"):
        await connection.execute(
            f"CREATE DATABASE {quote(name)} TEMPLATE template0 ENCODING 'UTF8' CONNECTION LIMIT {most_sessions}"
        )
        await connection.execute(f"REVOKE ALL ON DATABASE {quote(name)} FROM PUBLIC")


async def drop_database(connection: Connection, name: str) -> None:
    """Drop a scratch database, whoever is in it, and the roles that were made for it."""
    with translated("dropping the scratch database"):
        await connection.execute(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")
    await _drop_roles(connection)


async def sweep_databases(connection: Connection) -> list[str]:
    """Drop what killed drills left: our role's scratch databases in which nobody is, and their roles; their names."""
    swept = []
    with translated("sweeping what killed drills left"):
        for row in await connection.fetch(_ABANDONED, f"{PREFIX}%"):
            if _is_new(row["datname"]):
                continue
            try:
                await connection.execute(f"DROP DATABASE IF EXISTS {quote(row['datname'])}")
                swept.append(row["datname"])
            except asyncpg.ObjectInUseError:
                continue  # somebody has come
    await _drop_roles(connection)
    return swept


_ABANDONED = """
    SELECT datname FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba
     WHERE datname LIKE $1 AND r.rolname = current_user
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)
"""


def _is_new(name: str) -> bool:
    stamp = name.removeprefix(PREFIX).partition("_")[0]
    try:
        made = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return True  # none of ours
    return datetime.now(UTC) < made + _GRACE


async def make_roles(connection: Connection, names: Iterable[str], database: str) -> list[str]:
    """Make those roles that the server lacks, so that nobody can log in as one; return which.

    Whoever is no superuser becomes a member of each, for he could not give them anything otherwise.
    """
    made = []
    with translated("making roles for the scratch database"):
        there = {row[0] for row in await connection.fetch("SELECT rolname FROM pg_catalog.pg_roles")}
        superuser = await is_superuser(connection)
        for name in sorted(set(names) - there):
            comment = await connection.fetchval("SELECT pg_catalog.quote_literal($1::text)", f"{_MADE_FOR}{database}")
            async with connection.transaction():
                await connection.execute(f"CREATE ROLE {quote(name)} NOLOGIN")
                await connection.execute(f"COMMENT ON ROLE {quote(name)} IS {comment}")
                if not superuser:
                    await connection.execute(f"GRANT {quote(name)} TO CURRENT_USER")
            made.append(name)
    return made


async def is_superuser(connection: Connection) -> bool:
    """Whether the session's role is one."""
    answer: bool = await connection.fetchval("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
    return answer


async def _drop_roles(connection: Connection) -> None:
    """Drop roles that drills made whose database is gone. One that another drill uses meanwhile waits for the next."""
    with translated("dropping the roles of scratch databases"):
        for row in await connection.fetch(_ROLES, _MADE_FOR):
            try:
                await connection.execute(f"DROP ROLE IF EXISTS {quote(row['rolname'])}")
            except (asyncpg.DependentObjectsStillExistError, asyncpg.InsufficientPrivilegeError):
                continue


_ROLES = """
    SELECT r.rolname FROM pg_catalog.pg_roles r
      JOIN pg_catalog.pg_shdescription s ON s.objoid = r.oid AND s.classoid = 'pg_catalog.pg_authid'::regclass
     WHERE pg_catalog.starts_with(s.description, $1) AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_database d WHERE $1 || d.datname = s.description)
"""
