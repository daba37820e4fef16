"""Structured concurrency for jobs: watchers beside work, and worker threads with an event loop of their own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

import uvloop

from storage.backends.waiting import to_the_end

T = TypeVar("T")


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the others followed from: the first leaf in the order they were raised."""
    first = group.exceptions[0]
    return first_cause(first) if isinstance(first, BaseExceptionGroup) else first


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises its first error plainly instead of a group of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None


@asynccontextmanager
async def alongside(*watchers: Coroutine[Any, Any, NoReturn]) -> AsyncIterator[None]:
    """Run watchers while the block runs. The first that raises cancels the block, and its error is raised instead."""
    async with task_group() as group:
        tasks = [group.create_task(watcher) for watcher in watchers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


class Worker:
    """A thread with an event loop of its own, in which blocking work may be done inline.

    One such thread for each COPY stream, hashing and compressing in it, moves data about as fast as the server sends
    it; a hop to an executor for each chunk does not.
    """

    def __init__(self, name: str) -> None:
        self._loop = uvloop.new_event_loop()
        self._opened: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    async def __aenter__(self) -> "Worker":
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        # Where a server crashes, whoever leaves over one lost session is cancelled over the next.
        await to_the_end(self._end())

    async def _end(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end_everything(), self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread. Cancelling cancels it there; leaving the worker waits for its end."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_heard(work), self._loop))

    async def open(self, opening: Coroutine[Any, Any, T], close: Callable[[T], object]) -> T:
        """What a coroutine makes in the thread; `close` is called on it there when the worker is left.

        Also if it is made in the moment in which whoever waits for it is cancelled.
        """

        async def opened() -> T:
            made = await opening
            self._opened.append(partial(close, made))
            return made

        return await self.run(opened())

    async def _end_everything(self) -> None:
        # What is cancelled may begin something in turn: asyncpg, a request to the server to cancel the query.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                if not task.cancelling():  # a second time would cut short what it does to end
                    task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        for close in self._opened:
            close()
        await asyncio.sleep(0)  # the loop closes what was aborted in its next round


async def _heard(work: Coroutine[Any, Any, T]) -> T:
    """The same work. What it raises while it is being cancelled, nobody waits for: it is no unheard error then."""
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return await work


class Handoff(Generic[T]):
    """Carries items from one worker thread to the loop that made it, at most `depth` waiting: back-pressure."""

    def __init__(self, depth: int = 2) -> None:
        self._room = threading.Semaphore(depth)
        self._items: asyncio.Queue[T] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    async def put(self, item: T) -> None:
        """Called in the worker: waits until there is room."""
        while not self._room.acquire(blocking=False):
            waiting = asyncio.get_running_loop().create_future()
            self._waiting = waiting
            # Room that came before the loop could see who waits is not told of.
            if self._room.acquire(blocking=False):
                break
            await waiting
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def get(self) -> T:
        """Called on the loop: the next item."""
        item = await self._items.get()
        self._room.release()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.get_loop().call_soon_threadsafe(_wake, waiting)
        return item


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
