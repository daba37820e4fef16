"""Reconciling in tests: places that hold the same backups, and what a reconciliation found in them."""

from datetime import UTC, datetime

from jobs.places.survey import Check
from jobs.sync import SyncOptions, SyncResult, sync
from jobs.verify import verify_backup
from storage.backends.memory import MemoryBackend
from storage.leases import list_leases
from storage.repository import Identity, Repository
from tests.manifests import ID, OTHER_ID, SYSTEM, MadeUp, sound
from tests.places import contents

OBJECT = f"backups/{ID}/schema.sql"
DATA = f"backups/{ID}/data/public/Orders/00000-000.copy.zst"
CHECKS: tuple[Check, ...] = ("size", "checksum", "read")
EARLY = datetime(2026, 1, 1, tzinfo=UTC)

Places = tuple[Repository, Repository]


async def place(name: str, *backups: MadeUp, since: datetime = EARLY) -> Repository:
    """A place with these backups, bound to one database."""
    repository = Repository(name, MemoryBackend())
    await repository.bind_as(Identity(SYSTEM, "shop", since))
    for one in backups:
        await one.commit(repository)
    return repository


async def two_places() -> Places:
    """Two places that hold the same two backups."""
    one, other = sound(ID), sound(OTHER_ID)
    return await place("local", one, other), await place("s3", one, other)


async def synced(places: Places, check: Check = "size", *, dry_run: bool = False, fill: bool = True) -> SyncResult:
    """Reconcile two places."""
    return await sync(places, SyncOptions(check, dry_run=dry_run, fill=fill))


async def require_alike(places: Places) -> None:
    """The same backups, marks and reports in both, whole, and no lease is left."""
    held = [await contents(one.backend) for one in places]
    own = [{name: data for name, data in one.items() if not name.startswith("verifications/")} for one in held]
    assert own[0] == own[1]
    for backup_id in (ID, OTHER_ID):
        assert (await verify_backup(places, backup_id)).state == "success"
    assert [await list_leases(one.backend) for one in places] == [[], []]


def found(result: SyncResult) -> list[tuple[str, str, str, str]]:
    """What was lacking: of which backup, where, in what way, and what was done."""
    return [(row.id, row.place, row.found, row.done) for row in result.lacking]
