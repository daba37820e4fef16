"""The blocking half of the local backend: files and folders under one root. Raises `OSError` like the os module.

A write goes to a temporary file beside its target, `<name>.tmp-<16 hex digits>`, is fsynced and renamed. `settle` then
fsyncs the folders in which names were given, so that a thousand small files do not cost a thousand fsyncs of folders.
"""

import errno
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from storage.backends.naming import is_name

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}$")
_MAKE_TRIES = 10
_COPY_BYTES = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS)
SYNCS = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as found: `path` is relative to the root, `name` the object it is or, if `temporary`, was to be."""

    name: str
    path: str
    size: int
    modified: datetime
    temporary: bool


def is_temporary(name: str) -> bool:
    """Whether a name means a temporary file, so that no object can have it."""
    return _TEMPORARY.search(name) is not None


class Tree:
    """Files under `root`, which is made (mode 0700, files 0600) by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unsettled: set[str] = set()
        self._making = threading.Lock()
        self._settling = threading.Lock()

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files, those that are there, and folders that became empty, but not the root."""
        folders = set()
        for path in paths:
            full = self.root / path
            # A folder by that name is no object; it gives IsADirectoryError here.
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                full.unlink()
                folders.add(full.parent)
        for folder in {self._prune(folder) for folder in folders}:
            with suppress(FileNotFoundError):
                sync_folder(folder)

    def walk(self, prefix: str) -> Iterator[Entry]:
        """Files whose object's name starts with `prefix`, in byte order of path; reads a folder when it gets there."""
        folder, slash, _ = prefix.rpartition("/")
        return self._walk(folder + slash, prefix)

    def folders(self, folder: str) -> list[str]:
        """Folders in `folder` (empty, or ending in `/`), in byte order."""
        return sorted(entry.name for entry in self._scan(folder) if entry.is_dir(follow_symlinks=False))

    def _walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        for found in sorted(self._scan(folder), key=_with_slash):
            if found.is_dir(follow_symlinks=False):
                if (folder + found.name + "/").startswith(prefix):
                    yield from self._walk(f"{folder}{found.name}/", prefix)
            elif (entry := _entry(folder, found)) is not None and entry.name.startswith(prefix):
                yield entry

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        """What lies in a folder, if it is there, foreign things such as `lost+found` aside."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
            return [entry for entry in entries if is_name(entry.name)]
        return []

    def make(self, folder: str) -> None:
        """Make a folder and those above it, durable once `settle` returns."""
        # Locked, for who finds a folder that another has just made must find it noted for `settle` too.
        with self._making:
            self._make(folder)

    def _make(self, folder: str) -> None:
        # To try is one call of the system, where to look first would be two or three.
        try:
            os.mkdir(folder, mode=0o700)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make(os.path.dirname(folder))
            os.mkdir(folder, mode=0o700)
        self.named(folder)

    def in_its_folder(self, path: str, make: Callable[[], T]) -> T:
        """What `make` returns, which makes a file of that path: in a folder that is there."""
        for _ in range(_MAKE_TRIES):
            # Somebody may remove the folder, empty as it is, before the file is in it.
            with suppress(FileNotFoundError):
                self.make(os.path.dirname(path))
                return make()
        raise FileNotFoundError(errno.ENOENT, "the folder is removed again and again")

    def named(self, path: str) -> None:
        """Something was given this name; `settle` makes that durable."""
        self._unsettled.add(os.path.dirname(path))

    def settle(self) -> None:
        """Make every name that was given so far durable."""
        # Locked, for who finds a folder already taken by another must not return before that one is done.
        with self._settling:
            # From the bottom up: the first fsync commits a journal that mostly holds the others' changes already.
            side_by_side(self._settle, sorted(self._unsettled, key=lambda folder: -folder.count("/")))

    def _settle(self, folder: str) -> None:
        self._unsettled.discard(folder)
        try:
            sync_folder(folder)
        except FileNotFoundError:
            pass  # somebody has deleted the objects already, and the folder with them
        except OSError:
            self._unsettled.add(folder)
            raise

    def _prune(self, folder: Path) -> Path:
        """Remove a folder and those above it as far as they are empty; return the first that stays."""
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            folder = folder.parent
        return folder


class TemporaryFile:
    """A file on its way to being the object `name`; opened by its first write, or by being published empty.

    Whoever uses it calls `discard` in the end, which does nothing once it is published.
    """

    def __init__(self, tree: Tree, name: str) -> None:
        self._tree = tree
        # Plain strings: objects of pathlib cost as much as the rest of writing a small file.
        self._name = f"{name}.tmp-{secrets.token_hex(8)}"
        self._target = os.path.join(tree.root, name)
        self._path = os.path.join(tree.root, self._name)
        self._fd: int | None = None
        self._durable = False
        self.size = 0

    @property
    def open(self) -> bool:
        """Whether there is something to discard."""
        return self._fd is not None

    def write(self, data: bytes) -> None:
        """Add every byte at the end."""
        fd, rest = self._opened(), memoryview(data)
        self._durable = False
        while rest:
            # One call of the system may take fewer bytes than it is given.
            rest = rest[os.write(fd, rest) :]
        self.size += len(data)

    def sync(self) -> None:
        """Make what was written so far durable, so that publishing the file need not wait for it."""
        fd = self._opened()
        if not self._durable:  # even of a file that is durable already, fsync waits for the disk
            os.fsync(fd)
            self._durable = True

    def publish(self) -> None:
        """Make the file durable and give it its name, in place of an older one; `settle` makes the name durable."""
        self.sync()
        os.replace(self._path, self._target)
        self._tree.named(self._target)
        self._close()

    def publish_new(self) -> None:
        """The same, but raises `FileExistsError` if the name is taken."""
        self.sync()
        # A link, unlike a rename, never replaces; `discard` takes the temporary name away.
        os.link(self._path, self._target)
        self._tree.named(self._target)

    def discard(self) -> None:
        """Free what is left of it."""
        if self._fd is not None:
            self._close()
            self._tree.remove([self._name])

    def _opened(self) -> int:
        if self._fd is None:
            self._fd = self._open()
        return self._fd

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return self._tree.in_its_folder(self._path, lambda: os.open(self._path, flags, 0o600))

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def copy_file(tree: Tree, name: str, to: str) -> None:
    """Give a file another name, in place of an older file of that name; where links are refused, copy its bytes.

    Files are never written to once they have their names, so that both may share them. `settle` makes the name durable.
    """
    try:
        _link(tree, name, to)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy_bytes(tree, name, to)


def _link(tree: Tree, name: str, to: str) -> None:
    target = os.path.join(tree.root, to)
    path = f"{target}.tmp-{secrets.token_hex(8)}"
    tree.in_its_folder(target, lambda: os.link(os.path.join(tree.root, name), path))
    try:
        os.replace(path, target)
        tree.named(target)
    finally:
        # A rename between two names of one file does nothing at all, and both stay.
        with suppress(FileNotFoundError):
            os.unlink(path)


def _copy_bytes(tree: Tree, name: str, to: str) -> None:
    file = TemporaryFile(tree, to)
    try:
        with open(os.path.join(tree.root, name), "rb") as source:
            while block := source.read(_COPY_BYTES):
                file.write(block)
        file.publish()
    finally:
        file.discard()


def side_by_side(sync: Callable[[T], None], things: Sequence[T]) -> None:
    """Sync many things: the file system commits at once what several ask for at once."""

    def sync_all(share: Sequence[T]) -> None:
        for thing in share:
            sync(thing)

    with ThreadPoolExecutor(SYNCS) as threads:
        list(threads.map(sync_all, (things[number::SYNCS] for number in range(SYNCS))))


def sync_folder(folder: str | Path) -> None:
    """Make the names in a folder durable, on file systems that know what that means."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _with_slash(entry: os.DirEntry[str]) -> str:
    # `a/…` comes after `a-b` and `a.b`: a folder sorts as if its name ended in the slash that follows it.
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name


def _entry(folder: str, found: os.DirEntry[str]) -> Entry | None:
    """What a listing says of a file; None if it vanished meanwhile or is no plain file."""
    if not found.is_file(follow_symlinks=False):
        return None
    try:
        facts = found.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    path = folder + found.name
    name = _TEMPORARY.sub("", path)
    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
    return Entry(name, path, facts.st_size, modified, temporary=name != path)
