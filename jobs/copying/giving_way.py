"""Begins again, from the locks on, what gave way to somebody who waited for them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from jobs.postgres.errors import Contended
from jobs.progress import OnProgress, Progress

T = TypeVar("T")
RETRY_SECONDS = 2.0


async def giving_way(attempt: Callable[[], Awaitable[T]], attempts: int, on_progress: OnProgress) -> T:
    """What an attempt comes to; raises `Contended` if the last of so many gives way, too."""
    for number in range(1, attempts):
        try:
            return await attempt()
        except Contended as error:
            on_progress(Progress(f"beginning again after attempt {number}: {error.message}"))
            await asyncio.sleep(RETRY_SECONDS)
    return await attempt()
