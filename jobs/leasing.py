"""Work on a backup's objects under a lease."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from jobs.concurrency import alongside
from storage.errors import Unavailable
from storage.repository import Repository


@asynccontextmanager
async def leased(repository: Repository, backup_id: str, purpose: str) -> AsyncIterator[None]:
    """Hold a lease on a backup in one place while the block runs; losing it cancels the block with `LeaseLost`."""
    lease = await repository.lease(backup_id, purpose)
    try:
        async with alongside(lease.keep()):
            yield
    finally:
        with suppress(Unavailable):  # then it expires by itself
            await lease.release()
