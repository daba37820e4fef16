"""Work on a backup's objects under a lease."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress

from jobs.concurrency import alongside
from jobs.errors import Difference, NotThere
from storage.errors import NotFound, Refused, StorageError
from storage.leases import Lease
from storage.repository import Repository

RELEASE_SECONDS = 5.0


@asynccontextmanager
async def leased(repository: Repository, backup_id: str, purpose: str) -> AsyncIterator[None]:
    """Hold a lease on a backup in one place while the block runs; losing it cancels the block with `LeaseLost`."""
    async with held(await repository.lease(backup_id, purpose)):
        yield


@asynccontextmanager
async def leased_for_reading(repository: Repository, backup_id: str, purpose: str) -> AsyncIterator[None]:
    """As `leased`; but a place that refuses the lease (read-only keys, a full disk) is read without one.

    A lease on a full backup keeps the incremental ones that go with it from being pruned, too.
    """
    lease: Lease | None = None
    with suppress(Refused):
        lease = await repository.lease(backup_id, purpose)
    async with held(lease) if lease else nullcontext():
        yield


@asynccontextmanager
async def unless_removed(repositories: Sequence[Repository], backup_ids: Iterable[str]) -> AsyncIterator[None]:
    """Raise `NotThere` where the block fails because a backup that it reads was removed from every place meanwhile."""
    try:
        yield
    except (StorageError, Difference) as error:
        for backup_id in backup_ids:
            if all([await _is_gone(repository, backup_id) for repository in repositories]):
                raise NotThere(
                    f"backup {backup_id} was removed while it was being read", "choose another: rowvault list"
                ) from error
        raise


async def _is_gone(repository: Repository, backup_id: str) -> bool:
    try:
        await repository.find(backup_id)
    except NotFound:
        return True
    except StorageError:
        pass  # it does not say
    return False


@asynccontextmanager
async def held(lease: Lease) -> AsyncIterator[None]:
    """Keep a lease that was taken while the block runs, then release it."""
    try:
        async with alongside(lease.keep()):
            yield
    finally:
        with suppress(StorageError, TimeoutError):  # then it expires by itself
            async with asyncio.timeout(RELEASE_SECONDS):
                await lease.release()
