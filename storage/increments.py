"""The description of an incremental backup: a window of the change log, or what became of tables beside it, or both.

FORMAT.md gives the meaning of each field.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from pydantic import Field

from storage.manifest import Backup, Manifest, Part, Record, Sequence, Snapshot, StoredFile


class TableDifference(Record):
    """What became of one table since the snapshot that it is compared with; nothing at all if it holds nothing.

    `removed` are keys of rows that went or were written anew, `added` the rows that were written. Where nothing tells
    rows apart, `parts` are all of them. `reason` says why this method was used, `rows` how many the table has now,
    `changes` how many keys, or rows, this concerns. `keys` are all keys as they are now, where the list was renewed.
    """

    schema_name: str = Field(alias="schema")
    name: str
    oid: int
    method: Literal["xmin", "timestamp", "whole"]
    reason: str
    rows: int
    changes: int
    removed: Part | None = None
    added: Part | None = None
    parts: tuple[Part, ...] = ()
    keys: Part | None = None

    def stored(self) -> tuple[Part, ...]:
        """Everything that is stored of it."""
        return (*(part for part in (self.removed, self.added, self.keys) if part is not None), *self.parts)


class Beside(Record):
    """What became of the tables that are not in the change log, as of one snapshot and its moment.

    It is the difference to the incremental backup `previous`, to the full one where that is None.
    """

    previous: str | None
    moment: datetime
    snapshot: Snapshot
    tables: tuple[TableDifference, ...]

    def objects(self) -> Iterator[StoredFile]:
        """Every object of it."""
        for table in self.tables:
            for part in table.stored():
                yield from part.objects


class TableChanges(Record):
    """How many changes of rows of one table a window holds; to truncate it is one more."""

    schema_name: str = Field(alias="schema")
    name: str
    oid: int
    changes: int


class Unseen(Record):
    """A transaction in the log that a snapshot taken just after it was read did not see: its xid, its commit's LSN."""

    xid: int
    lsn: str


class Log(Record):
    """The bytes of a window: `messages` by COPY's own count, in one object or several."""

    messages: int
    bytes: int
    sha256: str
    objects: tuple[StoredFile, ...]


class Increment(Backup):
    """A window of the change log: every transaction whose commit record lies from `start` up to but not at `end`.

    `fingerprint` is that of its base: no table changed its shape from there to `end`. `last_commit` is the time of the
    last transaction. `unseen` may be missing from a full backup that is taken after it.
    `sequences` are as of its end or later. `beside` are the tables that are not in the log, if this is the last window
    of a run.
    """

    kind: Literal["incremental"]
    method: Literal["wal"]
    fingerprint: str
    slot: str
    publication: int
    start: str
    end: str
    commits: int
    last_commit: datetime | None
    unseen: tuple[Unseen, ...]
    changes: tuple[TableChanges, ...]
    sequences: tuple[Sequence, ...]
    log: Log
    beside: Beside | None = None

    @property
    def rows(self) -> int:
        """Rows that were changed, in the log as often as they were."""
        beside = self.beside.tables if self.beside else ()
        return sum(table.changes for table in self.changes) + sum(table.changes for table in beside)

    def objects(self) -> Iterator[StoredFile]:
        """Every object of the backup but the manifest itself."""
        yield from self.log.objects
        if self.beside:
            yield from self.beside.objects()


class Difference(Backup):
    """What became of all tables since another backup, where their changes are not captured.

    `fingerprint` is that of its base. `sequences` are as of its snapshot or later.
    """

    kind: Literal["incremental"]
    method: Literal["xmin", "timestamp"]
    fingerprint: str
    sequences: tuple[Sequence, ...]
    beside: Beside

    @property
    def rows(self) -> int:
        """Rows that came, went or changed."""
        return sum(table.changes for table in self.beside.tables)

    def objects(self) -> Iterator[StoredFile]:
        """Every object of the backup but the manifest itself."""
        yield from self.beside.objects()


Incremental = Increment | Difference
AnyBackup = Manifest | Incremental
