"""What a network that fails does to the S3 backend: it says so in time, nothing half-written shows, it gets through."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from storage.backends.protocol import Backend
from storage.backends.retrying import Patience, Retrying
from storage.backends.s3 import S3Backend, S3Options
from storage.backends.s3_client import S3Client
from storage.errors import Unavailable
from tests.proxy import FaultProxy
from tests.storage.conftest import OpenS3, under_prefix
from tests.storage.helpers import MIB, blocks_of, fetch, listed, names, payload, store, unfinished

LARGE = 9 * MIB + 1
SILENCE = 1.0

Fault = Callable[[FaultProxy], object]

FAULTS: dict[str, Fault] = {
    "refuse": lambda proxy: proxy.refuse(),
    "stall": lambda proxy: proxy.stall(),
    "cut": lambda proxy: proxy.cut(after=500),
    "lose_replies": lambda proxy: proxy.lose_replies(),
}

STEPS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "write": lambda backend: store(backend, "object", payload(100_000)),
    "write_large": lambda backend: store(backend, "object", payload(LARGE)),
    "create": lambda backend: backend.create("object", b"bytes"),
    "read": lambda backend: fetch(backend, "kept"),
    "stat": lambda backend: backend.stat("kept"),
    "list": listed,
    "delete": lambda backend: backend.delete(["kept"]),
    "unfinished": unfinished,
}

# Waiting for a stall takes its time, so not every step goes through it.
MATRIX = [(fault, step) for fault in FAULTS for step in STEPS if fault != "stall" or step in ("write_large", "read")]


@pytest.fixture(scope="module")
async def shared_proxy(shared_client: S3Client) -> AsyncIterator[tuple[FaultProxy, S3Client]]:
    """A proxy, and a client behind it that has no patience for silence."""
    target = urlsplit(str(shared_client.options.endpoint_url))
    async with FaultProxy(str(target.hostname), target.port or 80) as running:
        options = replace(
            shared_client.options,
            endpoint_url=f"http://127.0.0.1:{running.port}",
            connect_seconds=SILENCE,
            silence_seconds=SILENCE,
        )
        client = await S3Client.open(options)
        yield running, client
        await client.close()


@pytest.fixture
async def proxy(shared_proxy: tuple[FaultProxy, S3Client]) -> AsyncIterator[FaultProxy]:
    """Between the client and the server; passes everything on until it is told otherwise."""
    running, _ = shared_proxy
    yield running
    running.reset()
    await running.heal()


@pytest.fixture
async def distant(
    s3: S3Backend, proxy: FaultProxy, shared_proxy: tuple[FaultProxy, S3Client], s3_options: S3Options
) -> S3Backend:
    """The backend `s3` through the proxy; it holds the object `kept`."""
    await store(s3, "kept", payload(2 * MIB))
    client = shared_proxy[1]
    return under_prefix(client, replace(client.options, prefix=s3_options.prefix))


async def bring(fault: Fault, proxy: FaultProxy) -> None:
    outcome = fault(proxy)
    if asyncio.iscoroutine(outcome):
        await outcome


def patient_until_healed(backend: Backend, proxy: FaultProxy, failures: int = 2) -> Retrying:
    """Retries, and finds the network healed after so many pauses."""
    pauses = 0

    async def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == failures:
            await proxy.heal()

    return Retrying(backend, Patience(sleep=pause))


@pytest.mark.parametrize(("fault", "step"), MATRIX)
async def test_a_fault_is_said_in_time_and_shows_nothing_half_done(
    s3: S3Backend, distant: S3Backend, proxy: FaultProxy, fault: str, step: str
) -> None:
    await bring(FAULTS[fault], proxy)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=rf"cannot .*127\.0\.0\.1:{proxy.port}") as caught:
        await STEPS[step](distant)
    assert time.monotonic() - started < 4 * SILENCE
    assert caught.value.hint
    if fault != "lose_replies":
        assert await names(s3) == ["kept"]


@pytest.mark.parametrize(("fault", "step"), MATRIX)
async def test_patience_gets_through_once_the_fault_is_over(
    distant: S3Backend, proxy: FaultProxy, fault: str, step: str
) -> None:
    await bring(FAULTS[fault], proxy)
    outcome = await STEPS[step](patient_until_healed(distant, proxy))
    if step == "write_large":
        assert await fetch(distant, "object") == payload(LARGE)
    if step == "read":
        assert outcome == payload(2 * MIB)


@pytest.mark.parametrize("megabytes", [1, 7, 12, 16])
async def test_a_large_write_that_breaks_anywhere_is_whole_in_the_end(
    distant: S3Backend, proxy: FaultProxy, megabytes: int
) -> None:
    proxy.cut(after=megabytes * MIB)
    await store(patient_until_healed(distant, proxy), "object", payload(17 * MIB))
    assert await fetch(distant, "object") == payload(17 * MIB)
    for left in await unfinished(distant):
        await distant.discard(left)


async def test_a_read_that_breaks_goes_on_where_it_was(distant: S3Backend, proxy: FaultProxy) -> None:
    proxy.cut(after=MIB)
    assert await fetch(patient_until_healed(distant, proxy), "kept") == payload(2 * MIB)


async def test_a_slow_network_is_not_taken_for_a_silent_one(
    proxy: FaultProxy, s3_options: S3Options, open_s3: OpenS3
) -> None:
    """The kernel swallows up to 4 MiB at once, so that a write seems to be silent while those drain."""
    url = f"http://127.0.0.1:{proxy.port}"
    slow = await open_s3(replace(s3_options, endpoint_url=url, silence_seconds=3))
    proxy.throttle(2 * MIB)
    started = time.monotonic()
    await store(slow, "object", payload(8 * MIB))
    assert time.monotonic() - started > 3
    await proxy.heal()
    assert await fetch(slow, "object") == payload(8 * MIB)


async def test_aborting_in_a_dead_network_ends_soon_and_leaves_the_upload_to_be_found(
    s3: S3Backend, distant: S3Backend, proxy: FaultProxy
) -> None:
    upload = await distant.begin("object")
    for block in blocks_of(payload(LARGE)):
        await upload.append(block)
    proxy.stall()
    started = time.monotonic()
    await upload.abort()
    assert time.monotonic() - started < 3 * SILENCE
    (left,) = await unfinished(s3)
    await s3.discard(left)
    assert await unfinished(s3) == []


async def test_cancelling_in_a_dead_network_ends_soon(distant: S3Backend, proxy: FaultProxy) -> None:
    proxy.stall()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE / 4):
            await store(distant, "object", payload(LARGE))
    assert time.monotonic() - started < 3 * SILENCE
