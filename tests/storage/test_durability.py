"""What a power cut may take: nothing of a backup that has a manifest."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.backends.local import LocalBackend
from storage.objects import put
from storage.repository import Repository
from tests.manifests import sound
from tests.storage.helpers import MIB, payload, store


@dataclass
class Disk:
    """What the system was asked to keep of a folder, and what not yet: so much a power cut would take.

    `bytes` are files that were written to since they were fsynced, `names` what was given a name since its folder was.
    `named` is what of `names` there was as another name was given, by that; `torn` has names given to such `bytes`.
    """

    root: Path
    bytes: set[Path] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    named: dict[str, set[str]] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """A file or a folder is fsynced."""
        self.bytes.discard(path)
        self.names = {name for name in self.names if (self.root / name).parent != path}

    def name(self, path: Path, target: Path) -> None:
        """A file is given a name."""
        name = str(target.relative_to(self.root))
        self.named[name] = set(self.names)
        self.torn += [name] if path in self.bytes else []
        self.names.add(name)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The test's folder, and what the system is asked to do in it."""
    seen = Disk(tmp_path.resolve())
    write, fsync, replace, link, mkdir = os.write, os.fsync, os.replace, os.link, os.mkdir

    def opened(fd: int) -> Path:
        return Path(f"/proc/self/fd/{fd}").readlink()

    def writing(fd: int, data: bytes) -> int:
        seen.bytes.add(opened(fd))
        return write(fd, data)

    def keeping(fd: int) -> None:
        fsync(fd)
        seen.keep(opened(fd))

    def renaming(path: str, target: str) -> None:
        seen.name(Path(path), Path(target))
        replace(path, target)

    def linking(path: str, target: str) -> None:
        seen.name(Path(path), Path(target))
        link(path, target)

    def making(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        seen.names.add(str(Path(path).relative_to(seen.root)))

    heard = {"write": writing, "fsync": keeping, "replace": renaming, "link": linking, "mkdir": making}
    for name, function in heard.items():
        monkeypatch.setattr(os, name, function)
    return seen


@pytest.fixture
def local(disk: Disk) -> LocalBackend:
    return LocalBackend(disk.root)


async def upload(local: LocalBackend) -> None:
    await store(local, "a/one", payload(3 * MIB))


async def put_small(local: LocalBackend) -> None:
    await put(local, "a/one", b"bytes")


async def create(local: LocalBackend) -> None:
    await local.create("a/one", b"bytes")


async def store_together(local: LocalBackend) -> None:
    await local.store({"a/one": b"bytes", "a/two": b"others"})


Write = Callable[[LocalBackend], Awaitable[None]]


@pytest.mark.parametrize("write", [upload, put_small, create, store_together])
async def test_a_file_gets_its_name_once_its_bytes_are_on_disk(local: LocalBackend, disk: Disk, write: Write) -> None:
    await write(local)
    assert "a/one" in disk.named
    assert disk.torn == []


@pytest.mark.parametrize("write", [put_small, create, store_together])
async def test_what_was_stored_at_once_has_its_name_on_disk(local: LocalBackend, disk: Disk, write: Write) -> None:
    await write(local)
    assert "a/one" in disk.named
    assert disk.names == set()


async def test_names_of_what_was_uploaded_are_on_disk_once_it_is_settled(local: LocalBackend, disk: Disk) -> None:
    await upload(local)
    assert disk.names == {"a", "a/one"}
    await local.settle()
    assert disk.names == set()


async def test_copies_have_their_names_on_disk_once_they_are_settled(local: LocalBackend, disk: Disk) -> None:
    await put_small(local)
    await local.copy("a/one", "b/copy")
    # It is named twice: by a link that lies beside its name, and by that.
    assert {"b", "b/copy"} <= disk.names
    await local.settle()
    assert disk.names == set()


async def test_a_manifest_gets_its_name_once_everything_that_it_lists_is_on_disk(
    local: LocalBackend, disk: Disk
) -> None:
    made = sound()
    for name, data in made.objects.items():
        await store(local, name, data)
    assert disk.names >= made.objects.keys()
    await Repository("local", local).commit(made.manifest)
    lost = disk.named[str(made.manifest.name())]
    assert [name for name in lost if name.startswith("backups")] == []
    assert disk.names == set()
