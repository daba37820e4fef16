"""Made-up backups for tests of what stores them: manifests, and the objects that they describe."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import zstandard

from jobs.postgres.pgoutput import lsn_text
from storage.backends.protocol import Backend
from storage.increments import Increment, Log
from storage.manifest import (
    Capture,
    Dump,
    Manifest,
    NotCovered,
    Part,
    Snapshot,
    Source,
    StoredFile,
    Table,
)
from storage.names import backup_prefix, data_object, id_moment
from storage.objects import put
from storage.repository import Repository

ID = "20260102T030405.678Z-full-0a1b2c"
OTHER_ID = "20260103T030405.678Z-full-0a1b2c"
SYSTEM = "7400000000000000001"
SLOT = "rowvault_0a1b2c3d"
DUMP_FILES = ("schema.dump", "schema.sql", "roles.sql", "load.sh", "RESTORE.txt")


@dataclass(frozen=True)
class MadeUp:
    """A backup of one table, whose objects hold any bytes, and are what the manifest says they are."""

    manifest: Manifest
    objects: Mapping[str, bytes]

    async def write(self, backend: Backend) -> None:
        """Store the objects, and no manifest."""
        for name, data in self.objects.items():
            await put(backend, name, data)

    async def commit(self, repository: Repository) -> None:
        """Store all of it."""
        await self.write(repository.backend)
        await repository.commit(self.manifest)


def made_up(backup_id: str = ID, label: str = "", data: bytes = b"rows") -> MadeUp:
    """A backup of one table with one object of data."""
    dump = {name: f"{name} of {backup_id}".encode() for name in DUMP_FILES}
    objects = {f"{backup_prefix(backup_id)}{name}": content for name, content in dump.items()}
    name = data_object(backup_id, "public", "Orders", 0, 0)
    objects[name] = data
    moment = id_moment(backup_id)
    manifest = Manifest(
        id=backup_id,
        kind="full",
        created_at=moment,
        finished_at=moment,
        base=None,
        label=label,
        reason="because",
        program="rowvault 0",
        source=Source(
            system_identifier=SYSTEM,
            timeline=1,
            database="shop",
            server_version="18.1",
            server_version_num=180001,
            encoding="UTF8",
            token=None,
        ),
        snapshot=Snapshot(xmin=700, xmax=705, in_progress=(700, 703), lsn="0/16B3748"),
        dump=_dump([_stored(f"{backup_prefix(backup_id)}{name}", content) for name, content in dump.items()]),
        tables=(_table(_stored(name, data)),),
        sequences=(),
        schema_only=(),
        not_covered=NotCovered(schemas=(), tables=(), excluded_tables=(), large_objects=0, foreign_keys=()),
        warnings=(),
    )
    return MadeUp(manifest, objects)


def sound(backup_id: str = ID, label: str = "", rows: bytes = b"row\n") -> MadeUp:
    """The same, but such that it passes its verification."""
    data = zstandard.ZstdCompressor(write_checksum=True).compress(rows)
    made = made_up(backup_id, label, data)
    (table,) = made.manifest.tables
    plain = {"rows": rows.count(b"\n"), "bytes": len(rows), "sha256": hashlib.sha256(rows).hexdigest()}
    table = table.model_copy(update={"parts": (table.parts[0].model_copy(update=plain),)})
    return MadeUp(made.manifest.model_copy(update={"tables": (table,)}), made.objects)


def backup_id(number: int) -> str:
    """The id of the so-manieth backup; they sort by number."""
    moment = datetime.fromtimestamp(1_700_000_000 + number, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.000Z-full-{number:06x}"


def _stored(name: str, data: bytes) -> StoredFile:
    return StoredFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _dump(files: list[StoredFile]) -> Dump:
    archive, sql, roles_sql, load_script, instructions = files
    return Dump(
        tool="pg_dump 18.1",
        schemas=("public",),
        extensions=(),
        roles=("postgres",),
        archive=archive,
        sql=sql,
        roles_sql=roles_sql,
        load_script=load_script,
        instructions=instructions,
    )


def _table(stored: StoredFile) -> Table:
    part = Part(number=0, first_page=None, end_page=None, rows=1, bytes=4, sha256=stored.sha256, objects=(stored,))
    return Table(
        schema_name="public",
        name="Orders",
        oid=16384,
        partition_of=None,
        load_into=None,
        persistence="permanent",
        row_security=False,
        primary_key=(),
        columns=(),
        parts=(part,),
    )


def made_up_full(seconds: int, *, since: int, lsn: int, slot: str = SLOT, in_progress: tuple[int, ...] = ()) -> MadeUp:
    """A full backup that the change log continues from an LSN on. Its snapshot has xmax 1000 and its own LSN."""
    plain = made_up(_id("full", seconds))
    manifest = plain.manifest.model_copy(
        update={
            "snapshot": Snapshot(xmin=900, xmax=1000, in_progress=in_progress, lsn=lsn_text(lsn)),
            "capture": Capture(slot=slot, publication=17000, since=lsn_text(since)),
        }
    )
    return MadeUp(manifest, plain.objects)


def made_up_window(seconds: int, start: int, end: int, *, base: str = ID, slot: str = SLOT) -> Increment:
    """A window of the change log between two LSNs, without any change, and without an object."""
    moment = _moment(seconds)
    return Increment(
        id=_id("incremental", seconds),
        kind="incremental",
        method="wal",
        created_at=moment,
        finished_at=moment,
        base=base,
        label="",
        reason="",
        program="rowvault 0",
        source=made_up().manifest.source,
        fingerprint=made_up().manifest.fingerprint,
        slot=slot,
        publication=17000,
        start=lsn_text(start),
        end=lsn_text(end),
        commits=0,
        last_commit=None,
        unseen=(),
        changes=(),
        sequences=(),
        log=Log(messages=0, bytes=0, sha256="", objects=()),
        warnings=(),
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(1_700_000_000 + seconds, UTC)


def _id(kind: str, seconds: int) -> str:
    return f"{_moment(seconds):%Y%m%dT%H%M%S}.000Z-{kind}-0a1b2c"
