"""How `Retrying` tries again: what, how often, how long, and that nothing is lost or doubled by it."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Backend, StoredObject, Unfinished, Upload
from storage.backends.retrying import Patience, Retrying
from storage.errors import AlreadyExists, NotFound, Refused, StorageError, Unavailable
from tests.storage.helpers import MIB, fetch, folders, names, payload, store, unfinished

ALWAYS = range(1, 1_000_000)


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def read(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Faults:
    """Which steps fail: `{"append": {2, 3}}` are the second and the third append; each item of a listing is a step."""

    def __init__(self, planned: dict[str, Container[int]], error: StorageError) -> None:
        self._planned = planned
        self._error = error
        self.met: dict[str, int] = {}

    def meet(self, step: str) -> None:
        self.met[step] = self.met.get(step, 0) + 1
        if self.met[step] in self._planned.get(step, ()):
            raise self._error


class Unreliable(MemoryBackend):
    """A store in memory that is away now and then."""

    def __init__(self, planned: dict[str, Container[int]], error: StorageError) -> None:
        super().__init__()
        self.faults = Faults(planned, error)

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        self.faults.meet("begin")
        return UnreliableUpload(await super().begin(name, sha256=sha256), self.faults)

    async def create(self, name: str, data: bytes) -> None:
        self.faults.meet("create")
        await super().create(name, data)

    async def store(self, objects: Mapping[str, bytes]) -> None:
        for name, data in objects.items():
            self.faults.meet("store")
            await super().store({name: data})

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        async with aclosing(super().read(name, offset)) as blocks:
            async for block in blocks:
                self.faults.meet("read")
                yield block

    async def stat(self, name: str) -> StoredObject:
        self.faults.meet("stat")
        return await super().stat(name)

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        async for found in super().list(prefix):
            self.faults.meet("list")
            yield found

    async def folders(self, prefix: str = "") -> AsyncIterator[str]:
        async for found in super().folders(prefix):
            self.faults.meet("folders")
            yield found

    async def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.faults.meet("delete")
            await super().delete([name])

    async def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        async for found in super().unfinished(prefix):
            self.faults.meet("unfinished")
            yield found

    async def discard(self, unfinished: Unfinished) -> None:
        self.faults.meet("discard")
        await super().discard(unfinished)

    async def free_bytes(self) -> int | None:
        self.faults.meet("free_bytes")
        return 1234


class UnreliableUpload:
    """A write to it. What it raises, it raises before it takes anything, as the protocol demands."""

    def __init__(self, upload: Upload, faults: Faults) -> None:
        self._upload = upload
        self._faults = faults

    async def append(self, block: bytes) -> None:
        self._faults.meet("append")
        await self._upload.append(block)

    async def commit(self) -> int:
        self._faults.meet("commit")
        return await self._upload.commit()

    async def abort(self) -> None:
        await self._upload.abort()


@dataclass
class Patient:
    """A store with faults behind `Retrying`, and the clock that it looks at."""

    backend: Retrying
    faults: Faults
    clock: Clock


def patient(
    planned: dict[str, Container[int]],
    error: StorageError | None = None,
    *,
    attempts: int = 4,
    longest_delay: float = 15.0,
    total: float = 120.0,
    chance: Callable[[], float] = lambda: 1.0,
) -> Patient:
    clock = Clock()
    bare = Unreliable(planned, error or Unavailable("the store is away", "wait for it"))
    patience = Patience(attempts, 1.0, longest_delay, total, clock.read, clock.sleep, chance)
    return Patient(Retrying(bare, patience), bare.faults, clock)


STEPS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "begin": lambda backend: store(backend, "new", b"bytes"),
    "append": lambda backend: store(backend, "new", b"bytes"),
    "commit": lambda backend: store(backend, "new", b"bytes"),
    "create": lambda backend: backend.create("new", b"bytes"),
    "store": lambda backend: backend.store({"new": b"bytes"}),
    "read": lambda backend: fetch(backend, "object"),
    "stat": lambda backend: backend.stat("object"),
    "list": names,
    "folders": folders,
    "delete": lambda backend: backend.delete(["object"]),
    "unfinished": unfinished,
    "free_bytes": lambda backend: backend.free_bytes(),
}


async def prepare(backend: Backend) -> None:
    """Give a store something to show, whatever its faults."""
    bare = MemoryBackend.begin
    assert isinstance(backend, Retrying)
    assert isinstance(backend._backend, MemoryBackend)
    for name in ("object", "folder/left"):
        upload = await bare(backend._backend, name)
        await upload.append(b"bytes")
        if name == "object":
            await upload.commit()


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_twice_succeeds_the_third_time(step: str) -> None:
    away = patient({step: {1, 2}})
    await prepare(away.backend)
    await STEPS[step](away.backend)
    assert away.clock.pauses == [1, 2]


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_goes_on_failing_is_given_up(step: str) -> None:
    away = patient({step: ALWAYS})
    await prepare(away.backend)
    with pytest.raises(Unavailable, match=r"the store is away \(tried 4 times\)") as caught:
        await STEPS[step](away.backend)
    assert caught.value.hint == "wait for it"
    assert away.faults.met[step] == 4


@pytest.mark.parametrize("error", [Refused("no"), NotFound("no"), AlreadyExists("no")])
@pytest.mark.parametrize("step", STEPS)
async def test_only_unavailable_is_worth_another_try(step: str, error: StorageError) -> None:
    away = patient({step: ALWAYS}, error)
    await prepare(away.backend)
    with pytest.raises(type(error)) as caught:
        await STEPS[step](away.backend)
    assert caught.value is error
    assert away.faults.met[step] == 1
    assert away.clock.pauses == []


async def test_pauses_double_up_to_the_longest() -> None:
    away = patient({"stat": ALWAYS}, attempts=7, longest_delay=10)
    with pytest.raises(Unavailable):
        await away.backend.stat("object")
    assert away.clock.pauses == [1, 2, 4, 8, 10, 10]


async def test_pauses_are_jittered_over_their_whole_length() -> None:
    chances = iter([0.0, 0.5, 0.25])
    away = patient({"stat": ALWAYS}, chance=lambda: next(chances, 1.0))
    with pytest.raises(Unavailable):
        await away.backend.stat("object")
    assert away.clock.pauses == [0, 1, 1]


async def test_no_try_begins_after_the_total_time() -> None:
    away = patient({"stat": ALWAYS}, attempts=100, total=20)
    with pytest.raises(Unavailable, match="tried 5 times"):
        await away.backend.stat("object")
    assert away.clock.pauses == [1, 2, 4, 8]


async def test_blocks_appended_again_are_not_doubled() -> None:
    data = payload(10 * MIB)
    away = patient({"append": {2, 3, 5, 9}, "commit": {1, 2}})
    await store(away.backend, "object", data)
    assert await fetch(away.backend, "object") == data


async def test_many_are_stored_together_though_some_fail_each_time() -> None:
    away = patient({"store": range(10, 1_000_000, 10)})
    objects = {f"object-{number}": payload(100, number) for number in range(200)}
    await away.backend.store(objects)
    assert {name: await fetch(away.backend, name) for name in await names(away.backend)} == objects


async def test_a_read_goes_on_where_it_broke_off() -> None:
    data = payload(10 * MIB)
    away = patient({"read": {3, 4, 5, 9, 14}})
    await store(away.backend, "object", data)
    assert await fetch(away.backend, "object", 17) == data[17:]
    # Each block that arrives renews patience: three failures in a row, then one, then one.
    assert away.clock.pauses == [1, 2, 4, 1, 1]


async def test_a_listing_shows_every_object_once_however_often_it_breaks() -> None:
    away = patient({"list": {4, 7, 8, 20}})
    wanted = sorted(f"object-{number}" for number in range(12))
    for name in wanted:
        await store(away.backend, name, b"")
    assert await names(away.backend) == wanted


async def test_deleting_from_an_iterator_deletes_everything_at_the_second_try() -> None:
    away = patient({"delete": {3}})
    wanted = [f"object-{number}" for number in range(6)]
    for name in wanted:
        await store(away.backend, name, b"")
    await away.backend.delete(iter(wanted))
    assert await names(away.backend) == []


async def test_discarding_is_tried_again() -> None:
    away = patient({"discard": {1}})
    await prepare(away.backend)
    (left,) = await unfinished(away.backend)
    await away.backend.discard(left)
    assert await unfinished(away.backend) == []
