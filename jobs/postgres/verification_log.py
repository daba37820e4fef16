"""The verification log in the source database: a row for each table of each backup, and the heads of the audit trail.

Both are in Rowvault's own schema, which no backup holds and no restore touches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from jobs.postgres.catalogue import OWN_SCHEMA
from jobs.postgres.connection import Connection, Source
from jobs.postgres.errors import MissingPrivilege, translated
from jobs.postgres.lineage import make_own_schema
from jobs.postgres.pooling import unpooled_session

LOG = f"{OWN_SCHEMA}.backup_verification_log"
HEADS = f"{OWN_SCHEMA}.trail_head"

_TABLES = f"""
    CREATE TABLE IF NOT EXISTS {LOG} (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        backup_date timestamptz NOT NULL,
        table_name text,
        verification_status text NOT NULL,
        row_count bigint,
        size_bytes bigint,
        checksum text,
        verified_at timestamptz NOT NULL,
        error_message text,
        backup_id text
    );
    COMMENT ON TABLE {LOG} IS 'One row for each table of each backup; a row without a table is about a whole job';
    CREATE TABLE IF NOT EXISTS {HEADS} (
        sha256 text PRIMARY KEY,
        number bigint NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT pg_catalog.now()
    );
    COMMENT ON TABLE {HEADS} IS 'What the newest entry of the audit trail was; rowvault trail --verify wants them all';
"""

# Two commands at once would both find no table, and one of them fail: "rowv", "log1" in ASCII.
_ONE_AT_A_TIME = "SELECT pg_catalog.pg_advisory_xact_lock(1919907702, 1819240241)"


@dataclass(frozen=True, slots=True)
class LogRow:
    """What verifying one table came to; `table` is None where it is about a whole job.

    `checksum` is the SHA-256 of its rows as the manifest has it, `bytes` the length of their COPY text.
    """

    backup_date: datetime
    backup_id: str | None
    table: str | None
    status: str
    rows: int | None
    bytes: int | None
    checksum: str | None
    verified_at: datetime
    error: str | None = None


_HINT = f"give the role the schema {OWN_SCHEMA} (deploy/role.sql does), or set ROWVAULT_VERIFICATION_LOG=off"


async def write_log(source: Source, rows: Sequence[LogRow], head: tuple[int, str] | None) -> None:
    """Add rows, and the trail's head (number, hash), making the tables first if need be.

    Raises `MissingPrivilege` where the role may not, or the server is a standby; else what connecting raises.
    """
    async with unpooled_session(source, "verification log") as connection:
        with translated("writing the verification log"):
            try:
                async with connection.transaction():
                    await _make_tables(connection)
                    await _insert(connection, rows, head)
            except (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError) as error:
                raise MissingPrivilege(f"writing the verification log: {error}", _HINT) from error


async def _make_tables(connection: Connection) -> None:
    if await connection.fetchval("SELECT pg_catalog.to_regclass($1)", HEADS) is not None:
        return
    await connection.execute(_ONE_AT_A_TIME)
    await make_own_schema(connection)
    await connection.execute(_TABLES)


async def _insert(connection: Connection, rows: Sequence[LogRow], head: tuple[int, str] | None) -> None:
    """One statement for all rows: there may be thousands of tables."""
    await connection.execute(
        f"""
        INSERT INTO {LOG} (backup_date, backup_id, table_name, verification_status, row_count, size_bytes, checksum,
                           verified_at, error_message)
        SELECT * FROM ROWS FROM (pg_catalog.unnest($1::timestamptz[]), pg_catalog.unnest($2::text[]),
               pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[]), pg_catalog.unnest($5::bigint[]),
               pg_catalog.unnest($6::bigint[]), pg_catalog.unnest($7::text[]), pg_catalog.unnest($8::timestamptz[]),
               pg_catalog.unnest($9::text[]))
        """,
        [row.backup_date for row in rows],
        [row.backup_id for row in rows],
        [row.table for row in rows],
        [row.status for row in rows],
        [row.rows for row in rows],
        [row.bytes for row in rows],
        [row.checksum for row in rows],
        [row.verified_at for row in rows],
        [row.error for row in rows],
    )
    if head is not None:
        number, sha256 = head
        await connection.execute(
            f"INSERT INTO {HEADS} (sha256, number) VALUES ($1, $2) ON CONFLICT DO NOTHING", sha256, number
        )


async def read_heads(source: Source) -> list[tuple[int, str]]:
    """Every head of the trail that the source database remembers: number and hash. Raises what connecting raises."""
    async with unpooled_session(source, "trail") as connection:
        with translated("reading the trail's heads"):
            if await connection.fetchval("SELECT pg_catalog.to_regclass($1)", HEADS) is None:
                return []
            return [(row[0], row[1]) for row in await connection.fetch(f"SELECT number, sha256 FROM {HEADS}")]
