"""What every incremental backup needs, and the way in which one is stored, committed and copied to other places."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from jobs.copying.table_copy import CopyOptions
from jobs.describe import describe_encryption, describe_sequences, describe_source
from jobs.incrementals.comparison import Stamps
from jobs.incrementals.continuation import Look
from jobs.places.leasing import leased
from jobs.places.offsite import mirrored
from jobs.places.sweep import discard
from jobs.postgres.catalogue import Selection, read_relations, read_sequences
from jobs.postgres.connection import Connection, Source
from jobs.postgres.identifiers import TableName
from jobs.preparing import BackupOptions, Ready
from jobs.progress import OnProgress
from jobs.results import PlaceOutcome
from storage.errors import StorageError
from storage.increments import Incremental
from storage.manifest import Manifest
from storage.manifest import Sequence as StoredSequence

Method = Literal["auto", "wal", "xmin", "timestamp"]
Store = Callable[[], Awaitable[Incremental | str]]
WINDOW_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How changes are captured. `patience`: seconds to wait for transactions that were at work when it begins.

    `method`: out of the change log, by comparing (`timestamp`: by `stamps`), or whichever can be done. `lag_limit`:
    bytes of WAL that the slot may hold back; past it the slot is dropped, and a full backup begins anew.
    `window_bytes`: about how much WAL is read at a time; the server needs as much room for temporary files, or twice.
    """

    copying: CopyOptions = field(default_factory=CopyOptions)
    method: Method = "auto"
    stamps: Stamps = field(default_factory=Stamps)
    patience: float = 60.0
    lag_limit: int = 10 * 1024**3
    window_bytes: int = WINDOW_BYTES


@dataclass(frozen=True, slots=True)
class Taking:
    """What every incremental backup needs; `connection` looks after slot and publication."""

    source: Source
    selection: Selection
    connection: Connection
    ready: Ready
    capture: CaptureOptions
    options: BackupOptions
    on_progress: OnProgress

    @property
    def look(self) -> Look:
        """Where to look whether a chain can be continued."""
        return Look(self.connection, self.selection, self.ready.lineage, self.ready.primary, self.capture.lag_limit)

    def header(self, base: Manifest, backup_id: str, moment: datetime) -> dict[str, Any]:
        """The fields that every incremental backup has, but for what is known only at its end."""
        return {
            "id": backup_id,
            "kind": "incremental",
            "created_at": moment,
            "finished_at": datetime.now(UTC),
            "base": base.id,
            "label": self.options.label,
            "reason": self.options.reason,
            "program": f"rowvault {version('rowvault')}",
            "source": describe_source(self.ready.lineage),
            "fingerprint": base.fingerprint,
            "trail_head": self.ready.trail_head,
            "encryption": describe_encryption(self.capture.copying.recipients),
        }

    async def sequences(self, base: Manifest) -> tuple[StoredSequence, ...]:
        """Where the base's sequences stand; those that are gone since were changed with the definitions."""
        names = [TableName(one.schema_name, one.name) for one in base.sequences]
        there = {relation.table for relation in await read_relations(self.connection) if relation.kind == "S"}
        return describe_sequences(await read_sequences(self.connection, [name for name in names if name in there]))

    async def commit(
        self,
        backup_id: str,
        store: Callable[[], Awaitable[Incremental | str]],
        committed: Callable[[], Awaitable[None]],
    ) -> "Taken | str":
        """Commit what `store` makes under a lease, and copy it to the other places once `committed` was told.

        Where it says why there is nothing to commit, or fails, nothing of it stays.
        """
        primary = self.ready.primary
        async with (
            leased(primary, backup_id, "incremental backup"),
            mirrored(primary, self.ready.others, backup_id) as mirrors,
        ):
            try:
                increment = await store()
            except Exception:
                with suppress(StorageError):  # the next run's sweep removes what this could not
                    await discard(primary, backup_id)
                raise
            if isinstance(increment, str):
                await discard(primary, backup_id)
                return increment
            for mirror in mirrors:
                mirror.offer(increment.objects())
            await primary.commit(increment)
            await committed()
            outcomes = [PlaceOutcome(primary.place, "committed")]
            outcomes += [await mirror.finish(increment) for mirror in mirrors]
        return Taken(increment, (*outcomes, *self.ready.pending))


@dataclass(frozen=True, slots=True)
class Taken:
    """One backup that was committed, and how each place took it.

    `unopened`: tables were left out, since no identity opens what they are compared with.
    """

    increment: Incremental
    outcomes: tuple[PlaceOutcome, ...]
    unopened: bool = False
