"""A backend in memory, for tests: what every other backend is compared with."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from storage.backends.naming import require_name, require_prefix
from storage.backends.protocol import Checksum, Locked, StoredObject, Unfinished, Upload
from storage.errors import AlreadyExists, Corrupt, NotFound, Refused

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Stored:
    data: bytes
    modified: datetime


@dataclass
class _State:
    objects: dict[str, _Stored] = field(default_factory=dict)
    unfinished: dict[str, Unfinished] = field(default_factory=dict)
    tokens: "count[int]" = field(default_factory=count)

    def put(self, name: str, data: bytes) -> None:
        self.objects[name] = _Stored(data, datetime.now(UTC))


class MemoryBackend:
    """Objects in a dictionary: gone with the process. Implements `Backend`."""

    def __init__(self) -> None:
        self._state = _State()

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        """See `Backend.begin`."""
        token = str(next(self._state.tokens))
        self._state.unfinished[token] = Unfinished(require_name(name), datetime.now(UTC), token)
        return _MemoryUpload(self._state, name, token, sha256)

    async def create(self, name: str, data: bytes) -> None:
        """See `Backend.create`."""
        await asyncio.sleep(0)
        if require_name(name) in self._state.objects:
            raise AlreadyExists(f"{name} exists already")
        self._state.put(name, data)

    async def store(self, objects: Mapping[str, bytes]) -> None:
        """See `Backend.store`."""
        for name, data in objects.items():
            await asyncio.sleep(0)
            self._state.put(require_name(name), data)

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`."""
        data = self._get(name).data
        for start in range(offset, len(data), BLOCK_BYTES):
            await asyncio.sleep(0)
            yield data[start : start + BLOCK_BYTES]

    async def stat(self, name: str) -> StoredObject:
        """See `Backend.stat`."""
        stored = self._get(name)
        return StoredObject(name, len(stored.data), stored.modified)

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See `Backend.list`."""
        require_prefix(prefix)
        for name, stored in sorted(self._state.objects.items()):
            if name.startswith(prefix):
                yield StoredObject(name, len(stored.data), stored.modified)

    async def folders(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Backend.folders`."""
        require_prefix(prefix)
        names = [*self._state.objects, *(one.name for one in self._state.unfinished.values())]
        rests = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        for folder in sorted({rest.partition("/")[0] for rest in rests if "/" in rest}):
            yield folder

    async def delete(self, names: Iterable[str]) -> None:
        """See `Backend.delete`."""
        for name in names:
            self._state.objects.pop(require_name(name), None)

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        """See `Backend.purge`: there are no versions."""
        await self.delete(names)
        return ()

    async def lock_of(self, name: str) -> Locked | None:
        """See `Backend.lock_of`: nothing is locked."""
        self._get(name)
        return None

    async def copy(self, name: str, to: str) -> None:
        """See `Backend.copy`."""
        self._state.put(require_name(to), self._get(name).data)

    async def checksum(self, name: str) -> Checksum | None:
        """See `Backend.checksum`: computed from the bytes as they are."""
        return Checksum(hashlib.sha256(self._get(name).data).hexdigest())

    async def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        """See `Backend.unfinished`."""
        require_prefix(prefix)
        for one in list(self._state.unfinished.values()):
            if one.name.startswith(prefix):
                yield one

    async def discard(self, unfinished: Unfinished) -> None:
        """See `Backend.discard`."""
        self._state.unfinished.pop(unfinished.token, None)

    async def settle(self) -> None:
        """See `Backend.settle`: nothing here is durable."""

    async def free_bytes(self) -> int | None:
        """See `Backend.free_bytes`: memory has no such figure."""
        return None

    async def close(self) -> None:
        """See `Backend.close`."""

    def _get(self, name: str) -> _Stored:
        if stored := self._state.objects.get(require_name(name)):
            return stored
        raise NotFound(f"{name} does not exist")


class _MemoryUpload:
    """An object being written; its bytes are nobody's until `commit`."""

    def __init__(self, state: _State, name: str, token: str, sha256: str | None) -> None:
        self._state = state
        self._name = name
        self._token = token
        self._promised = sha256
        self._data = bytearray()

    async def append(self, block: bytes) -> None:
        await asyncio.sleep(0)
        self._data += block

    async def commit(self) -> int:
        await asyncio.sleep(0)
        data = bytes(self._data)
        if self._state.unfinished.pop(self._token, None) is None:
            raise Refused(f"somebody discarded the unfinished {self._name}", "Run it again.")
        if self._promised not in (None, hashlib.sha256(data).hexdigest()):
            raise Corrupt(f"{self._name}: the bytes have another SHA-256 than was promised")
        self._state.put(self._name, data)
        return len(data)

    async def abort(self) -> None:
        self._state.unfinished.pop(self._token, None)
