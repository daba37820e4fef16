"""What each place holds of each backup, as far as one chooses to look: by sizes, by checksums, or by reading it all."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from jobs.concurrency import task_group
from jobs.places.catalogue import policies
from jobs.places.standing import Deciding
from jobs.places.wanted import Wanted
from jobs.progress import OnProgress, Progress
from storage.backends.protocol import StoredObject
from storage.errors import Corrupt, NotFound
from storage.increments import AnyBackup
from storage.manifest import StoredFile
from storage.manifest_file import load_manifest
from storage.names import ARCHIVES, BACKUPS, MANIFESTS
from storage.objects import digest_of, get
from storage.repository import Catalogue, Entry, Repository

Check = Literal["size", "checksum", "read"]
Found = Literal["whole", "missing", "partial", "damaged", "outdated"]
STREAMS = 6

_Read = tuple[AnyBackup, bytes] | Literal["damaged", "outdated"] | None
"""A place's manifest of a backup and its bytes, or what is wrong with it; None for none."""


@dataclass(slots=True)
class Place:
    """One place, what its listings say, and what it took to look: `bytes_read` are those of objects that were read."""

    repository: Repository
    catalogue: Catalogue
    entries: Mapping[str, Entry]
    manifest_sizes: Mapping[str, int]
    decided: Wanted
    listed: int = 0
    asked: int = 0
    bytes_read: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return self.repository.place

    def wants(self, backup_id: str) -> bool:
        """Whether its policy says that it should hold a backup."""
        return self.decided.by(self.name, backup_id)


@dataclass(slots=True)
class Holding:
    """What one place holds of one backup: whether its manifest is whole, and which objects are missing or other.

    `outdated`: its manifest is one of an earlier revision. `failed`: so did its last verification there. `own`: its
    manifest, where the backup was rewritten apart from other places, to other bytes, so that none may be mixed.
    `marked`: a keep mark was brought there with it.
    """

    place: Place
    has_manifest: bool
    manifest_whole: bool
    outdated: bool = False
    missing: set[str] = field(default_factory=set)
    other: set[str] = field(default_factory=set)
    empty: bool = False
    failed: bool = False
    own: AnyBackup | None = None
    marked: bool = False

    @property
    def bad(self) -> set[str]:
        """The objects that it cannot give."""
        return self.missing | self.other

    @property
    def found(self) -> Found:
        """One word for it."""
        if self.outdated:
            return "outdated"
        if self.other or (self.has_manifest and not self.manifest_whole):
            return "damaged"
        if not self.has_manifest:
            return "missing" if self.empty else "partial"
        return "partial" if self.missing else "whole"


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One backup in all places. Without a manifest, none of it can be read anywhere; a whole one's is not kept."""

    id: str
    holdings: tuple[Holding, ...]
    manifest: AnyBackup | None = None
    data: bytes = b""

    @property
    def lacking(self) -> tuple[Holding, ...]:
        """Where something is to be made good."""
        wanting = (one for one in self.holdings if one.place.wants(self.id))
        return tuple(one for one in wanting if one.found != "whole")


async def look(repositories: Sequence[Repository]) -> list[Place]:
    """What the places' listings of manifests and marks say, and what each should hold."""
    catalogues = dict(zip([one.place for one in repositories], await _all(repositories), strict=True))
    decided = await Deciding(repositories).wanted(catalogues, policies(repositories), datetime.now(UTC))
    return [await _place(one, catalogues[one.place], decided) for one in repositories]


async def _all(repositories: Sequence[Repository]) -> list[Catalogue]:
    return await asyncio.gather(*(repository.catalogue() for repository in repositories))


async def _place(repository: Repository, catalogue: Catalogue, decided: Wanted) -> Place:
    sizes = await _sizes(repository.backend.list(MANIFESTS))
    entries = {entry.id: entry for entry in catalogue.entries}
    return Place(repository, catalogue, entries, sizes, decided, listed=len(sizes))


async def survey(places: Sequence[Place], check: Check, on_progress: OnProgress) -> AsyncIterator[Surveyed]:
    """Every backup that any place has, oldest first."""
    ids = sorted({backup_id for place in places for backup_id in place.entries})
    listings = {place.name: _Listings(place) for place in places}
    for number, backup_id in enumerate(ids):
        on_progress(Progress("comparing places", number, len(ids), backup_id, counted=True))
        found = [await listings[place.name].of(backup_id) for place in places]
        if check == "size" and _alike(places, backup_id, found):
            yield Surveyed(
                backup_id, tuple(Holding(place, True, True) for place in places if backup_id in place.entries)
            )
        else:
            yield await _examined(places, backup_id, found, check)


def _alike(places: Sequence[Place], backup_id: str, found: Sequence[Mapping[str, int]]) -> bool:
    """Whether every place that wants the backup has the same manifest and objects, by name and size, and all of them.

    A manifest's name says how many bytes all objects have together, so that none need be read.
    """
    seen = None
    for place, objects in zip(places, found, strict=True):
        entry = place.entries.get(backup_id)
        if entry is None:
            if place.wants(backup_id):
                return False
            continue
        mine = (entry.manifest, place.manifest_sizes.get(entry.manifest), objects)
        if entry.verified == "failed" or sum(objects.values()) != entry.bytes_stored or seen not in (None, mine):
            return False
        seen = mine
    return True


async def _examined(
    places: Sequence[Place], backup_id: str, found: Sequence[Mapping[str, int]], check: Check
) -> Surveyed:
    """Look at one backup object by object."""
    revision = max(place.entries[backup_id].revision for place in places if backup_id in place.entries)
    read = [await _manifest(place, backup_id, revision) for place in places]
    whole = [one for one in read if isinstance(one, tuple)]
    if not whole:
        having = [place for place, one in zip(places, read, strict=True) if one is not None]
        return Surveyed(backup_id, tuple(Holding(place, True, False) for place in having))
    manifest, data = whole[0]
    holdings = list[Holding]()
    for place, objects, one in zip(places, found, read, strict=True):
        if one is not None or place.wants(backup_id):
            own = one[0] if isinstance(one, tuple) and one[1] != data else None
            holdings.append(_holding(place, own or manifest, objects, one))
            holdings[-1].own = own
    for holding in holdings:
        await _look_inside(holding, holding.own or manifest, holdings, check)
    return Surveyed(backup_id, tuple(holdings), manifest, data)


def _holding(place: Place, manifest: AnyBackup, objects: Mapping[str, int], read: _Read) -> Holding:
    """What a listing says of it."""
    stored = {one.name: one for one in manifest.objects()}
    missing = stored.keys() - objects.keys()
    other = {name for name in stored.keys() - missing if objects[name] != stored[name].bytes}
    entry = place.entries.get(manifest.id)
    failed = entry is not None and entry.verified == "failed"
    return Holding(
        place,
        has_manifest=read is not None,
        manifest_whole=isinstance(read, tuple),
        outdated=read == "outdated",
        missing=set(missing),
        other=other,
        empty=not objects,
        failed=failed,
    )


async def _manifest(place: Place, backup_id: str, revision: int) -> _Read:
    """A place's manifest of a backup; None if it has none. One of an earlier revision is not read."""
    entry = place.entries.get(backup_id)
    if entry is None:
        return None
    if entry.revision < revision:
        return "outdated"
    try:
        data = await get(place.repository.backend, entry.manifest)
        place.bytes_read += len(data)
        return load_manifest(entry.manifest, data), data
    except Corrupt:
        return "damaged"
    except NotFound:
        return None


async def _look_inside(holding: Holding, manifest: AnyBackup, holdings: Iterable[Holding], check: Check) -> None:
    """Find objects of the right size whose bytes are others. Those that failed their verification are always read."""
    stored = {one.name: one for one in manifest.objects()}
    checks = dict.fromkeys(stored if check != "size" and holding.has_manifest else (), check)
    if holding.failed:
        named = await holding.place.repository.failed_objects(manifest.id)
        checks |= dict.fromkeys(stored if named is None else named & stored.keys(), "read")
    waiting = iter([(stored[name], checks[name]) for name in sorted(checks.keys() - holding.bad)])
    elsewhere = [one for one in holdings if one is not holding]

    async def stream() -> None:
        for one, how in waiting:
            try:
                right = await _is_right(holding.place, one, elsewhere, how)
            except NotFound:
                holding.missing.add(one.name)
            else:
                holding.other |= set() if right else {one.name}

    async with task_group() as group:
        for _ in range(STREAMS):
            group.create_task(stream())


async def _is_right(place: Place, stored: StoredFile, elsewhere: Iterable[Holding], check: Check) -> bool:
    """Whether an object has the bytes that its manifest promises."""
    if check == "checksum":
        known = await place.repository.backend.checksum(stored.name)
        place.asked += 1
        if known is not None and known.part_bytes is None:
            return known.sha256 == stored.sha256
        if known is not None:
            for other in elsewhere:
                # The hash of hashes is worked out from another copy, which is read instead of this one.
                if stored.name not in other.bad and (
                    parts := await _hash_of_parts(other.place, stored, int(known.part_bytes or 0))
                ):
                    return known.sha256 == parts
    digest, _ = await digest_of(place.repository.backend, stored.name)
    place.bytes_read += digest.bytes
    return digest.sha256 == stored.sha256


async def _hash_of_parts(place: Place, stored: StoredFile, part_bytes: int) -> str | None:
    """Of a copy that is whole; None for one that is not."""
    try:
        digest, parts = await digest_of(place.repository.backend, stored.name, part_bytes)
    except NotFound:
        return None
    place.bytes_read += digest.bytes
    return parts if digest.sha256 == stored.sha256 else None


class _Listings:
    """The objects of one backup after another, out of one listing of each folder; ids are asked for in their order."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._rest = {folder: place.repository.backend.list(folder) for folder in (BACKUPS, ARCHIVES)}
        self._next: dict[str, StoredObject] = {}

    async def of(self, backup_id: str) -> dict[str, int]:
        """Names and sizes of what lies under the backup's prefix."""
        folder = ARCHIVES if "-archive-" in backup_id else BACKUPS
        prefix, found = f"{folder}{backup_id}/", dict[str, int]()
        while (one := await self._peek(folder)) is not None:
            if one.name.startswith(prefix):
                found[one.name] = one.size
            elif one.name > prefix:
                break
            del self._next[folder]
        return found

    async def _peek(self, folder: str) -> StoredObject | None:
        if folder not in self._next:
            one = await anext(self._rest[folder], None)
            if one is None:
                return None
            self._next[folder] = one
            self._place.listed += 1
        return self._next[folder]


async def _sizes(listing: AsyncIterator[StoredObject]) -> dict[str, int]:
    return {one.name: one.size async for one in listing}
