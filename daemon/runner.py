"""Runs a job as every job runs: one at a time, within its time limit, its name on every log line."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from daemon.outcomes import TimeLimit
from jobs.concurrency import alongside
from jobs.postgres.connection import Source
from jobs.postgres.lock import Among, JobLock


@asynccontextmanager
async def job_run(source: Source, job: str, time_limit: float, among: Among = "jobs") -> AsyncIterator[None]:
    """Hold the lock that the source has for jobs (or for drills) while the block runs.

    Raises `Held` if another process has it, `ConnectionLost` into the block if its session is lost, `TimeLimit` after
    `time_limit` seconds.
    """
    with structlog.contextvars.bound_contextvars(job=job):
        lock = await JobLock.take(source, f"{job} on {socket.gethostname()} pid {os.getpid()}", among)
        try:
            async with asyncio.timeout(time_limit) as limit, alongside(lock.watch()):
                yield
        except TimeoutError as error:
            if limit.expired():
                raise TimeLimit(job, time_limit) from error
            raise
        finally:
            await lock.release()
