"""What every backend promises of writing: whole, exactly, once committed and never before."""

import asyncio
from collections.abc import Iterator

import pytest

from storage.backends.protocol import Backend
from storage.errors import AlreadyExists, Corrupt, NotFound, Refused
from tests.storage.helpers import MIB, blocks_of, fetch, hash_of, names, payload, store, store_stream, unfinished

SMALL = 100_000
LARGE = 9 * MIB + 17


def _broken_after(blocks: int) -> Iterator[bytes]:
    for _ in range(blocks):
        yield payload(MIB)
    raise ConnectionResetError("the database went away")


@pytest.mark.parametrize("size", [0, 1, SMALL, 8 * MIB, 8 * MIB + 1, 20 * MIB])
async def test_what_is_written_is_read_back(backend: Backend, size: int) -> None:
    data = payload(size)
    assert await store(backend, "folder/object", data) == size
    assert await fetch(backend, "folder/object") == data
    assert (await backend.stat("folder/object")).size == size


async def test_small_objects_can_be_stored_together(backend: Backend) -> None:
    objects = {f"folder/{number}/object": payload(number * 1000) for number in range(30)}
    await store(backend, "folder/7/object", b"old")
    await backend.store(objects)
    assert {name: await fetch(backend, name) for name in await names(backend)} == objects
    assert await unfinished(backend) == []


async def test_small_objects_stored_together_have_proper_names_too(backend: Backend) -> None:
    with pytest.raises(Refused):
        await backend.store({"folder/good": b"bytes", "folder/../bad": b"bytes"})


@pytest.mark.parametrize("block", [77_777, 17 * MIB])
async def test_blocks_may_have_any_length(backend: Backend, block: int) -> None:
    data = payload(17 * MIB)
    await store(backend, "object", data, block=block)
    assert await fetch(backend, "object") == data


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_an_object_is_visible_only_after_its_commit(backend: Backend, size: int) -> None:
    upload = await backend.begin("object")
    for block in blocks_of(payload(size)):
        await upload.append(block)
    assert await names(backend) == []
    with pytest.raises(NotFound):
        await backend.stat("object")
    with pytest.raises(NotFound):
        await fetch(backend, "object")
    await upload.commit()
    await upload.abort()
    assert await names(backend) == ["object"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_writing_again_replaces_the_object_at_the_commit(backend: Backend, size: int) -> None:
    await store(backend, "object", b"old")
    upload = await backend.begin("object")
    for block in blocks_of(payload(size)):
        await upload.append(block)
    assert await fetch(backend, "object") == b"old"
    await upload.commit()
    await upload.abort()
    assert await fetch(backend, "object") == payload(size)


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
async def test_an_aborted_write_leaves_nothing(backend: Backend, size: int) -> None:
    upload = await backend.begin("folder/object")
    for block in blocks_of(payload(size)):
        await upload.append(block)
    await upload.abort()
    await upload.abort()
    assert await names(backend) == []
    assert await unfinished(backend) == []


@pytest.mark.parametrize("blocks", [0, 1, 11])
async def test_a_source_that_fails_leaves_nothing(backend: Backend, blocks: int) -> None:
    with pytest.raises(ConnectionResetError):
        await store_stream(backend, "object", _broken_after(blocks))
    assert await names(backend) == []
    assert await unfinished(backend) == []


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
async def test_a_promise_that_is_kept_is_accepted(backend: Backend, size: int) -> None:
    data = payload(size)
    await store(backend, "object", data, sha256=hash_of(data))
    assert await fetch(backend, "object") == data


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
async def test_bytes_other_than_promised_are_corrupt_and_never_visible(backend: Backend, size: int) -> None:
    await store(backend, "replaced", b"old")
    for name in ("new", "replaced"):
        with pytest.raises(Corrupt, match=name):
            await store(backend, name, payload(size), sha256=hash_of(b"something else"))
    assert await names(backend) == ["replaced"]
    assert await fetch(backend, "replaced") == b"old"
    assert await unfinished(backend) == []


@pytest.mark.parametrize("milliseconds", [0, 1, 3, 10, 20, 40, 80])
async def test_a_cancelled_write_is_whole_or_nothing(backend: Backend, milliseconds: int) -> None:
    data = payload(LARGE)
    try:
        async with asyncio.timeout(milliseconds / 1000):
            await store(backend, "object", data, block=2 * MIB)
    except TimeoutError:
        assert await names(backend) in ([], ["object"])
    for left in await unfinished(backend):
        await backend.discard(left)
    assert await unfinished(backend) == []
    if await names(backend):
        assert await fetch(backend, "object") == data


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_cancelled_commit_is_whole_or_nothing(backend: Backend, size: int) -> None:
    await store(backend, "object", b"old")
    upload = await backend.begin("object")
    for block in blocks_of(payload(size)):
        await upload.append(block)
    commit = asyncio.create_task(upload.commit())
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    await upload.abort()
    assert await fetch(backend, "object") in (b"old", payload(size))
    assert await unfinished(backend) == []


async def test_objects_can_be_written_side_by_side(backend: Backend) -> None:
    objects = {f"object-{number}": payload(9 * MIB, number) for number in range(3)}
    async with asyncio.TaskGroup() as writers:
        for name, data in objects.items():
            writers.create_task(store(backend, name, data))
    for name, data in objects.items():
        assert await fetch(backend, name) == data


async def test_of_two_writers_of_one_object_one_prevails_whole(backend: Backend) -> None:
    versions = [payload(9 * MIB, seed) for seed in range(2)]
    async with asyncio.TaskGroup() as writers:
        for data in versions:
            writers.create_task(store(backend, "object", data))
    assert await fetch(backend, "object") in versions


async def test_create_makes_an_object_only_once(backend: Backend) -> None:
    await backend.create("folder/lock", b"first")
    for data in (b"second", b"first"):
        with pytest.raises(AlreadyExists, match="folder/lock"):
            await backend.create("folder/lock", data)
    assert await fetch(backend, "folder/lock") == b"first"
    assert await unfinished(backend) == []


async def test_create_respects_an_object_written_otherwise(backend: Backend) -> None:
    await store(backend, "object", b"first")
    with pytest.raises(AlreadyExists):
        await backend.create("object", b"second")


async def test_create_can_make_an_empty_object_and_one_deleted_before(backend: Backend) -> None:
    await backend.create("object", b"")
    assert await fetch(backend, "object") == b""
    await backend.delete(["object"])
    await backend.create("object", b"again")
    assert await fetch(backend, "object") == b"again"


@pytest.mark.parametrize("alike", [True, False])
async def test_of_many_who_create_at_once_exactly_one_succeeds(backend: Backend, *, alike: bool) -> None:
    contents = [b"same" if alike else f"caller {number}".encode() for number in range(5)]
    outcomes = await asyncio.gather(*(backend.create("folder/lock", data) for data in contents), return_exceptions=True)
    winners = [data for data, outcome in zip(contents, outcomes, strict=True) if outcome is None]
    losers = [outcome for outcome in outcomes if outcome is not None]
    assert len(winners) == 1
    assert all(isinstance(outcome, AlreadyExists) for outcome in losers), losers
    assert await fetch(backend, "folder/lock") == winners[0]


async def test_an_unfinished_write_is_found_and_can_be_discarded(backend: Backend) -> None:
    upload = await backend.begin("folder/object")
    for block in blocks_of(payload(LARGE)):
        await upload.append(block)
    (found,) = await unfinished(backend)
    assert found.name == "folder/object"
    assert await unfinished(backend, "folder/") == [found]
    assert await unfinished(backend, "elsewhere/") == []
    await backend.discard(found)
    await backend.discard(found)
    assert await unfinished(backend) == []
    with pytest.raises(Refused):
        await upload.commit()
    await upload.abort()
    assert await names(backend) == []


async def test_discarding_one_write_leaves_others_alone(backend: Backend) -> None:
    uploads = {name: await backend.begin(name) for name in ("a/object", "b/object")}
    for upload in uploads.values():
        for block in blocks_of(payload(LARGE)):
            await upload.append(block)
    for found in await unfinished(backend, "a/"):
        await backend.discard(found)
    await uploads["a/object"].abort()
    await uploads["b/object"].commit()
    assert await fetch(backend, "b/object") == payload(LARGE)
