"""Who the source is: which system, which timeline, and a token of Rowvault's own that only this lineage carries.

A database that was restored, failed over or cloned may have the system identifier of another; the token tells them
apart.
"""

import secrets
from dataclasses import dataclass

import asyncpg

from jobs.postgres.catalogue import OWN_SCHEMA
from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated


@dataclass(frozen=True, slots=True)
class Lineage:
    """What identifies the source. `token` is None where the role may not write it."""

    system_identifier: str
    timeline: int
    database: str
    server_version: str
    server_version_num: int
    encoding: str
    token: str | None

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.server_version_num // 10_000


async def read_lineage(connection: Connection, *, may_write: bool = True) -> Lineage:
    """Read who the source is, writing the token first if there is none yet and `may_write`."""
    with translated("reading the server's identity"):
        row = await connection.fetchrow(
            """
            SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
                   (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline,
                   pg_catalog.current_database() AS database,
                   pg_catalog.current_setting('server_version') AS server_version,
                   pg_catalog.current_setting('server_version_num')::int AS server_version_num,
                   pg_catalog.pg_encoding_to_char(encoding) AS encoding
              FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
            """
        )
    with translated("reading Rowvault's token"):
        token = await _read_token(connection)
        if token is None and may_write:
            token = await _write_token(connection)
    return Lineage(token=token, **dict(row))


async def _read_token(connection: Connection) -> str | None:
    try:
        token: str | None = await connection.fetchval(f"SELECT token FROM {OWN_SCHEMA}.lineage")
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        return None
    return token


async def _write_token(connection: Connection) -> str | None:
    token = secrets.token_hex(16)
    try:
        async with connection.transaction():
            await make_own_schema(connection)
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {OWN_SCHEMA}.lineage (token text PRIMARY KEY);"
                f"INSERT INTO {OWN_SCHEMA}.lineage SELECT '{token}' WHERE NOT EXISTS (SELECT FROM {OWN_SCHEMA}.lineage)"
            )
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError):
        return None
    return token


async def make_own_schema(connection: Connection) -> None:
    """Make the one schema that Rowvault writes to, unless it is there; raises what asyncpg raises."""
    # CREATE SCHEMA IF NOT EXISTS asks for CREATE on the database even where the schema is there.
    if await connection.fetchval("SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1", OWN_SCHEMA):
        return
    await connection.execute(
        f"CREATE SCHEMA {OWN_SCHEMA};"
        f"COMMENT ON SCHEMA {OWN_SCHEMA} IS 'Rowvault''s own; nothing of the application belongs here'"
    )
