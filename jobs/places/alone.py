"""One at a time, for jobs that need no source: a lease in every place that answers, which the others see."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

from jobs.places.leasing import JOBS, held, job_is_running, within_job
from storage.errors import Refused, Unavailable
from storage.leases import list_leases
from storage.repository import Repository


@asynccontextmanager
async def alone(repositories: Sequence[Repository], purpose: str) -> AsyncIterator[None]:
    """Hold the lease while the block runs; losing it cancels the block with `LeaseLost`.

    A place that does not answer, or takes no lease, is left out. Raises `Held` if another job holds one anywhere, or a
    backup is being written; of two that come at the same moment both may meet it.
    """
    async with AsyncExitStack() as leases:
        for repository in repositories:
            with suppress(Unavailable, Refused):
                lease = await repository.lease(JOBS, purpose)
                await leases.enter_async_context(held(lease))
                await _require_no_other(repository, lease.name)
        with within_job():
            yield


async def _require_no_other(repository: Repository, mine: str) -> None:
    # Whoever came at the same moment took a lease before looking, so that one of two sees the other at least.
    now = datetime.now(UTC)
    for other in await list_leases(repository.backend):
        if other.name == mine or not other.live(now):
            continue
        if other.backup == JOBS or not await repository.claimed(other.backup):
            raise job_is_running(repository, other)
