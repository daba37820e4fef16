"""What every backend promises of reading, listing and deleting."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from storage.backends.protocol import Backend
from storage.errors import NotFound, Refused
from tests.storage.helpers import (
    MIB,
    everything,
    fetch,
    folders,
    listed,
    names,
    payload,
    store,
    unfinished,
)

ODD_NAMES = sorted(
    ["=2E", "~", "-", "_", "...", "..a", ".a", "a=", "x" * 200, "folder/" + "y" * 200 + "/~", "A/a", "B/A", "a-/=/~"]
)
NO_NAMES = ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "./a", "a b", "a\\b", "ä", "a\nb", "a%2e"]


@pytest.mark.parametrize("offset", [1, MIB - 1, MIB, 9 * MIB + 5])
async def test_reading_can_begin_anywhere(backend: Backend, offset: int) -> None:
    data = payload(9 * MIB + 6)
    await store(backend, "object", data)
    assert await fetch(backend, "object", offset) == data[offset:]


@pytest.mark.parametrize("size", [0, 10])
async def test_there_is_nothing_at_the_end_or_past_it(backend: Backend, size: int) -> None:
    await store(backend, "object", payload(size))
    assert await fetch(backend, "object", size) == b""
    assert await fetch(backend, "object", size + 5) == b""


async def test_blocks_are_at_most_a_mebibyte(backend: Backend) -> None:
    await store(backend, "object", payload(5 * MIB))
    assert max([len(block) async for block in backend.read("object")]) <= MIB


async def test_reading_may_stop_anywhere_any_number_of_times(backend: Backend) -> None:
    data = payload(5 * MIB)
    await store(backend, "object", data)
    for _ in range(40):
        async with aclosing(backend.read("object")) as blocks:
            assert data.startswith(await anext(blocks))
    assert await fetch(backend, "object") == data


async def test_many_can_read_at_once(backend: Backend) -> None:
    data = payload(3 * MIB)
    await store(backend, "object", data)
    assert set(await asyncio.gather(*(fetch(backend, "object") for _ in range(20)))) == {data}


async def test_what_does_not_exist_is_not_found(backend: Backend) -> None:
    await store(backend, "folder/object", b"bytes")
    for name in ("absent", "folder", "folder/absent", "folder/object/below", "folder/objec"):
        with pytest.raises(NotFound, match=name):
            await backend.stat(name)
        for offset in (0, 3):
            with pytest.raises(NotFound, match=name):
                await fetch(backend, name, offset)


async def test_a_listing_is_in_byte_order(backend: Backend) -> None:
    wanted = ["a-b", "a-c/c", "a.b/c", "a/b", "a/b-c/d", "a/b.c", "a0", "a=", "aa/b", "a~/b", "B", "b/c/d/e", "z"]
    for name in wanted:
        await store(backend, name, b"")
    assert await names(backend) == sorted(wanted)
    assert await names(backend, "a/") == sorted(name for name in wanted if name.startswith("a/"))


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a/b", ["a/b-c", "a/b/c", "a/bc"]),
        ("a/b/", ["a/b/c"]),
        ("a/b/c", ["a/b/c"]),
        ("a/b/c/", []),
        ("a", ["a/b-c", "a/b/c", "a/bc", "ab"]),
        ("nothing/here/", []),
    ],
)
async def test_a_prefix_is_the_beginning_of_a_name(backend: Backend, prefix: str, expected: list[str]) -> None:
    for name in ("a/b/c", "a/b-c", "a/bc", "ab", "b/a/b"):
        await store(backend, name, b"")
    assert await names(backend, prefix) == expected


async def test_an_empty_backend_lists_nothing(backend: Backend) -> None:
    assert await names(backend) == []
    assert await folders(backend) == []
    assert await unfinished(backend) == []


async def test_folders_are_the_next_components_that_something_is_below(backend: Backend) -> None:
    for name in ("top", "b/1", "a/1", "a/2/3", "a/2/4", "a-c/1", "a/5/6/7"):
        await store(backend, name, b"")
    assert await folders(backend) == ["a", "a-c", "b"]
    assert await folders(backend, "a/") == ["2", "5"]
    assert await folders(backend, "b/") == []
    assert await folders(backend, "absent/") == []


async def test_a_folder_that_holds_only_an_unfinished_write_is_named(backend: Backend) -> None:
    upload = await backend.begin("backups/one/data/object")
    for _ in range(11):
        await upload.append(payload(MIB))
    assert await folders(backend, "backups/") == ["one"]
    await upload.abort()


async def test_odd_names_are_names_like_others(backend: Backend) -> None:
    for name in ODD_NAMES:
        await store(backend, name, name.encode())
    assert await names(backend) == ODD_NAMES
    for name in ODD_NAMES:
        assert await fetch(backend, name) == name.encode()
        assert (await backend.stat(name)).size == len(name)
    await backend.delete(ODD_NAMES)
    assert await names(backend) == []


@pytest.mark.parametrize("name", NO_NAMES)
async def test_what_is_no_name_is_refused(backend: Backend, name: str) -> None:
    with pytest.raises(Refused):
        await store(backend, name, b"bytes")
    with pytest.raises(Refused):
        await backend.create(name, b"bytes")
    with pytest.raises(Refused):
        await fetch(backend, name)
    with pytest.raises(Refused):
        await backend.stat(name)
    with pytest.raises(Refused):
        await backend.delete([name])


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", "a b", "/a"])
async def test_what_begins_no_name_is_refused_as_a_prefix(backend: Backend, prefix: str) -> None:
    for found in (backend.list(prefix), backend.folders(prefix), backend.unfinished(prefix)):
        with pytest.raises(Refused):
            await everything(found)


async def test_stat_says_what_a_listing_says(backend: Backend) -> None:
    before = datetime.now(UTC)
    await store(backend, "folder/object", payload(1234))
    (found,) = await listed(backend)
    assert (found.name, found.size) == ("folder/object", 1234)
    assert found.modified.utcoffset() == timedelta(0)
    assert abs(found.modified - before) < timedelta(seconds=10)
    stat = await backend.stat("folder/object")
    assert (stat.name, stat.size) == (found.name, found.size)
    # Some stores tell a listing fractions of a second, and a single look-up none.
    assert abs(stat.modified - found.modified) < timedelta(seconds=1)


async def test_an_unfinished_write_says_when_it_began(backend: Backend) -> None:
    before = datetime.now(UTC)
    upload = await backend.begin("object")
    for _ in range(11):
        await upload.append(payload(MIB))
    (found,) = await unfinished(backend)
    await upload.abort()
    assert abs(found.started - before) < timedelta(seconds=10)


async def test_deleting_what_is_absent_is_no_error(backend: Backend) -> None:
    await store(backend, "folder/object", b"bytes")
    await backend.delete([])
    await backend.delete(["absent", "folder", "folder/absent", "folder/object/below"])
    assert await names(backend) == ["folder/object"]


async def test_deleted_objects_are_gone_and_others_stay(backend: Backend) -> None:
    for name in ("a/1", "a/2", "a-1"):
        await store(backend, name, b"bytes")
    await backend.delete(["a/1", "absent"])
    assert await names(backend) == ["a-1", "a/2"]
    with pytest.raises(NotFound):
        await fetch(backend, "a/1")


async def test_more_objects_than_one_request_takes_are_listed_and_deleted(bare_backend: Backend) -> None:
    wanted = sorted(f"objects/{number % 7}/{number}" for number in range(1050))
    gate = asyncio.Semaphore(8)

    async def write(name: str) -> None:
        async with gate:
            await store(bare_backend, name, b"")

    await asyncio.gather(*map(write, wanted))
    assert await names(bare_backend, "objects/") == wanted
    await bare_backend.delete(iter(wanted))
    assert await names(bare_backend) == []


async def test_free_room_is_a_number_of_bytes_or_unknown(backend: Backend) -> None:
    free = await backend.free_bytes()
    assert free is None or free > 0
