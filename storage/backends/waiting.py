"""Work that must not be left half done when the task that waits for it is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Not the loop's own threads: those may all wait for what is read here, as they do by `BlockingReader`.
_THREADS = ThreadPoolExecutor(thread_name_prefix="in-thread")


async def to_the_end(work: Awaitable[T]) -> T:
    """Await `work`; if cancelled meanwhile, however often, still wait until it has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        # Whatever it came to, its caller is gone: an error would have nobody to tell.
        if not task.cancelled():
            task.exception()
        raise


async def in_streams(count: int, stream: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run so many streams beside each other, which share what there is to do; raise the first error plainly."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(stream())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread. Once this returns or raises, cancelled or not, the thread is done with it.

    The work must not wait for other work of this kind.
    """
    # Not asyncio.to_thread: its task for each call costs more than writing a small file.
    call = partial(function, *args, **kwargs)
    return await to_the_end(asyncio.get_running_loop().run_in_executor(_THREADS, call))
