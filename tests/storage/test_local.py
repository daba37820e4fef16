"""What only the local backend promises: how files and folders look, and what a file system that says no means."""

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.backends.factory import open_local
from storage.backends.local import LocalBackend
from storage.errors import OutOfSpace, Refused
from storage.objects import BlockingReader
from tests.storage.helpers import MIB, blocks_of, fetch, names, payload, store, unfinished


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "new" / "root"


@pytest.fixture
def local(root: Path) -> LocalBackend:
    return LocalBackend(root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; mounting one takes root, which CI is."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "rowvault-test", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.fixture
def nobody(root: Path) -> Iterator[int]:
    """A root folder that this process may not enter; root, whom permissions don't stop, acts as somebody else."""
    root.mkdir(parents=True, mode=0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield os.geteuid()
    os.seteuid(before)


@pytest.fixture
def few_open_files() -> Iterator[int]:
    """How many files this process may have open, which are fewer than it may by default anywhere."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    yield 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def mount_read_only(where: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", where], check=True)


def make_files(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        os.mknod(folder / f"file-{number}")


def exists(path: Path) -> bool:
    return path.exists()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


async def test_the_first_write_makes_the_root_for_its_owner_alone(local: LocalBackend, root: Path) -> None:
    await names(local)
    assert not exists(root.parent)
    await store(local, "folder/object", b"bytes")
    assert [path.stat().st_mode & 0o777 for path in (root, root / "folder")] == [0o700, 0o700]
    assert (root / "folder" / "object").stat().st_mode & 0o777 == 0o600


async def test_objects_are_plain_files(root: Path) -> None:
    await store(open_local(root), "folder/object", payload(3 * MIB))
    assert files_in(root) == ["folder", "folder/object"]
    assert (root / "folder" / "object").read_bytes() == payload(3 * MIB)


async def test_a_file_being_written_lies_beside_its_name(local: LocalBackend, root: Path) -> None:
    upload = await local.begin("folder/object")
    await upload.append(payload(2 * MIB))
    (temporary,) = (root / "folder").iterdir()
    assert temporary.name.startswith("object.tmp-")
    assert (await unfinished(local))[0].token == f"folder/{temporary.name}"
    await upload.abort()


async def test_what_a_killed_writer_left_is_found_and_discarded(local: LocalBackend, root: Path) -> None:
    await store(local, "a/object", b"bytes")
    (root / "b").mkdir()
    (root / "b" / "object.tmp-0123456789abcdef").write_bytes(b"half")
    assert await names(local) == ["a/object"]
    (left,) = await unfinished(local)
    assert (left.name, left.token) == ("b/object", "b/object.tmp-0123456789abcdef")
    await local.discard(left)
    assert files_in(root) == ["a", "a/object"]


async def test_only_unfinished_writes_can_be_discarded(local: LocalBackend) -> None:
    await store(local, "object.tmp-1", b"bytes")
    upload = await local.begin("other")
    await upload.append(payload(2 * MIB))
    (left,) = await unfinished(local)
    await upload.abort()
    for token in ("object.tmp-1", "../object.tmp-0123456789abcdef"):
        with pytest.raises(Refused):
            await local.discard(type(left)(left.name, left.started, token))
    assert await names(local) == ["object.tmp-1"]


async def test_a_name_like_a_temporary_file_is_refused(local: LocalBackend) -> None:
    with pytest.raises(Refused, match="temporary"):
        await local.begin("object.tmp-0123456789abcdef")
    with pytest.raises(Refused, match="temporary"):
        await local.create("object.tmp-0123456789abcdef", b"")


async def test_folders_that_became_empty_go_but_the_root_stays(local: LocalBackend, root: Path) -> None:
    await store(local, "a/b/c/object", b"bytes")
    await store(local, "a/other", b"bytes")
    await local.delete(["a/b/c/object"])
    assert files_in(root) == ["a", "a/other"]
    await local.delete(["a/other"])
    assert files_in(root) == []
    assert exists(root)


async def test_what_is_not_ours_is_neither_shown_nor_removed(local: LocalBackend, root: Path) -> None:
    await store(local, "folder/object", b"bytes")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "#123").write_bytes(b"not ours")
    (root / "folder" / "a b").write_bytes(b"not ours")
    (root / "folder" / "link").symlink_to(root / "folder" / "object")
    assert await names(local) == ["folder/object"]
    await local.delete(["folder/object"])
    assert files_in(root) == ["folder", "folder/a b", "folder/link", "lost+found", "lost+found/#123"]


async def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(local: LocalBackend) -> None:
    async def write_and_delete(number: int) -> None:
        for _ in range(30):
            await store(local, f"shared/folder/{number}", b"bytes")
            await local.delete([f"shared/folder/{number}"])

    await asyncio.gather(*map(write_and_delete, range(4)))
    assert await names(local) == []


async def test_10000_objects_are_listed_by_reading_their_folder_once(
    local: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_files(root / "manifests", 10_001)
    read: list[Path] = []
    scandir = os.scandir

    def noting(folder: Path) -> Iterator[os.DirEntry[str]]:
        read.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", noting)
    assert len(await names(local, "manifests/")) == 10_001
    assert read == [root / "manifests"]


async def test_free_room_is_known_before_the_first_write(local: LocalBackend, root: Path) -> None:
    assert await local.free_bytes()
    assert not exists(root)


async def test_a_full_disk_is_out_of_space_and_leaves_nothing_behind(small_disk: Path) -> None:
    local = LocalBackend(small_disk / "root")
    await store(local, "kept", b"bytes")
    with pytest.raises(OutOfSpace, match=r"cannot write folder/object.*No space left") as caught:
        await store(local, "folder/object", payload(3 * MIB))
    assert str(small_disk) in caught.value.hint
    with pytest.raises(OutOfSpace):
        await local.create("folder/object", payload(3 * MIB))
    assert await names(local) == ["kept"]
    assert await unfinished(local) == []
    assert files_in(small_disk / "root") == ["kept"]
    assert await local.free_bytes()


async def test_a_disk_that_fills_up_at_the_commit_leaves_nothing_behind(small_disk: Path) -> None:
    local = LocalBackend(small_disk)
    upload = await local.begin("object")
    for block in blocks_of(payload(MIB - 1), 4096):
        await upload.append(block)
    (small_disk / "other").write_bytes(payload(MIB // 2))
    with pytest.raises(OutOfSpace):
        await upload.commit()
    await upload.abort()
    assert files_in(small_disk) == ["other"]


async def test_a_read_only_file_system_is_refused_with_what_to_do(small_disk: Path) -> None:
    local = LocalBackend(small_disk)
    await store(local, "object", b"bytes")
    mount_read_only(small_disk)
    with pytest.raises(Refused, match="Read-only") as caught:
        await store(local, "other", b"bytes")
    assert "Mount" in caught.value.hint
    with pytest.raises(Refused, match="Read-only"):
        await local.delete(["object"])
    assert await fetch(local, "object") == b"bytes"


async def test_a_folder_of_somebody_else_is_refused_with_what_to_do(local: LocalBackend, nobody: int) -> None:
    for attempt in (store(local, "object", b"bytes"), local.create("object", b"bytes"), names(local)):
        with pytest.raises(Refused, match="Permission denied") as caught:
            await attempt
        assert str(nobody) in caught.value.hint


async def test_a_file_in_place_of_a_folder_is_refused(local: LocalBackend) -> None:
    await store(local, "object", b"bytes")
    with pytest.raises(Refused, match="object/below"):
        await store(local, "object/below", b"bytes")
    await store(local, "folder/below", b"bytes")
    with pytest.raises(Refused, match="folder"):
        await store(local, "folder", b"bytes")
    assert await unfinished(local) == []


async def test_more_objects_than_files_may_be_open_are_stored_at_once(local: LocalBackend, few_open_files: int) -> None:
    objects = {f"object-{number}": b"data" for number in range(2 * few_open_files)}
    await local.store(objects)
    assert len(await names(local)) == len(objects)


async def test_reading_goes_on_though_all_of_the_loops_threads_wait_for_it(local: LocalBackend) -> None:
    """As they do in an export of many tables at a time."""
    await store(local, "object", b"data")
    readers = [BlockingReader(local.read("object")) for _ in range(50)]
    try:
        async with asyncio.timeout(20):
            read = await asyncio.gather(*(asyncio.to_thread(_all_of, reader) for reader in readers))
    finally:
        for reader in readers:
            reader.close()
    assert read == [b"data"] * len(readers)


def _all_of(reader: BlockingReader) -> bytes:
    return b"".join(iter(reader.fetch, b""))
