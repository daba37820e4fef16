"""Work side by side: what is raised, what is cancelled, and what is waited for."""

import asyncio
import gc
import threading
from typing import NoReturn

import pytest

from jobs.concurrency import Handoff, Worker, alongside, task_group


class Trouble(Exception):
    """An error of our own."""


async def forever() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def fail() -> NoReturn:
    raise Trouble("first")


async def test_a_group_raises_its_first_error_plainly() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await forever()
        finally:
            raise Trouble("second")

    async def work() -> None:
        async with task_group() as group:
            group.create_task(fail_when_cancelled())
            await asyncio.sleep(0)
            group.create_task(fail())

    with pytest.raises(Trouble, match="first"):
        await work()


async def test_groups_within_groups_raise_the_first_error_plainly() -> None:
    async def work() -> None:
        async with task_group(), task_group() as inner:
            inner.create_task(fail())
            await forever()

    with pytest.raises(Trouble, match="first"):
        await work()


async def test_watchers_end_with_the_block() -> None:
    ended = asyncio.Event()

    async def watch() -> NoReturn:
        try:
            await forever()
        finally:
            ended.set()

    async with alongside(watch()):
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_a_watcher_that_raises_cancels_the_block_and_is_what_went_wrong() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        async with alongside(fail(), forever()):
            try:
                await forever()
            finally:
                cancelled.set()

    with pytest.raises(Trouble):
        await work()
    assert cancelled.is_set()


async def test_what_the_block_raises_is_what_went_wrong() -> None:
    with pytest.raises(Trouble):
        async with alongside(forever()):
            await fail()


async def test_cancelling_from_outside_stays_a_cancellation() -> None:
    async def work() -> None:
        async with alongside(forever()):
            await forever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_worker_works_in_a_thread_of_its_own() -> None:
    async def where() -> threading.Thread:
        return threading.current_thread()

    async with Worker("copy-7") as worker:
        thread = await worker.run(where())
        assert (thread.name, thread is threading.current_thread()) == ("copy-7", False)
    assert not thread.is_alive()


async def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(Trouble):
        async with Worker("w") as worker:
            await worker.run(fail())


async def test_cancelling_here_cancels_there_and_leaving_waits_for_its_end() -> None:
    began, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        loop.call_soon_threadsafe(began.set)
        try:
            await forever()
        finally:
            await asyncio.sleep(0.05)  # what is being ended may take a moment
            ended.set()

    async def use() -> None:
        async with Worker("w") as worker:
            await worker.run(work())

    task = asyncio.create_task(use())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_who_is_cancelled_while_leaving_a_worker_leaves_no_thread_behind() -> None:
    began, ending, may_end = asyncio.Event(), asyncio.Event(), threading.Event()
    loop, threads = asyncio.get_running_loop(), list[threading.Thread]()

    async def work() -> None:
        threads.append(threading.current_thread())
        loop.call_soon_threadsafe(began.set)
        try:
            await forever()
        finally:
            loop.call_soon_threadsafe(ending.set)
            may_end.wait(10)

    async def use() -> None:
        async with Worker("w") as worker:
            await worker.run(work())

    task = asyncio.create_task(use())
    await began.wait()
    task.cancel()
    await ending.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not threads[0].is_alive()


async def test_what_fails_while_it_is_being_cancelled_is_nobodys_error(caplog: pytest.LogCaptureFixture) -> None:
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        loop.call_soon_threadsafe(began.set)
        try:
            await forever()
        finally:
            raise Trouble("while ending")

    async with Worker("w") as worker:
        task = asyncio.create_task(worker.run(work()))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gc.collect()
    assert caplog.text == ""


async def test_a_handoff_keeps_the_order_and_holds_back_who_is_too_fast() -> None:
    handoff: Handoff[int] = Handoff(depth=2)
    sent: list[int] = []

    async def send() -> None:
        for number in range(10):
            await handoff.put(number)
            sent.append(number)

    async with Worker("w") as worker, task_group() as group:
        group.create_task(worker.run(send()))
        received = []
        for _ in range(10):
            received.append(await handoff.get())
            assert len(sent) <= len(received) + 2
    assert received == list(range(10))


async def test_a_worker_that_waits_for_room_ends_when_nobody_takes_any_more() -> None:
    handoff: Handoff[int] = Handoff(depth=1)

    async def send_forever() -> None:
        while True:
            await handoff.put(1)

    async def take_one() -> None:
        async with asyncio.timeout(10), Worker("w") as worker, task_group() as group:
            group.create_task(worker.run(send_forever()))
            await handoff.get()
            await fail()

    with pytest.raises(Trouble):
        await take_one()


async def test_what_was_opened_just_as_the_caller_was_cancelled_is_closed() -> None:
    """As a session that is there when a backup gives way: nobody else would ever close it."""
    begun, gate, opened = asyncio.Event(), threading.Event(), threading.Event()
    loop, closed = asyncio.get_running_loop(), list[str]()

    async def opening() -> str:
        loop.call_soon_threadsafe(begun.set)
        gate.wait()
        opened.set()
        return "a session"

    async def use() -> None:
        async with Worker("w") as worker:
            await worker.open(opening(), closed.append)

    task = asyncio.create_task(use())
    await begun.wait()
    gate.set()
    opened.wait()  # the loop hears nothing of it before its task is cancelled
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["a session"]


async def test_leaving_a_worker_ends_what_is_begun_by_what_it_cancels() -> None:
    ended: list[str] = []

    async def request(begun: asyncio.Event) -> None:
        begun.set()
        try:
            await forever()
        finally:
            ended.append("a request to cancel the query")

    async def query() -> None:
        under_way.set()
        requests = []
        try:
            await forever()
        finally:
            while len(asyncio.all_tasks()) == 1:  # noqa: ASYNC110 - until the worker is being left, which sets nothing
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            begun = asyncio.Event()
            requests.append(asyncio.create_task(request(begun)))
            await begun.wait()

    async def use() -> None:
        async with Worker("w") as worker:
            await worker.run(query())

    under_way = threading.Event()
    task = asyncio.create_task(use())
    await asyncio.to_thread(under_way.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["a request to cancel the query"]
