"""Removes what interrupted runs left: objects, records and marks without a manifest, unfinished writes, expired leases.

Runs under the job lock, and never touches what a live lease protects: another replica may be uploading. Nor what was
verified here once, for then it was committed, unless a prune was cut short, whose lease tells.
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.places.leasing import UNLISTING
from storage.backends.protocol import Locked, Unfinished
from storage.errors import Refused, Unavailable
from storage.leases import LIFETIME, list_leases
from storage.names import (
    ARCHIVES,
    BACKUPS,
    KEPT,
    MANIFESTS,
    VERIFICATIONS,
    ManifestName,
    is_backup_id,
    is_manifest_name,
)
from storage.repository import Repository

ORPHANED_HINT = "rowvault sync brings it back where another place has it; for where none has, see deploy/RUNBOOK.md"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What interrupted runs left: ids of backups that are listed nowhere, names of records and marks of such,
    unfinished writes, names of expired leases; and ids of backups of which an earlier revision is still listed.

    `orphaned` are ids of backups that somebody took the manifests of: their objects are no leftovers.
    """

    backups: tuple[str, ...]
    records: tuple[str, ...]
    unfinished: tuple[Unfinished, ...]
    leases: tuple[str, ...]
    revised: tuple[str, ...]
    orphaned: tuple[str, ...]


async def find_leftovers(repository: Repository, now: datetime | None = None) -> Leftovers:
    """Look through one place; changes nothing."""
    # In this order: who writes took a lease before, and commits before giving it up. The other way round, the
    # objects of a backup that begins or commits meanwhile would seem to be nobody's.
    unfinished = [one async for one in repository.backend.unfinished()]
    begun = {folder for folder in await repository.begun() if is_backup_id(folder)}
    records = [one.name for prefix in (VERIFICATIONS, KEPT) async for one in repository.backend.list(prefix)]
    leases = await list_leases(repository.backend)
    manifests = [one.name async for one in repository.backend.list(MANIFESTS)]
    now = now or datetime.now(UTC)
    live = {lease.backup for lease in leases if lease.live(now)}
    listed = Counter(ManifestName.parse(name).id for name in manifests if is_manifest_name(name))
    known = live | listed.keys()

    def is_left(backup_id: str) -> bool:
        # Even a stray name may describe the objects.
        return backup_id not in known and not any(name.startswith(f"{MANIFESTS}{backup_id}") for name in manifests)

    pruning = any(lease.backup == UNLISTING for lease in leases)
    orphaned = set() if pruning else await _still_verified(repository, set(filter(is_left, begun)), records)
    left = {_id_of(name) for name in records if is_backup_id(_id_of(name)) and is_left(_id_of(name))} - orphaned
    return Leftovers(
        backups=tuple(sorted(set(filter(is_left, begun)) - orphaned)),
        records=tuple(name for name in records if _id_of(name) in left),
        unfinished=tuple(one for one in unfinished if not _in_use(one, live, now)),
        leases=tuple(lease.name for lease in leases if not lease.live(now)),
        revised=tuple(sorted(one for one, count in listed.items() if count > 1)),
        orphaned=tuple(sorted(orphaned)),
    )


async def _still_verified(repository: Repository, unlisted: set[str], records: Sequence[str]) -> set[str]:
    """Which of these were verified once. At a second look nothing tells so of what was just being pruned."""
    found = unlisted & {_id_of(name) for name in records if name.startswith(VERIFICATIONS)}
    if not found:
        return found
    return found & {_id_of(one.name) async for one in repository.backend.list(VERIFICATIONS)}


def _id_of(record: str) -> str:
    """Of which backup a record or mark is."""
    return record.partition("/")[2].removesuffix(".json").partition("~")[0]


@dataclass(frozen=True, slots=True)
class Swept:
    """How many objects and unfinished writes were removed; ids of backups whose manifests somebody took."""

    removed: int
    orphaned: tuple[str, ...]


async def sweep(repository: Repository, now: datetime | None = None) -> Swept:
    """Sweep one place."""
    left = await find_leftovers(repository, now)
    removed = len(left.unfinished)
    await repository.backend.delete(left.records)
    for backup_id in left.backups:
        removed += await discard(repository, backup_id)
    for one in left.unfinished:
        await repository.backend.discard(one)
    await repository.backend.delete(left.leases)
    for backup_id in left.revised:
        removed += (await supersede(repository, backup_id)).removed
    return Swept(removed, left.orphaned)


@dataclass(frozen=True, slots=True)
class Superseded:
    """How many objects of earlier revisions were removed for good, and what the store does not let go of."""

    removed: int
    locked: tuple[Locked, ...]


async def supersede(repository: Repository, backup_id: str) -> Superseded:
    """Let a backup's newest revision be the only one: manifests of earlier ones go first, then what they alone list.

    The new revision is committed; nothing that it lists is touched.
    """
    *earlier, _ = await repository.manifests(backup_id)
    await repository.backend.delete(earlier)
    names = await _unlisted(repository, backup_id)
    locked = await repository.backend.purge(names)
    return Superseded(len(names) - len({one.name for one in locked}), locked)


async def orphaned(repositories: Sequence[Repository]) -> set[str]:
    """Ids of backups whose manifests somebody took from a place that answers."""
    found: set[str] = set()
    for repository in repositories:
        with suppress(Unavailable):  # whoever wants to read from it finds out
            found.update((await find_leftovers(repository)).orphaned)
    return found


async def is_orphaned(repository: Repository, backup_id: str) -> bool:
    """Whether somebody took the manifest of a backup from a place."""
    if not is_backup_id(backup_id):
        return False
    recorded = [one async for one in repository.backend.list(f"{VERIFICATIONS}{backup_id}~")]
    return bool(recorded) and backup_id in (await find_leftovers(repository)).orphaned


def orphaned_text(repository: Repository, backup_id: str) -> str:
    """What a person should know of a backup whose manifest somebody took."""
    return f"the manifest of {backup_id} is gone from {repository.place}, and its objects are still there"


async def sweep_revisions(repository: Repository) -> tuple[Locked, ...]:
    """Remove whatever an interrupted erasure left under committed backups; return what the store does not let go of.

    To be called while no erasure is at work.
    """
    return tuple([locked for one in await _revised(repository) for locked in (await supersede(repository, one)).locked])


async def earlier_revisions(repository: Repository) -> list[str]:
    """Names of the objects that `sweep_revisions` would remove; changes nothing."""
    return [name for one in await _revised(repository) for name in await _unlisted(repository, one)]


async def _unlisted(repository: Repository, backup_id: str) -> list[str]:
    """The objects of a backup that its newest revision does not list."""
    listed = {stored.name for stored in (await repository.backup(backup_id)).objects()}
    return [one.name async for one in repository.objects(backup_id) if one.name not in listed]


async def _revised(repository: Repository) -> list[str]:
    """Ids of committed backups that have, or an interrupted erasure began, a later revision than the first."""
    entries = {entry.id: entry for entry in (await repository.catalogue()).entries}
    revised = {entry.id for entry in entries.values() if entry.revision}
    for prefix in (BACKUPS, ARCHIVES):
        async for stored in repository.backend.list(prefix):
            backup_id, _, rest = stored.name.removeprefix(prefix).partition("/")
            if backup_id in entries and re.match(r"r\d+/", rest):
                revised.add(backup_id)
    return sorted(revised)


async def discard(repository: Repository, backup_id: str, but: str | None = None) -> int:
    """Delete all objects of a backup that is not committed, but for those with a prefix; return how many.

    With their older versions, unless the key may not do that. What is locked stays, to be swept later.
    """
    names = [one.name async for one in repository.objects(backup_id) if but is None or not one.name.startswith(but)]
    locked = await purge_or_hide(repository, names)
    return len(names) - len({one.name for one in locked})


async def purge_or_hide(repository: Repository, names: Sequence[str]) -> tuple[Locked, ...]:
    """Remove objects with their older versions, unless the key may not do that; return what the store does not let go
    of.
    """
    try:
        return await repository.backend.purge(names)
    except Refused:
        await repository.backend.delete(names)
        return ()


def _in_use(unfinished: Unfinished, live: set[str], now: datetime) -> bool:
    """Whether somebody may still be writing it: under a live lease; or, needing none, for a short while."""
    folder, _, rest = unfinished.name.partition("/")
    if f"{folder}/" in {BACKUPS, ARCHIVES, MANIFESTS, VERIFICATIONS}:
        return rest.partition("/")[0].partition("~")[0] in live
    return unfinished.started + LIFETIME > now
