"""What every backend promises of copies inside it, and of what it knows of an object's bytes by itself."""

import asyncio
import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.backends.overlay import Overlay
from storage.backends.protocol import Backend, Checksum
from storage.backends.s3 import S3Backend, S3Options
from storage.errors import NotFound, Refused
from tests.storage.conftest import OpenS3
from tests.storage.helpers import MIB, fetch, hash_of, names, payload, store, unfinished
from tests.storage.meddler import Meddler, Reply, error

SMALL, LARGE = 100_000, 9 * MIB + 17


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
async def test_a_copy_has_the_same_bytes(backend: Backend, size: int) -> None:
    await store(backend, "folder/object", payload(size))
    await backend.copy("folder/object", "other/folder/copy")
    await backend.settle()
    assert await fetch(backend, "other/folder/copy") == payload(size)
    assert await names(backend) == ["folder/object", "other/folder/copy"]
    assert await unfinished(backend) == []


async def test_a_copy_and_its_original_go_their_own_ways(backend: Backend) -> None:
    await store(backend, "one", payload(SMALL))
    await backend.copy("one", "two")
    await backend.copy("one", "three")
    await store(backend, "two", b"new")
    await backend.delete(["one"])
    assert await names(backend) == ["three", "two"]
    assert await fetch(backend, "three") == payload(SMALL)
    assert await fetch(backend, "two") == b"new"


async def test_copying_replaces_what_was_there_and_can_be_done_again(backend: Backend) -> None:
    await store(backend, "one", payload(SMALL))
    await store(backend, "two", b"old")
    for _ in range(2):
        await backend.copy("one", "two")
    assert await fetch(backend, "two") == payload(SMALL)
    assert await unfinished(backend) == []


async def test_there_is_no_copy_of_what_is_not_there(backend: Backend) -> None:
    with pytest.raises(NotFound, match="absent"):
        await backend.copy("absent", "copy")
    with pytest.raises(NotFound, match="absent"):
        await backend.checksum("absent")
    with pytest.raises(NotFound, match="absent"):
        await backend.lock_of("absent")
    assert await names(backend) == []


async def test_copies_have_proper_names_too(backend: Backend) -> None:
    await store(backend, "one", b"bytes")
    with pytest.raises(Refused):
        await backend.copy("one", "../two")
    with pytest.raises(Refused):
        await backend.copy("../one", "two")


@pytest.mark.parametrize("size", [0, SMALL, 8 * MIB])
async def test_what_a_store_knows_of_an_object_is_its_hash(backend: Backend, size: int) -> None:
    await store(backend, "object", payload(size))
    await backend.copy("object", "copy")
    assert await backend.checksum("object") == Checksum(hash_of(payload(size)))
    assert await backend.checksum("copy") == Checksum(hash_of(payload(size)))
    assert await backend.lock_of("copy") is None


async def test_purging_is_deleting_where_there_are_no_versions(backend: Backend) -> None:
    for name in ("a/one", "a/two", "b", "bb"):
        await store(backend, name, b"bytes")
    assert await backend.purge(["a/one", "b", "absent"]) == ()
    assert await names(backend) == ["a/two", "bb"]
    assert await backend.purge([]) == ()


def links(path: Path) -> int:
    return path.stat().st_nlink


async def test_a_copy_on_disk_takes_no_room(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    await store(backend, "one", payload(SMALL))
    await backend.copy("one", "folder/two")
    assert links(tmp_path / "one") == 2


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EXDEV])
async def test_where_the_file_system_refuses_a_link_the_bytes_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    backend = LocalBackend(tmp_path)
    await store(backend, "one", payload(3 * MIB))
    monkeypatch.setattr(os, "link", refuse)
    await backend.copy("one", "folder/two")
    assert links(tmp_path / "one") == 1
    assert await fetch(backend, "folder/two") == payload(3 * MIB)
    assert await unfinished(backend) == []


async def test_a_damaged_file_has_another_hash(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    await store(backend, "one", b"bytes")
    (tmp_path / "one").write_bytes(b"bites")
    assert await backend.checksum("one") == Checksum(hash_of(b"bites"))


async def test_an_overlay_copies_from_either_side_to_either_side() -> None:
    lower, upper = MemoryBackend(), MemoryBackend()
    overlay = Overlay(lower, upper, "made/")
    await store(overlay, "made/one", b"upper")
    await store(overlay, "two", b"lower")
    for name in ("made/one", "two"):
        await overlay.copy(name, f"made/copy-{name[-3:]}")
        await overlay.copy(name, f"copy-{name[-3:]}")
    assert await names(lower) == ["copy-one", "copy-two", "two"]
    assert await names(upper) == ["made/copy-one", "made/copy-two", "made/one"]
    assert await fetch(overlay, "copy-one") == b"upper"
    assert await overlay.checksum("made/copy-two") == Checksum(hash_of(b"lower"))
    assert await overlay.lock_of("made/one") is None
    assert await overlay.purge(["made/one", "two"]) == ()
    assert "two" not in await names(lower)


async def test_s3_copies_without_the_bytes_coming_by(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "one", payload(LARGE))
    meddler.seen.clear()
    await meddled.copy("one", "two")
    assert [(request.method, len(request.body)) for request in meddler.seen] == [("HEAD", 0), ("PUT", 0)]


def composite(data: bytes, part_bytes: int) -> Checksum:
    parts = [hashlib.sha256(data[at : at + part_bytes]).digest() for at in range(0, len(data), part_bytes)]
    return Checksum(hash_of(b"".join(parts)), part_bytes)


async def test_what_came_to_s3_in_parts_is_known_by_the_hashes_of_the_parts(s3: S3Backend) -> None:
    await store(s3, "one", payload(LARGE))
    assert await s3.checksum("one") == composite(payload(LARGE), 8 * MIB)


async def test_what_is_too_large_for_one_copy_is_copied_in_parts(s3_options: S3Options, open_s3: OpenS3) -> None:
    s3 = await open_s3(replace(s3_options, copy_bytes=5 * MIB))
    await store(s3, "one", payload(16 * MIB + 1))
    await s3.copy("one", "two")
    assert await fetch(s3, "two") == payload(16 * MIB + 1)
    assert await s3.checksum("two") == composite(payload(16 * MIB + 1), 5 * MIB)
    assert await unfinished(s3) == []


async def test_a_copy_in_parts_that_fails_leaves_nothing(
    meddler: Meddler, s3_options: S3Options, open_s3: OpenS3
) -> None:
    s3 = await open_s3(replace(s3_options, copy_bytes=5 * MIB, endpoint_url=meddler.url))
    await store(s3, "one", payload(16 * MIB))
    meddler.rule = lambda request: error(403, "AccessDenied") if "partNumber=3" in request.query else None
    with pytest.raises(Refused, match="copy part 3 of one to two"):
        await s3.copy("one", "two")
    meddler.rule = lambda _: None
    assert await names(s3) == ["one"]
    assert await unfinished(s3) == []


async def test_a_store_that_keeps_no_checksums_says_so(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "object", b"bytes")
    head = Reply(200, "bytes", {"Last-Modified": "Mon, 30 Nov 2026 06:00:00 GMT"})
    meddler.rule = lambda request: head if request.method == "HEAD" else None
    assert await meddled.checksum("object") is None


async def test_a_store_that_makes_no_checksums_copies_without(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "one", payload(SMALL))
    meddler.rule = lambda request: (
        error(501, "NotImplemented") if "x-amz-checksum-algorithm" in request.headers else None
    )
    await meddled.copy("one", "two")
    assert await fetch(meddled, "two") == payload(SMALL)
    assert sum("x-amz-checksum-algorithm" in request.headers for request in meddler.seen) == 1


async def test_a_copy_that_is_cancelled_is_whole_or_not_there(bare_backend: Backend) -> None:
    backend = bare_backend
    await store(backend, "one", payload(LARGE))
    for milliseconds in (0, 1, 5, 20):
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await backend.copy("one", "two")
        except TimeoutError:
            pass
        if "two" in await names(backend):
            assert await fetch(backend, "two") == payload(LARGE)
            await backend.delete(["two"])
    assert await unfinished(backend) == []
