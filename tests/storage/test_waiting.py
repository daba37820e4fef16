"""Work that must be over before its caller is told anything, however often the caller is cancelled."""

import asyncio
import threading

import pytest

from storage.backends.waiting import in_thread, to_the_end


async def test_a_thread_has_ended_when_its_cancelled_caller_goes_on() -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10)
        ended.set()

    caller = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_an_error_after_cancelling_is_nobodys() -> None:
    may_fail = asyncio.Event()

    async def work() -> None:
        await may_fail.wait()
        raise ValueError("too late")

    caller = asyncio.create_task(to_the_end(work()))
    await asyncio.sleep(0)
    caller.cancel()
    may_fail.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_what_work_returns_and_raises_is_its_callers() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)
