"""The database that a restore goes into: whether it is empty, how it is marked meanwhile, how it is emptied again."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.postgres.catalogue import OWN_SCHEMA
from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote

MARKER = f"{OWN_SCHEMA}.unfinished_restore"


@dataclass(frozen=True, slots=True)
class TargetState:
    """What a target holds before a restore. `objects` are those in the way, at most ten; `unfinished` a backup's id.

    `free_bytes` are those of its disk, where that can be known.
    """

    major: int
    existing_schemas: frozenset[str]
    existing_extensions: frozenset[str]
    available_extensions: frozenset[str]
    roles: frozenset[str]
    servers: frozenset[str]
    tablespaces: frozenset[str]
    tables: frozenset[TableName]
    objects: tuple[str, ...]
    unfinished: str | None
    free_bytes: int | None


# Objects of a schema depend on it. Members of extensions depend on their extension too, and are not in the way; parts
# of other objects (the sequence of an identity column) come and go with those.
# https://www.postgresql.org/docs/current/catalog-pg-depend.html
_OBJECTS = """
    SELECT i.type, i.identity
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid,
           LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) i
     WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.deptype = 'n'
       AND n.nspname = ANY ($1::text[]) AND i.type NOT IN ('default acl', 'extension')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                        WHERE (e.classid, e.objid, e.objsubid) = (d.classid, d.objid, d.objsubid)
                          AND e.deptype IN ('e', 'i'))
     ORDER BY i.identity
"""


async def read_target(connection: Connection, schemas: Sequence[str]) -> TargetState:
    """Look at the target; changes nothing."""
    with translated("looking at the target"):
        objects = await connection.fetch(f"{_OBJECTS} LIMIT 10", list(schemas))
        tables = await connection.fetch(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
        )
        return TargetState(
            major=connection.get_server_version().major,
            existing_schemas=await _names(connection, "SELECT nspname FROM pg_catalog.pg_namespace"),
            existing_extensions=await _names(connection, "SELECT extname FROM pg_catalog.pg_extension"),
            available_extensions=await _names(connection, "SELECT name FROM pg_catalog.pg_available_extensions"),
            roles=await _names(connection, "SELECT rolname FROM pg_catalog.pg_roles"),
            servers=await _names(connection, "SELECT srvname FROM pg_catalog.pg_foreign_server"),
            tablespaces=await _names(connection, "SELECT spcname FROM pg_catalog.pg_tablespace"),
            tables=frozenset(TableName(row["nspname"], row["relname"]) for row in tables),
            objects=tuple(f"{row['type']} {row['identity']}" for row in objects),
            unfinished=await _unfinished(connection),
            free_bytes=await free_bytes(connection),
        )


async def _names(connection: Connection, query: str) -> frozenset[str]:
    return frozenset(row[0] for row in await connection.fetch(query))


async def _unfinished(connection: Connection) -> str | None:
    # Not to_regclass(), which wants USAGE on the schema: beside a source it is the role's that backs up.
    if not await connection.fetchval(_IS_MARKED, OWN_SCHEMA):
        return None
    backup: str | None = await connection.fetchval(f"SELECT backup FROM {MARKER}")
    return backup


_IS_MARKED = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = $1 AND c.relname = 'unfinished_restore')
"""


async def free_bytes(connection: Connection) -> int | None:
    """Free room on the disk of the server's data directory, if that is on this machine and we may look; else None."""
    with translated("looking for the target's disk"):
        folder = await connection.fetchval(_DATA_HERE)
    return await asyncio.to_thread(_free_below, Path(folder)) if folder else None


def _free_below(data: Path) -> int | None:
    try:
        # Only a server's folder has this file: that of a container may have its name only there.
        return shutil.disk_usage(data).free if (data / "PG_VERSION").is_file() else None
    except OSError:
        return None


_DATA_HERE = """
    SELECT setting FROM pg_catalog.pg_settings
     WHERE name = 'data_directory'
       AND (pg_catalog.inet_server_addr() IS NULL OR pg_catalog.inet_server_addr() = pg_catalog.inet_client_addr())
"""


async def mark_unfinished(connection: Connection, backup_id: str) -> None:
    """Say in the target that it is not whole yet."""
    with translated("marking the target as unfinished"):
        async with connection.transaction():
            await connection.execute(
                f"CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA}; CREATE TABLE {MARKER} (backup text, started_at timestamptz)"
            )
            await connection.execute(f"INSERT INTO {MARKER} VALUES ($1, pg_catalog.now())", backup_id)


async def mark_finished(connection: Connection) -> None:
    """Take the mark away, and our schema if nothing else is in it."""
    with translated("taking away the mark of an unfinished restore"):
        await connection.execute(f"DROP TABLE {MARKER}")
        if not await connection.fetch(_OBJECTS, [OWN_SCHEMA]):
            await connection.execute(f"DROP SCHEMA {OWN_SCHEMA}")


async def empty_again(connection: Connection, schemas: Sequence[str], before: TargetState) -> None:
    """Drop what an unfinished restore made: the target was empty, so all that is in these schemas now is ours.

    Each object by itself: one transaction for all may take more locks than the server has room for.
    """
    with translated("emptying the target again"):
        await connection.fetch(_END_LOADING)
        extensions = await _names(connection, "SELECT extname FROM pg_catalog.pg_extension")
        for extension in sorted(extensions - before.existing_extensions):
            await connection.execute(f"DROP EXTENSION IF EXISTS {quote(extension)} CASCADE")
        for row in await connection.fetch(_OBJECTS, list(schemas)):
            kind = _DROPPED_AS.get(row["type"], row["type"])
            await connection.execute(f"DROP {kind} IF EXISTS {row['identity']} CASCADE")
        for schema in set(schemas) - before.existing_schemas:
            await connection.execute(f"DROP SCHEMA IF EXISTS {quote(schema)} CASCADE")


# The server does not see at once that we are gone, and a statement at work keeps its locks.
_END_LOADING = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity
     WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()
       AND (application_name LIKE 'rowvault: load %' OR application_name IN ('rowvault: schema', 'rowvault: restore'))
"""

# Where DROP has another word for it than pg_identify_object().
_DROPPED_AS = {"statistics object": "STATISTICS", "composite type": "TYPE"}


async def set_sequence(connection: Connection, sequence: TableName, last_value: int, is_called: bool) -> None:
    """Set where a sequence stands."""
    with translated(f"setting the sequence {sequence}"):
        await connection.execute(
            "SELECT pg_catalog.setval($1::text::pg_catalog.regclass, $2::bigint, $3::boolean)",
            qualified(sequence),
            last_value,
            is_called,
        )
