"""A backend in a folder of a local (or mounted) file system.

Objects are plain files. A disk that says no is not asked again: nothing here raises `Unavailable`.
"""

import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

from storage.backends.local_files import Entry, TemporaryFile, Tree, copy_file, is_temporary, side_by_side
from storage.backends.naming import require_name, require_prefix
from storage.backends.protocol import Checksum, Locked, StoredObject, Unfinished, Upload
from storage.backends.waiting import in_thread
from storage.errors import AlreadyExists, Corrupt, NotFound, OutOfSpace, Refused, StorageError

BLOCK_BYTES = 1 << 20
LIST_BATCH = 1000
STORE_BATCH = 100  # files open at a time: many systems let a process have 1,024


class LocalBackend:
    """Objects as files under `root`. Implements `Backend`; usable from any event loop."""

    def __init__(self, root: Path) -> None:
        self._tree = Tree(root)
        self._storing = threading.Lock()

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        """See `Backend.begin`."""
        _require_visible(name)
        return _LocalUpload(self._tree, name, sha256)

    async def create(self, name: str, data: bytes) -> None:
        """See `Backend.create`. At most one caller succeeds: the name is given by a hard link."""
        _require_visible(name)
        with _explained("create", name, self._tree.root):
            await in_thread(self._create, name, data)

    async def store(self, objects: Mapping[str, bytes]) -> None:
        """See `Backend.store`."""
        for name in objects:
            _require_visible(name)
        with _explained("write", "", self._tree.root):
            await in_thread(self._store, objects)

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`."""
        reader = _Reader(self._tree.root / require_name(name), offset)
        with _explained("read", name, self._tree.root), closing(reader):
            while block := await in_thread(reader.next_block):
                yield block

    async def stat(self, name: str) -> StoredObject:
        """See `Backend.stat`."""
        with _explained("look up", name, self._tree.root):
            facts = await in_thread((self._tree.root / require_name(name)).stat)
            _require_file(facts)
        return StoredObject(name, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See `Backend.list`."""
        async for entry in self._entries(prefix):
            if not entry.temporary:
                yield StoredObject(entry.name, entry.size, entry.modified)

    async def folders(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Backend.folders`."""
        with _explained("list", prefix, self._tree.root):
            found = await in_thread(self._tree.folders, require_prefix(prefix))
        for folder in found:
            yield folder

    async def delete(self, names: Iterable[str]) -> None:
        """See `Backend.delete`; folders that became empty go too."""
        rest = iter(names)
        with _explained("delete", "", self._tree.root):
            while batch := [require_name(name) for name in islice(rest, LIST_BATCH)]:
                await in_thread(self._tree.remove, batch)

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        """See `Backend.purge`: a file system keeps no versions."""
        await self.delete(names)
        return ()

    async def lock_of(self, name: str) -> Locked | None:
        """See `Backend.lock_of`: a file system knows no locks that end by themselves."""
        await self.stat(name)
        return None

    async def copy(self, name: str, to: str) -> None:
        """See `Backend.copy`: by a hard link, where the file system takes one."""
        _require_visible(to)
        with _explained("read", name, self._tree.root):
            _require_file(await in_thread((self._tree.root / require_name(name)).stat))
        with _explained("write", to, self._tree.root):
            await in_thread(copy_file, self._tree, name, to)

    async def checksum(self, name: str) -> Checksum | None:
        """See `Backend.checksum`: the file is read."""
        with _explained("read", name, self._tree.root):
            return Checksum(await in_thread(_hash_file, self._tree.root / require_name(name)))

    async def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        """See `Backend.unfinished`: temporary files; `started` is when they were written to last."""
        async for entry in self._entries(prefix):
            if entry.temporary:
                yield Unfinished(entry.name, entry.modified, entry.path)

    async def discard(self, unfinished: Unfinished) -> None:
        """See `Backend.discard`."""
        path = require_name(unfinished.token)
        if not is_temporary(path):
            raise Refused(f"{path} is no unfinished write", "Discard what `unfinished` found.")
        with _explained("discard", path, self._tree.root):
            await in_thread(self._tree.remove, [path])

    async def free_bytes(self) -> int | None:
        """See `Backend.free_bytes`: what an unprivileged user may still write on that file system."""
        with _explained("measure", "the free room", self._tree.root):
            return await in_thread(_free_bytes, self._tree.root)

    async def settle(self) -> None:
        """See `Backend.settle`: the folders are fsynced; the files were before they got their names."""
        with _explained("settle", "", self._tree.root):
            await in_thread(self._tree.settle)

    async def close(self) -> None:
        """See `Backend.close`: there is nothing to release."""

    async def _entries(self, prefix: str) -> AsyncIterator[Entry]:
        walk = self._tree.walk(require_prefix(prefix))
        with _explained("list", prefix, self._tree.root):
            while batch := await in_thread(list, islice(walk, LIST_BATCH)):
                for entry in batch:
                    yield entry

    def _store(self, objects: Mapping[str, bytes]) -> None:
        rest = iter(objects.items())
        while batch := list(islice(rest, STORE_BATCH)):
            self._store_batch(batch)
        self._tree.settle()

    def _store_batch(self, objects: Iterable[tuple[str, bytes]]) -> None:
        files: list[TemporaryFile] = []
        try:
            # One after the other: at each of a thousand small calls threads would wait for each other's lock.
            with self._storing:
                for name, data in objects:
                    files.append(TemporaryFile(self._tree, name))
                    files[-1].write(data)
            side_by_side(TemporaryFile.sync, files)
            for file in files:
                file.publish()
        finally:
            for file in files:
                file.discard()

    def _create(self, name: str, data: bytes) -> None:
        file = TemporaryFile(self._tree, name)
        try:
            file.write(data)
            file.publish_new()
        finally:
            file.discard()
        self._tree.settle()


class _Reader:
    """A file being read; opened by the first block, so that a cancelled opening leaves nothing open."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._fd: int | None = None
        self._block = BLOCK_BYTES

    def next_block(self) -> bytes:
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            facts = os.fstat(self._fd)
            _require_file(facts)
            os.lseek(self._fd, self._offset, os.SEEK_SET)
            # For a small file a large buffer would take longer than the file.
            self._block = min(BLOCK_BYTES, facts.st_size + 1)
        return os.read(self._fd, self._block)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


class _LocalUpload:
    """A temporary file that `commit` gives its name; blocks are gathered, to enter a thread less often."""

    def __init__(self, tree: Tree, name: str, sha256: str | None) -> None:
        self._file = TemporaryFile(tree, name)
        self._name = name
        self._promised = sha256
        self._hash = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._explained = partial(_explained, "write", name, tree.root)

    async def append(self, block: bytes) -> None:
        self._gathered.append(block)
        self._gathered_bytes += len(block)
        if self._gathered_bytes >= BLOCK_BYTES:
            with self._explained():
                await in_thread(self._write_gathered)

    async def commit(self) -> int:
        with self._explained():
            return await in_thread(self._publish)

    async def abort(self) -> None:
        if self._file.open:
            with suppress(OSError):
                await in_thread(self._file.discard)

    def _write_gathered(self) -> None:
        blocks, self._gathered, self._gathered_bytes = self._gathered, [], 0
        for block in blocks:
            if self._promised is not None:
                self._hash.update(block)
            self._file.write(block)

    def _publish(self) -> int:
        self._write_gathered()
        if self._promised not in (None, self._hash.hexdigest()):
            self._file.discard()
            raise Corrupt(f"{self._name}: the bytes have another SHA-256 than was promised")
        self._file.publish()
        return self._file.size


def _require_visible(name: str) -> None:
    if is_temporary(require_name(name)):
        raise Refused(f"{name} would look like a temporary file", "Give the object another name.")


def _require_file(facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise FileNotFoundError(errno.ENOENT, "no plain file")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        _require_file(os.fstat(file.fileno()))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free_bytes(root: Path) -> int:
    # Before the first write the root is not there; the folder it will be made in has the same room.
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free


@contextmanager
def _explained(verb: str, name: str, root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, verb, name, root) from error


def _explain(error: OSError, verb: str, name: str, root: Path) -> StorageError:
    reason = f"cannot {verb} {name or 'objects'} in {root}: {error.strerror}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return OutOfSpace(reason, f"Free some room on the file system of {root}, or enlarge it.")
        case errno.ENOENT | errno.ENOTDIR if verb in ("read", "look up"):
            return NotFound(f"{name} does not exist in {root}")
        case errno.EEXIST if verb == "create":
            return AlreadyExists(f"{name} exists already in {root}")
        case errno.EACCES | errno.EPERM:
            return Refused(reason, f"Let user id {os.geteuid()} write in {root}; it needs hard links, too.")
        case errno.EROFS:
            return Refused(reason, f"Mount the file system of {root} writable.")
        case errno.EMFILE | errno.ENFILE:
            return Refused(reason, "Raise the limit of open files (ulimit -n).")
        case errno.ENOTDIR | errno.EISDIR:
            return Refused(reason, f"A file is where a folder should be, or the other way round, under {root}.")
        case _:
            return Refused(reason, f"Look at the file system of {root} and the kernel's log.")
