"""Work on a backup's objects under a lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

from jobs.concurrency import alongside
from storage.errors import Refused, StorageError
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
    """As `leased`; but a place that refuses the lease (read-only keys, a full disk) is read without one."""
    lease: Lease | None = None
    with suppress(Refused):
        lease = await repository.lease(backup_id, purpose)
    async with held(lease) if lease else nullcontext():
        yield


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
