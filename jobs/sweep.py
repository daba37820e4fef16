"""Removes what interrupted runs left: objects without a manifest, unfinished writes, expired leases.

Runs under the job lock, and never touches what a live lease protects: another replica may be uploading.
"""

from datetime import UTC, datetime

from storage.leases import list_leases
from storage.names import BACKUPS, LEASES
from storage.repository import Repository


async def sweep(repository: Repository, now: datetime | None = None) -> int:
    """Sweep one place; return how many objects and unfinished writes were removed."""
    now = now or datetime.now(UTC)
    leases = await list_leases(repository.backend)
    live = {lease.backup for lease in leases if lease.live(now)}
    committed = {entry.id for entry in (await repository.catalogue()).entries}
    removed = 0
    for backup_id in sorted(await repository.begun() - committed - live):
        removed += await discard(repository, backup_id)
    removed += await _discard_unfinished(repository, live)
    await repository.backend.delete([lease.name for lease in leases if not lease.live(now)])
    return removed


async def discard(repository: Repository, backup_id: str) -> int:
    """Delete all objects of a backup that was not committed; return how many."""
    names = [stored.name async for stored in repository.objects(backup_id)]
    await repository.backend.delete(names)
    return len(names)


async def _discard_unfinished(repository: Repository, live: set[str]) -> int:
    left = [unfinished async for unfinished in repository.backend.unfinished() if not _in_use(unfinished.name, live)]
    for unfinished in left:
        await repository.backend.discard(unfinished)
    return len(left)


def _in_use(name: str, live: set[str]) -> bool:
    """A write below a live backup, or one of a lease, which is too short to be worth judging while others live."""
    if name.startswith(BACKUPS):
        return name.removeprefix(BACKUPS).split("/")[0] in live
    return bool(live) and name.startswith(LEASES)
