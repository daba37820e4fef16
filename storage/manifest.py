"""The description of one backup: typed, versioned, written last. FORMAT.md gives its meaning.

How it becomes a file is in `manifest_file.py`.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.names import ManifestName


class Record(BaseModel):
    """What a manifest is made of: fields that are there once, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class StoredFile(Record):
    """One object of the backup: its name in the repository, its length and hash as it rests there."""

    name: str
    bytes: int
    sha256: str


class Part(Record):
    """One table, or one range of its pages: COPY text in one object, or in several where it is very long.

    `first_page` up to but not including `end_page` of the heap; None is open-ended.
    """

    number: int
    first_page: int | None
    end_page: int | None
    rows: int
    bytes: int
    sha256: str
    objects: tuple[StoredFile, ...]


class Column(Record):
    """One column in table order. A generated one is computed by the server and not in the data."""

    name: str
    type: str
    generated: bool = False
    identity: bool = False


class Name(Record):
    """A relation's name."""

    schema_name: str = Field(alias="schema")
    name: str


class Table(Record):
    """One table with rows of its own: its shape and its data. `oid` is the source's, for the change log.

    `load_into` is the partitioned table through which its rows go in, where they may belong to another partition then.
    `primary_key` are its columns in order; empty where the table has none. `identity` are those that tell rows apart in
    the change log; empty where the table is not in it. `fingerprint` changes with what changes rows beside the log.
    `keys` is the list of its primary keys, by which rows that go are found where the log does not tell; None: no list.
    """

    schema_name: str = Field(alias="schema")
    name: str
    oid: int
    partition_of: str | None
    load_into: Name | None
    persistence: Literal["permanent", "unlogged"]
    row_security: bool
    primary_key: tuple[str, ...]
    identity: tuple[str, ...] = ()
    fingerprint: str = ""
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    keys: Part | None = None

    @property
    def rows(self) -> int:
        """Rows in all parts, by COPY's own count."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes_raw(self) -> int:
        """Bytes of COPY text."""
        return sum(part.bytes for part in self.parts)

    @property
    def checksum(self) -> str:
        """SHA-256 of the plain bytes; of a table in several parts, of their hashes in order, a line each."""
        if len(self.parts) == 1:
            return self.parts[0].sha256
        return hashlib.sha256("".join(f"{part.sha256}\n" for part in self.parts).encode()).hexdigest()

    @property
    def bytes_stored(self) -> int:
        """Bytes as stored."""
        return sum(stored.bytes for part in self.parts for stored in part.objects)


class Sequence(Record):
    """Where a sequence stood just after the snapshot. Text, since JSON readers lose digits past 2^53."""

    schema_name: str = Field(alias="schema")
    name: str
    last_value: str
    is_called: bool


RelationKind = Literal["view", "materialized view", "foreign table", "partitioned table", "table"]


class SchemaOnly(Record):
    """A relation of which the definition is kept and no rows: they are elsewhere, or computed."""

    schema_name: str = Field(alias="schema")
    name: str
    kind: RelationKind
    partition_of: str | None


class ForeignKeyOutside(Record):
    """A foreign key of a table in this backup that points to a table outside it."""

    schema_name: str = Field(alias="schema")
    table: str
    name: str
    references: str


class NotCovered(Record):
    """What the database holds beside this backup. Nothing is left out without standing here."""

    schemas: tuple[str, ...]
    tables: tuple[str, ...]
    excluded_tables: tuple[str, ...]
    large_objects: int
    foreign_keys: tuple[ForeignKeyOutside, ...]


class Snapshot(Record):
    """The one moment (`pg_current_snapshot()`), and the insert LSN read after it."""

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]
    lsn: str


class Source(Record):
    """Which database, of which lineage. `token` is Rowvault's own row there; None where it may not write one."""

    system_identifier: str
    timeline: int
    database: str
    server_version: str
    server_version_num: int
    encoding: str
    token: str | None


class Extension(Record):
    """An extension that the database has installed; the schema dump creates it."""

    name: str
    version: str
    schema_name: str = Field(alias="schema")


class Dump(Record):
    """The schema, and who may use it. `schemas` were dumped whole.

    `roles` and foreign `servers` are those that the dump names: they must be there before a restore. Of `tablespaces`
    that are not there, all that lies in them goes to the database's own.
    """

    tool: str
    schemas: tuple[str, ...]
    extensions: tuple[Extension, ...]
    roles: tuple[str, ...]
    servers: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()
    archive: StoredFile
    sql: StoredFile
    roles_sql: StoredFile
    load_script: StoredFile
    instructions: StoredFile

    def files(self) -> tuple[StoredFile, ...]:
        """Every object that is not table data."""
        return (self.archive, self.sql, self.roles_sql, self.load_script, self.instructions)


class TrailHead(Record):
    """The newest entry of the audit trail: its number, and the hash of its bytes."""

    number: int
    sha256: str


class Encryption(Record):
    """How a backup's objects were encrypted, and for which public keys."""

    method: Literal["age"] = "age"
    recipients: tuple[str, ...]


class Gap(Record):
    """Why the backups before could not be continued: what was between them and this one cannot be brought back.

    `slot_lost`: because the replication slot was lost, with what it still held.
    """

    reason: str
    slot_lost: bool


class Capture(Record):
    """How a full backup stands to the change log: whose slot, and from which LSN on the log holds what it lacks."""

    slot: str
    publication: int
    since: str


class Backup(Record):
    """What every kind of backup has. Times are UTC; `created_at` is the moment by the database's clock.

    Each `revision` after the first, which is 0, took rows out: those of one more of the `erasures`, in their order.
    """

    format: Literal[1] = 1
    id: str
    revision: int = 0
    erasures: tuple[str, ...] = ()
    created_at: datetime
    finished_at: datetime
    base: str | None
    label: str
    reason: str
    program: str
    source: Source
    trail_head: TrailHead | None = None
    encryption: Encryption | None = None
    warnings: tuple[str, ...]

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows, or changes of rows, of all tables."""

    @abstractmethod
    def objects(self) -> Iterator[StoredFile]:
        """Every object of the backup but the manifest itself."""

    @property
    def bytes_stored(self) -> int:
        """Bytes of all objects, as stored."""
        return sum(stored.bytes for stored in self.objects())

    def name(self) -> ManifestName:
        """The name under which the manifest is stored, and listed."""
        return ManifestName(self.id, self.base, self.rows, self.bytes_stored, self.label, self.revision)


class Manifest(Backup):
    """A full backup: every row of its tables as of one snapshot. Or an archive: a copy of the state that the backup
    `archived` was of, in objects of its own, which no other backup builds on, with `exports` for other programs.

    `compared` says why incremental backups compare tables with it; empty where the change log is to continue it.
    """

    kind: Literal["full", "archive"]
    archived: str | None = None
    exports: tuple[StoredFile, ...] = ()
    snapshot: Snapshot
    dump: Dump
    tables: tuple[Table, ...]
    sequences: tuple[Sequence, ...]
    schema_only: tuple[SchemaOnly, ...]
    not_covered: NotCovered
    capture: Capture | None = None
    compared: str = ""
    gap: Gap | None = None

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def fingerprint(self) -> str:
        """What tables there are, and of what shape: the change log of others does not fit them."""
        lines = sorted(f"{table.oid} {table.fingerprint} {' '.join(table.identity)}\n" for table in self.tables)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def objects(self) -> Iterator[StoredFile]:
        """Every object of the backup but the manifest itself."""
        yield from self.dump.files()
        yield from self.exports
        for table in self.tables:
            for part in (*table.parts, *([table.keys] if table.keys else [])):
                yield from part.objects
