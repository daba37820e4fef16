"""One at a time, for jobs that need no source: a lease in every place that answers, which the others see."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

from jobs.leasing import held
from jobs.postgres.errors import Held
from storage.errors import Refused, Unavailable
from storage.leases import list_leases
from storage.repository import Repository

JOBS = "jobs"
"""What such a lease is on, where others name a backup."""


@asynccontextmanager
async def alone(repositories: Sequence[Repository], purpose: str) -> AsyncIterator[None]:
    """Hold the lease while the block runs; losing it cancels the block with `LeaseLost`.

    A place that does not answer, or takes no lease, is left out. Raises `Held` if another job holds one anywhere; of
    two that come at the same moment both may meet it.
    """
    async with AsyncExitStack() as leases:
        for repository in repositories:
            with suppress(Unavailable, Refused):
                lease = await repository.lease(JOBS, purpose)
                await leases.enter_async_context(held(lease))
                await _require_no_other(repository, lease.name)
        yield


async def _require_no_other(repository: Repository, mine: str) -> None:
    # Whoever came at the same moment took a lease before looking, so that one of two sees the other at least.
    now = datetime.now(UTC)
    for other in await list_leases(repository.backend):
        if other.backup == JOBS and other.name != mine and other.live(now):
            raise Held(
                f"another job is running: {other.holder or 'somebody'} holds {other.name} in {repository.place}",
                "wait until it has ended; what was killed holds it for a minute more",
            )
