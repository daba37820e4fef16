"""What the places hold that an erasure has to go through: every object once, however many backups share it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from jobs.erasing.damage import NOTHING_ERASED, Damage, in_the_way
from jobs.places.sweep import ORPHANED_HINT, find_leftovers, orphaned_text
from jobs.postgres.identifiers import TableName
from storage.errors import Corrupt
from storage.increments import AnyBackup, Increment, Log
from storage.manifest import Manifest, Part, Table
from storage.names import id_moment
from storage.repository import Repository

AT_ONCE = 16

What = Literal["rows", "keys", "window"]
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Something to read: rows or keys of a table, or a window of the change log. `kind` is the backup's."""

    repository: Repository
    what: What
    part: Part | Log
    table: Table | None
    kind: str

    @property
    def key(self) -> Key:
        """The same for the same content, wherever it lies."""
        oid = "" if self.table is None else str(self.table.oid)
        return (self.what, oid, *(stored.sha256 for stored in self.part.objects))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its lines."""
        assert self.table is not None
        if self.what == "keys":
            return self.table.primary_key
        return tuple(column.name for column in self.table.columns if not column.generated)

    @property
    def types(self) -> Mapping[str, str]:
        """The types that the columns had when it was written."""
        assert self.table is not None
        return {column.name: column.type for column in self.table.columns}

    @property
    def bytes(self) -> int:
        """As stored."""
        return sum(stored.bytes for stored in self.part.objects)


@dataclass(frozen=True, slots=True)
class Held:
    """One backup as one place has it, and what it is made of."""

    repository: Repository
    manifest: AnyBackup
    sha256: str
    kept: bool
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that places hold, oldest backup first; `readings` have each content once."""

    held: tuple[Held, ...]
    readings: Mapping[Key, Reading]
    shapes: "Shapes"

    def having(self, key: Key) -> Iterator[tuple[str, Reading]]:
        """Every backup that has a content, in every place, and the content as it lies there."""
        return ((held.manifest.id, one) for held in self.held for one in held.readings if one.key == key)

    @property
    def fulls(self) -> tuple[Manifest, ...]:
        """The full backups, each once, oldest first."""
        found = {one.manifest.id: one.manifest for one in self.held if isinstance(one.manifest, Manifest)}
        return tuple(found[one] for one in sorted(found))


async def read_holdings(repositories: Sequence[Repository], until: datetime, so: str = NOTHING_ERASED) -> Holdings:
    """Read the manifests of all backups up to a moment.

    Raises `Corrupt`, naming them, if some cannot be read, and `so`: what they have can neither be searched nor erased.
    """
    stored: list[tuple[Repository, AnyBackup, str]] = []
    kept, damaged = set[str](), dict[str, Corrupt]()
    for repository in repositories:
        await _require_manifests(repository, until, so)
        entries = (await repository.catalogue()).entries
        kept |= {entry.id for entry in entries if entry.kept}
        ids = [entry.id for entry in reversed(entries) if entry.created_at <= until]
        for begin in range(0, len(ids), AT_ONCE):
            some = ids[begin : begin + AT_ONCE]
            answers = await asyncio.gather(*(_stored(repository, one) for one in some))
            for backup_id, read in zip(some, answers, strict=True):
                if isinstance(read, Corrupt):
                    damaged[backup_id] = read
                else:
                    stored.append((repository, *read))
    if damaged:
        whole = {manifest.id for _, manifest, _ in stored}
        raise in_the_way((Damage(backup_id, error, backup_id in whole) for backup_id, error in damaged.items()), so)
    shapes = Shapes([manifest for _, manifest, _ in stored if isinstance(manifest, Manifest)])
    held = [
        Held(repository, manifest, sha256, manifest.id in kept, tuple(_readings(repository, manifest, shapes)))
        for repository, manifest, sha256 in sorted(stored, key=lambda one: one[1].id)
    ]
    readings: dict[Key, Reading] = {}
    for one in held:
        for reading in one.readings:
            readings.setdefault(reading.key, reading)
    return Holdings(tuple(held), readings, shapes)


async def _require_manifests(repository: Repository, until: datetime, so: str) -> None:
    """Nobody can say any more what is in the objects of a backup whose manifest somebody took."""
    for one in (await find_leftovers(repository)).orphaned:
        if id_moment(one) <= until:
            raise Corrupt(f"{so}: {orphaned_text(repository, one)}", ORPHANED_HINT)


async def _stored(repository: Repository, backup_id: str) -> tuple[AnyBackup, str] | Corrupt:
    try:
        return await repository.stored(backup_id)
    except Corrupt as error:
        return error


class Shapes:
    """The tables as full backups describe them, for what only has their oids."""

    def __init__(self, fulls: Sequence[Manifest]) -> None:
        self._by_base = {(full.id, table.oid): table for full in fulls for table in full.tables}
        self._newest = {table.oid: table for full in fulls for table in full.tables}

    def table(self, backup: AnyBackup, oid: int) -> Table:
        """The table as the base of a backup has it; raises `Corrupt` if no full backup knows it."""
        found = self._known(backup, oid)
        if found is None:
            raise Corrupt(
                f"{backup.id} has rows of a table that no full backup describes: its base {backup.base} is gone",
                f"without its base it cannot be restored either: rowvault prune {backup.id}, then erase again",
            )
        return found

    def knows(self, backup: AnyBackup, oid: int) -> bool:
        """Whether a full backup describes the table."""
        return self._known(backup, oid) is not None

    def _known(self, backup: AnyBackup, oid: int) -> Table | None:
        return self._by_base.get((backup.base or backup.id, oid)) or self._newest.get(oid)


def _readings(repository: Repository, manifest: AnyBackup, shapes: Shapes) -> Iterator[Reading]:
    if isinstance(manifest, Manifest):
        for table in manifest.tables:
            for part in table.parts:
                yield Reading(repository, "rows", part, table, manifest.kind)
            if table.keys is not None and table.keys.objects:
                yield Reading(repository, "keys", table.keys, table, manifest.kind)
        return
    if isinstance(manifest, Increment):
        yield Reading(repository, "window", manifest.log, None, manifest.kind)
    for one in manifest.beside.tables if manifest.beside else ():
        whats: tuple[tuple[What, Part | None], ...] = (
            ("keys", one.removed),
            ("rows", one.added),
            ("keys", one.keys),
            *(("rows", part) for part in one.parts),
        )
        for what, stored in whats:
            if stored is not None and stored.objects:
                yield Reading(repository, what, stored, shapes.table(manifest, one.oid), manifest.kind)


def root_of(manifest: Manifest, table: Table) -> TableName:
    """The partitioned table that a table's rows belong to in the end; the table itself, if it is no partition."""
    above = {str(TableName(one.schema_name, one.name)): one for one in manifest.schema_only}
    name, parent = TableName(table.schema_name, table.name), table.partition_of
    while parent is not None and parent in above:
        name, parent = TableName(above[parent].schema_name, above[parent].name), above[parent].partition_of
    return name
