"""What a place to keep objects must be able to do: the one interface every backend implements.

An object has a name: components of `A-Z a-z 0-9 . _ - ~ =` joined by `/`, none of them `.` or `..`, each of at most
230 bytes (`storage.names` makes such names of anything). No object's name is the folder of another's: there is no
`a/b` beside `a`. Objects are immutable but for being deleted or written again whole. What else lies about in a bucket
or folder, named otherwise, is never shown.

Every method raises only `storage.errors`: `Unavailable` where another try may help, `Refused` where it will not.
Every method may be cancelled at any await; what a cancelled call leaves behind is never visible to a reader.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as a listing shows it; `size` in bytes, `modified` by the store's own clock (UTC)."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that was begun and neither committed nor aborted: a temporary file, a multipart upload.

    `token` is the backend's own handle on it (a path, an upload id).
    """

    name: str
    started: datetime
    token: str


@dataclass(frozen=True, slots=True)
class Checksum:
    """What tells an object's bytes: their SHA-256 (hex).

    With `part_bytes` it is that of the SHA-256s, one after another, of its parts of that many bytes: so do stores keep
    it of what came in parts.
    """

    sha256: str
    part_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Locked:
    """A version of an object that the store does not let go of `until` then; None: until somebody lifts a hold.

    `version` is the store's own name for it.
    """

    name: str
    version: str
    until: datetime | None


class Upload(Protocol):
    """One object being written. Nobody sees it before `commit`.

    Used by one task at a time. Whoever began it calls `abort` in the end, whatever happened. After `commit` or `abort`
    it is spent; after an `append` or a `commit` that was cancelled only `abort` is left.
    """

    async def append(self, block: bytes) -> None:
        """Add bytes at the end; any length, blocks are regrouped as the store likes them.

        If it raises `Unavailable`, it took nothing of this block: the same block may be appended again.
        """

    async def commit(self) -> int:
        """Make the bytes durable, then the object visible, replacing an older one; return its size in bytes.

        Raises `Corrupt`, and leaves nothing visible, if a hash was promised to `begin` and the bytes have another.
        May be called again after `Unavailable`. If cancelled, the object is visible whole or not at all.
        """

    async def abort(self) -> None:
        """Forget the object and free what it took. Does nothing after `commit` or another `abort`.

        Raises nothing: what the store does not let it free at once is left for `unfinished` to find.
        """


class Backend(Protocol):
    """A flat store of named objects."""

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        """Begin an object. `sha256` (hex) promises what the bytes will be, where that is known beforehand."""

    async def create(self, name: str, data: bytes) -> None:
        """Store a small object, durably and at once, only if none of that name exists; else raise `AlreadyExists`.

        Of two concurrent callers at most one succeeds, where the store can promise that (S3: `If-None-Match: *`).
        """

    async def store(self, objects: Mapping[str, bytes]) -> None:
        """Store several small objects, each as by `begin`, `append` and `commit`, in fewer steps.

        If it raises, any of them may be there.
        """

    def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The object's bytes from `offset` on, in blocks of at most 1 MiB; none at or past its end.

        Raises `NotFound` at the first block. Who stops before the end closes it (`contextlib.aclosing`).
        """

    async def stat(self, name: str) -> StoredObject:
        """What a listing would say of this one object. Raises `NotFound`."""

    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Every visible object whose name starts with `prefix`, in byte order of their names."""

    def folders(self, prefix: str = "") -> AsyncIterator[str]:
        """The distinct next components of names under `prefix` (which is empty or ends in `/`), in byte order.

        Without reading deeper. Only components followed by a `/` count; those that hold nothing but unfinished writes
        do too, and one that has become empty may for a while.
        """

    async def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is absent already is no error."""

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        """Delete objects with every older version that the store kept of them; return what it would not let go of.

        An object of which a version is locked stays as visible as it was, so that another purge finds it later. Where
        the store keeps no versions this is `delete`.
        """

    async def lock_of(self, name: str) -> Locked | None:
        """What keeps the object from being removed now; None for nothing, and where the store knows no locks.

        Raises `NotFound`.
        """

    async def copy(self, name: str, to: str) -> None:
        """Store what `name` holds as `to` too, replacing an older one, without its bytes travelling where that can be.

        Either may be deleted or written again without touching the other. Raises `NotFound`. If cancelled, `to` is
        visible whole, as it was before, or not at all.
        """

    async def checksum(self, name: str) -> Checksum | None:
        """What tells the object's bytes, as the store itself knows it, without sending them; None if it does not know.

        A store that only keeps what it once computed tells of what was written, not of what rests there now. Raises
        `NotFound`.
        """

    def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        """Writes under `prefix` that were begun and never ended, by anybody, in no particular order."""

    async def discard(self, unfinished: Unfinished) -> None:
        """Free what an unfinished write took; one that is gone already is no error."""

    async def settle(self) -> None:
        """Return once everything committed before is durable, its name too: whoever builds on it calls this first."""

    async def free_bytes(self) -> int | None:
        """Room left in bytes, or None where the store has no such figure."""

    async def close(self) -> None:
        """Release connections. The backend is spent."""
