"""Leases: how long they protect, how they are kept, and what becomes of them when the store is away."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import pytest

from jobs.places.leasing import leased, leased_for_reading
from storage import leases
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Upload
from storage.errors import Refused, Unavailable
from storage.leases import Lease, LeaseLost, list_leases
from storage.names import LEASES
from storage.objects import get, put
from storage.repository import Repository
from tests.manifests import ID, OTHER_ID

NOT_LEASES = (
    *(b"", b"{", b"[]", b"null", b'"2026"', b"{}", b'{"expires_at": 1}', b'{"expires_at": "soon"}', b"\xff\xfe"),
    *(b'{"expires_at": "2030-01-01T00:00:00"}', b"[" * 100_000),
)
UNREADABLE_AFTER = timedelta(seconds=60)


class Moody(MemoryBackend):
    """A store that can be told to be away, to fall silent, or to refuse whatever is written."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = "well"
        self.begun = 0

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        self.begun += 1
        match self.mood:
            case "away":
                raise Unavailable("nobody answers there")
            case "silent":
                await asyncio.Event().wait()
            case "refusing":
                raise Refused("no")
        return await super().begin(name, sha256=sha256)


@pytest.fixture
def backend() -> Moody:
    return Moody()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases as short as a test: 300 ms, renewed every 20 ms."""
    monkeypatch.setattr(leases, "LIFETIME", timedelta(milliseconds=300))
    monkeypatch.setattr(leases, "RENEW_EVERY", timedelta(milliseconds=20))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for gives no event
            await asyncio.sleep(0.005)


async def test_a_lease_protects_for_60_seconds(backend: Moody) -> None:
    before = datetime.now(UTC)
    await Lease.take(backend, ID, "full backup")
    (lease,) = await list_leases(backend)
    assert lease.backup == ID
    assert lease.live(before + timedelta(seconds=59))
    assert not lease.live(datetime.now(UTC) + timedelta(seconds=60))


@pytest.mark.parametrize("data", [b"garbage", b'{"expires_at": "2099-01-01T00:00:00+00:00"}'])
async def test_what_a_wrong_clock_left_is_no_lease_once_the_clock_is_right(backend: Moody, data: bytes) -> None:
    """As where a job was killed while the clock ran years ahead: no other could run until then."""
    await put(backend, f"{LEASES}jobs~00000000.json", data)
    (lease,) = await list_leases(backend)
    assert lease.live(lease.expires_at - timedelta(minutes=30))
    assert not lease.live(lease.expires_at - timedelta(days=1))


async def test_a_lease_says_who_holds_it_and_what_for(backend: Moody) -> None:
    lease = await Lease.take(backend, ID, "full backup")
    fields = json.loads(await get(backend, lease.name))
    assert fields["backup"] == ID
    assert fields["purpose"] == "full backup"
    assert " pid " in fields["holder"]


async def test_two_may_hold_leases_on_one_backup(backend: Moody) -> None:
    one, other = await Lease.take(backend, ID, "restore"), await Lease.take(backend, ID, "verify")
    assert [lease.backup for lease in await list_leases(backend)] == [ID, ID]
    await one.release()
    (left,) = await list_leases(backend)
    assert left.name == other.name


async def test_a_released_lease_is_gone_and_releasing_it_again_is_no_error(backend: Moody) -> None:
    lease = await Lease.take(backend, ID, "restore")
    await lease.release()
    await lease.release()
    assert await list_leases(backend) == []


@pytest.mark.parametrize("data", NOT_LEASES)
async def test_a_lease_that_cannot_be_read_is_live_for_its_lifetime(backend: Moody, data: bytes) -> None:
    name = f"{LEASES}{ID}~00000000.json"
    await put(backend, name, data)
    written = (await backend.stat(name)).modified
    (lease,) = await list_leases(backend)
    assert lease.backup == ID
    assert lease.live(written + timedelta(seconds=59))
    assert not lease.live(written + UNREADABLE_AFTER)


async def test_an_unreadable_lease_hides_no_other(backend: Moody) -> None:
    await put(backend, f"{LEASES}{ID}~00000000.json", b"garbage")
    await Lease.take(backend, OTHER_ID, "restore")
    assert {lease.backup for lease in await list_leases(backend)} == {ID, OTHER_ID}


@pytest.mark.usefixtures("brief")
async def test_a_lease_that_is_kept_does_not_expire(backend: Moody) -> None:
    lease = await Lease.take(backend, ID, "full backup")
    (first,) = await list_leases(backend)
    keeping = asyncio.create_task(lease.keep())
    await until(lambda: datetime.now(UTC) > first.expires_at)
    (later,) = await list_leases(backend)
    assert later.live(datetime.now(UTC))
    keeping.cancel()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("mood", ["away", "silent"])
async def test_a_lease_is_lost_at_its_expiry_and_not_later(backend: Moody, mood: str) -> None:
    lease = await Lease.take(backend, ID, "full backup")
    taken = time.monotonic()
    backend.mood = mood
    with pytest.raises(LeaseLost, match=f"the lease on {ID} could not be renewed"):
        await lease.keep()
    assert 0.2 < time.monotonic() - taken < 3  # the lifetime here is 0.3 s; without an end it would be for ever


@pytest.mark.usefixtures("brief")
async def test_a_store_that_is_away_for_a_while_costs_no_lease(backend: Moody) -> None:
    lease = await Lease.take(backend, ID, "full backup")
    keeping = asyncio.create_task(lease.keep())
    backend.mood = "away"
    await until(lambda: backend.begun > 3)
    backend.mood = "well"
    (first,) = await list_leases(backend)
    await until(lambda: datetime.now(UTC) > first.expires_at)
    assert not keeping.done()
    keeping.cancel()


@pytest.mark.usefixtures("brief")
async def test_a_store_that_refuses_the_renewal_says_so_at_once(backend: Moody) -> None:
    lease = await Lease.take(backend, ID, "full backup")
    backend.mood = "refusing"
    with pytest.raises(Refused):
        await lease.keep()


@pytest.mark.usefixtures("brief")
async def test_a_reader_goes_on_where_the_renewal_is_refused_and_a_writer_does_not(backend: Moody) -> None:
    """As where the disk fills up during a restore, which could have begun on a full one."""
    place = Repository("local", backend)

    async def work(lease: AbstractAsyncContextManager[None]) -> None:
        backend.mood = "well"
        async with lease:
            backend.mood, begun = "refusing", backend.begun
            await until(lambda: backend.begun > begun)
            await asyncio.sleep(0)

    await work(leased_for_reading(place, ID, "restore"))
    with pytest.raises(Refused):
        await work(leased(place, ID, "full backup"))
