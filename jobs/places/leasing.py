"""Work on a backup's objects under a lease."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NoReturn

from jobs.concurrency import alongside
from jobs.errors import Difference, NotThere
from jobs.postgres.errors import Held
from storage.errors import NotFound, OutOfSpace, Refused, StorageError
from storage.leases import Lease, LeaseState, list_leases
from storage.repository import Repository

RELEASE_SECONDS = 5.0
JOBS = "jobs"
"""What the lease is on that a job without a source holds, where others name a backup."""
UNLISTING = "unlisting"
"""What the lease is on that is held while manifests are removed, from before keep marks are looked at."""
ASK_AGAIN_SECONDS = 0.2

_within_job: ContextVar[bool] = ContextVar("within_job", default=False)


@asynccontextmanager
async def leased(repository: Repository, backup_id: str, purpose: str) -> AsyncIterator[None]:
    """Hold a lease on a backup that is written to one place while the block runs; losing it cancels it by `LeaseLost`.

    Raises `Held` if a job that needs no source is at work there, unless this is part of that job.
    """
    async with held(await repository.lease(backup_id, purpose)):
        if not _within_job.get():
            await _refuse_beside_a_job(repository)
        yield


@contextmanager
def within_job() -> Iterator[None]:
    """What is written in the block is part of a job that holds the places' own lease."""
    token = _within_job.set(True)
    try:
        yield
    finally:
        _within_job.reset(token)


async def _refuse_beside_a_job(repository: Repository) -> None:
    now = datetime.now(UTC)
    for lease in await list_leases(repository.backend, JOBS):
        if lease.live(now):
            raise job_is_running(repository, lease)


def job_is_running(repository: Repository, lease: LeaseState) -> Held:
    """Why nothing may be written to a place now."""
    return Held(
        f"another job is running: {lease.holder or 'somebody'} holds {lease.name} in {repository.place}",
        "wait until it has ended; what was killed holds it for a minute more",
    )


@asynccontextmanager
async def leased_for_reading(repository: Repository, backup_id: str, purpose: str) -> AsyncIterator[None]:
    """As `leased`; but a place that refuses it, or its renewal (read-only keys, a full disk), is read without one.

    A lease on a full backup keeps the incremental ones that go with it from being pruned, too.
    """
    lease: Lease | None = None
    with suppress(Refused):
        lease = await repository.lease(backup_id, purpose)
    async with _held_if_any(lease):
        yield


@asynccontextmanager
async def unlisting(repository: Repository) -> AsyncIterator[None]:
    """Let whoever sets a keep mark wait while the block removes manifests.

    On a full disk there is no lease: removing makes room there, and until then no mark can be set either.
    """
    lease: Lease | None = None
    with suppress(OutOfSpace):
        lease = await repository.lease(UNLISTING, "prune")
    async with _held_if_any(lease):
        yield


def _held_if_any(lease: Lease | None) -> AbstractAsyncContextManager[None]:
    return held(lease, _unless_refused(lease)) if lease else nullcontext()


async def _unless_refused(lease: Lease) -> NoReturn:
    """Keep a lease for as long as the place takes it: a disk that fills up meanwhile stops no restore, and no prune."""
    with suppress(Refused):
        await lease.keep()
    while True:
        await asyncio.Event().wait()


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


async def until_nothing_is_unlisted(repository: Repository) -> None:
    """Wait until no manifests are being removed from a place; whoever begins later sees the marks of before."""
    while True:
        now = datetime.now(UTC)
        if not any(lease.live(now) for lease in await list_leases(repository.backend, UNLISTING)):
            return
        await asyncio.sleep(ASK_AGAIN_SECONDS)


async def _is_gone(repository: Repository, backup_id: str) -> bool:
    try:
        await repository.find(backup_id)
    except NotFound:
        return True
    except StorageError:
        pass  # it does not say
    return False


@asynccontextmanager
async def held(lease: Lease, keeping: Coroutine[Any, Any, NoReturn] | None = None) -> AsyncIterator[None]:
    """Keep a lease that was taken while the block runs, by `Lease.keep` unless otherwise, then release it."""
    try:
        async with alongside(keeping or lease.keep()):
            yield
    finally:
        with suppress(StorageError, TimeoutError):  # then it expires by itself
            async with asyncio.timeout(RELEASE_SECONDS):
                await lease.release()
