"""Runs a job as every job runs: one at a time, within its time limit, its name on every log line."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import structlog

from daemon.outcomes import TimeLimit
from jobs.concurrency import alongside
from jobs.places.alone import alone
from jobs.postgres.connection import Source
from jobs.postgres.errors import Rejected, Unreachable
from jobs.postgres.lock import Among, JobLock
from storage.repository import Repository


@asynccontextmanager
async def job_in_places(
    source: Source | None, repositories: Sequence[Repository], job: str, time_limit: float
) -> AsyncIterator[None]:
    """As `job_run`, for a job that needs no source: by a lease in the places, and the source's lock if it answers.

    Raises `Held`, `LeaseLost`, `TimeLimit`; and `ConnectionLost` if the source was there and is lost.
    """
    async with AsyncExitStack() as holding:
        if source is None or not await _entered(holding, job_run(source, job, time_limit)):
            await holding.enter_async_context(_limited(job, time_limit))
        await holding.enter_async_context(alone(repositories, job))
        yield


async def _entered(holding: AsyncExitStack, run: AbstractAsyncContextManager[None]) -> bool:
    """Whether the source gave its lock; one that is away or lets nobody in runs no job of ours either."""
    try:
        await holding.enter_async_context(run)
    except (Unreachable, Rejected):
        return False
    return True


@asynccontextmanager
async def job_run(source: Source, job: str, time_limit: float, among: Among = "jobs") -> AsyncIterator[None]:
    """Hold the lock that the source has for jobs (or for drills) while the block runs.

    Raises `Held` if another process has it, `ConnectionLost` into the block if its session is lost, `TimeLimit` after
    `time_limit` seconds.
    """
    with structlog.contextvars.bound_contextvars(job=job):
        lock = await JobLock.take(source, f"{job} on {socket.gethostname()} pid {os.getpid()}", among)
        try:
            async with _limited(job, time_limit), alongside(lock.watch()):
                yield
        finally:
            await lock.release()


@asynccontextmanager
async def _limited(job: str, time_limit: float) -> AsyncIterator[None]:
    """End the block after so many seconds."""
    try:
        async with asyncio.timeout(time_limit) as limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise TimeLimit(job, time_limit) from error
        raise
