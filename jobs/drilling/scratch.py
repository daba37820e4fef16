"""Where a drill restores to: a throwaway PostgreSQL beside us, or a fresh database on a server that was given.

Both are gone afterwards, also on cancellation. What a killed drill left is swept by the next one: its folder is locked
for as long as its process lives, its database is in use for as long.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Source, session
from jobs.postgres.embedded import EmbeddedServer, find_servers
from jobs.postgres.errors import PostgresError
from jobs.postgres.scratch import create_database, drop_database, is_superuser, make_roles, new_name, sweep_databases
from jobs.postgres.stand_ins import Wanted, lacks_for_good, put_stand_ins
from jobs.temporary import sweep_folders, temporary_folder
from storage.manifest import Manifest

SETTING = "ROWVAULT_DRILL__DATABASE_URL"
PREFIX = "rowvault-drill-"
_BASE_BYTES = 300_000_000
_SETTINGS = {
    "max_locks_per_transaction": "1024",
    "max_connections": "60",
    "max_logical_replication_workers": "0",  # so that no subscription could ever do anything
    "max_wal_size": "1GB",
}


@dataclass(frozen=True, slots=True)
class World:
    """What the definitions of a backup need around them. `roles` are also those that checks run as."""

    roles: tuple[str, ...]
    wanted: Wanted
    most_sessions: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """A scratch database, ready to be restored into, with stand-ins for what its server lacks.

    `host` is another database of that server. `not_proved` says, a sentence each, what a drill therefore proves
    nothing of.
    """

    database: Source
    host: Source
    server: str
    seconds_to_have: float
    not_proved: tuple[str, ...]


@asynccontextmanager
async def scratch_database(
    manifest: Manifest, world: World, given: Source | None, pg_bin: Path | None
) -> AsyncIterator[Scratch]:
    """A scratch database for as long as the block runs; on the server that was `given`, else on one of our own.

    Raises `UnsafeTarget` if there is none that would do, or no room.
    """
    began = time.monotonic()
    major = manifest.source.server_version_num // 10_000
    server = _given_server(given, world, major) if given else _own_server(manifest, major, pg_bin)
    async with server as host, fresh_database(host, world) as (database, not_proved):
        async with session(database, "drill") as connection:
            version = connection.get_server_version().major
        name = f"PostgreSQL {version} {'on ' + given.where if given else 'beside this process'}"
        yield Scratch(database, host, name, time.monotonic() - began, not_proved)


@asynccontextmanager
async def fresh_database(host: Source, world: World) -> AsyncIterator[tuple[Source, tuple[str, ...]]]:
    """A new database with roles and stand-ins, dropped afterwards; and what therefore cannot be proved."""
    name = new_name()
    try:
        async with session(host, "drill") as connection:
            await create_database(connection, name, world.most_sessions)
        database = host.with_database(name)
        async with session(database, "drill") as connection:  # while it is here nobody sweeps the database
            made = await make_roles(connection, world.roles, name)
            said = await put_stand_ins(connection, world.wanted)
            roles = f"roles are there by name alone, without attributes and memberships: {', '.join(made)}"
            yield database, ((roles, *said) if made else said)
    finally:
        async with session(host, "drill") as connection:
            await drop_database(connection, name)


@asynccontextmanager
async def _own_server(manifest: Manifest, major: int, pg_bin: Path | None) -> AsyncIterator[Source]:
    binaries = await asyncio.to_thread(_oldest_fit, major, pg_bin)
    temporary = Path(tempfile.gettempdir())
    await asyncio.to_thread(sweep_folders, temporary, PREFIX)
    refuse_without_room(temporary, room_needed(manifest))
    with temporary_folder(temporary, PREFIX) as folder:
        folder.chmod(0o755)  # as root the server runs as somebody else
        async with EmbeddedServer(binaries, folder / "server", settings=_SETTINGS) as server:
            try:
                yield Source(server.dsn().get_secret_value())
            finally:
                await server.stop(immediate=True)  # nothing in it is worth a checkpoint


def _oldest_fit(major: int, pg_bin: Path | None) -> Path:
    found = find_servers(pg_bin)
    fit = [version for version in found if version >= major]
    if not fit:
        at_hand = ", ".join(map(str, sorted(found))) or "none"
        raise UnsafeTarget(
            f"the backup comes from PostgreSQL {major}, and no server of that version or newer is at hand ({at_hand})",
            f"install one, set ROWVAULT_PG_BIN to its folder, or give a server: {SETTING}",
        )
    return found[min(fit)]


def room_needed(manifest: Manifest) -> int:
    """Bytes that a drill may take: rows and indexes, the largest table twice more, WAL and an empty cluster; the files
    of a moment that is made.
    """
    sizes = [table.bytes_raw for table in manifest.tables]
    made = sum(table.bytes_stored for table in manifest.tables)
    return 3 * sum(sizes) + 3 * max(sizes, default=0) + made + _BASE_BYTES


def refuse_without_room(folder: Path, needed: int) -> None:
    """Raise `UnsafeTarget` if a folder has less room than so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UnsafeTarget(
            f"a drill of this backup may take {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left",
            f"let TMPDIR name a larger file system, or give a server: {SETTING}",
        )


@asynccontextmanager
async def _given_server(given: Source, world: World, major: int) -> AsyncIterator[Source]:
    try:
        async with session(given, "drill") as connection:
            _refuse_unfit(given, connection.get_server_version().major, major)
            if bad := lacks_for_good(world.wanted.extensions.keys(), superuser=await is_superuser(connection)):
                raise UnsafeTarget(
                    f"extensions of the backup would reach outside, and {SETTING}'s role may not replace them: "
                    f"{', '.join(bad)}",
                    "give a superuser's address on a server of no importance, or unset it",
                )
            await sweep_databases(connection)
    except PostgresError as error:
        raise type(error)(f"{SETTING}: {error.message.removeprefix(SETTING)}", error.hint) from error
    yield given


def _refuse_unfit(given: Source, there: int, major: int) -> None:
    if there < major:
        raise UnsafeTarget(
            f"{SETTING}: {given.where} is PostgreSQL {there}, the backup comes from {major}",
            f"give a server of PostgreSQL {major} or newer",
        )
