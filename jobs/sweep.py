"""Removes what interrupted runs left: objects without a manifest, unfinished writes, expired leases.

Runs under the job lock, and never touches what a live lease protects: another replica may be uploading.
"""

from collections.abc import Collection
from datetime import UTC, datetime

from storage.backends.protocol import Unfinished
from storage.leases import LIFETIME, list_leases
from storage.names import BACKUPS, MANIFESTS, is_backup_id
from storage.repository import Repository


async def sweep(repository: Repository, now: datetime | None = None) -> int:
    """Sweep one place; return how many objects and unfinished writes were removed."""
    now = now or datetime.now(UTC)
    # In this order: whoever writes takes a lease before the first object, and gives it back after the manifest.
    begun = {folder for folder in await repository.begun() if is_backup_id(folder)}
    unfinished = [found async for found in repository.backend.unfinished()]
    leases = await list_leases(repository.backend)
    live = {lease.backup for lease in leases if lease.live(now)}
    committed = {entry.id for entry in (await repository.catalogue()).entries}
    removed = 0
    for backup_id in sorted(begun - live - committed):
        if not await repository.claimed(backup_id):
            removed += await discard(repository, backup_id)
    removed += await _discard_unfinished(repository, [one for one in unfinished if not _in_use(one, live, now)])
    await repository.backend.delete([lease.name for lease in leases if not lease.live(now)])
    return removed


async def discard(repository: Repository, backup_id: str) -> int:
    """Delete all objects of a backup that was not committed; return how many."""
    names = [stored.name async for stored in repository.objects(backup_id)]
    await repository.backend.delete(names)
    return len(names)


async def _discard_unfinished(repository: Repository, left: Collection[Unfinished]) -> int:
    for unfinished in left:
        await repository.backend.discard(unfinished)
    return len(left)


def _in_use(unfinished: Unfinished, live: set[str], now: datetime) -> bool:
    """Whether somebody may still be writing it: under a live lease; or, needing none, for a short while."""
    folder, _, rest = unfinished.name.partition("/")
    if f"{folder}/" in {BACKUPS, MANIFESTS}:
        return rest.partition("/")[0].partition("~")[0] in live
    return unfinished.started + LIFETIME > now
