"""COPY text to stored bytes and back: hash, compress, hash, in one pass and bounded memory.

Stored bytes are plain zstd frames (RFC 8878): `zstd -dc` reads them. Nothing here waits: the classes are fed.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, cast

import zstandard

from storage.errors import Corrupt

BLOCK = 1024 * 1024  # bytes of compressed data handed on at a time
ROLL_AT = 64 * 1024**3  # S3 takes 10,000 blocks of 8 MiB an upload: 78 GiB; a longer part goes on in another object
CHUNK = 256 * 1024  # bytes of plain data handed on at a time while reading


@dataclass(frozen=True, slots=True)
class Digest:
    """Length in bytes and SHA-256 (hex) of some bytes."""

    bytes: int
    sha256: str


class Tally:
    """Counts and hashes bytes as they go by."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._bytes = 0

    def add(self, data: bytes) -> None:
        """Count and hash these bytes."""
        self._hash.update(data)
        self._bytes += len(data)

    def digest(self) -> Digest:
        """Of everything added so far."""
        return Digest(self._bytes, self._hash.hexdigest())


@dataclass(frozen=True, slots=True)
class Block:
    """Compressed bytes. `ends`: the digest of the object whose last block this is; `last`: no object follows."""

    data: bytes
    ends: Digest | None = None
    last: bool = False


class Encoder:
    """Plain bytes in, compressed blocks out. A stream longer than `roll_at` stored bytes becomes several objects."""

    def __init__(self, level: int, roll_at: int = ROLL_AT) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._roll_at = roll_at
        self._plain = Tally()
        self._open()

    def _open(self) -> None:
        self._frame = self._compressor.compressobj()
        self._stored = Tally()
        self._buffer = bytearray()
        self._length = 0

    def feed(self, plain: bytes) -> Block | None:
        """Take plain bytes; return a block once one is full."""
        self._plain.add(plain)
        self._buffer += self._frame.compress(plain)
        if self._length + len(self._buffer) >= self._roll_at:
            block = self._close()
            self._open()
            return block
        return self._take() if len(self._buffer) >= BLOCK else None

    def finish(self) -> tuple[Block, Digest]:
        """The last block, and the digest of all plain bytes."""
        return replace(self._close(), last=True), self._plain.digest()

    def _take(self) -> Block:
        data = bytes(self._buffer)
        self._buffer.clear()
        self._stored.add(data)
        self._length += len(data)
        return Block(data)

    def _close(self) -> Block:
        self._buffer += self._frame.flush()
        block = self._take()
        return Block(block.data, self._stored.digest())


class Decoder:
    """Reads a part's stored objects back, one after another, hashing both sides.

    `rows` counts line ends: COPY text escapes newlines inside values, so each row has exactly one.
    """

    def __init__(self) -> None:
        self.plain = Tally()
        self.rows = 0

    def read(self, name: str, fetch: Callable[[], bytes], stored: Tally) -> Iterator[bytes]:
        """Yield the plain chunks of one object. `fetch` returns its next stored bytes, or none at the end."""
        for chunk in decompressed(name, fetch, stored):
            self.plain.add(chunk)
            self.rows += chunk.count(b"\n")
            yield chunk


def decompressed(name: str, fetch: Callable[[], bytes], stored: Tally) -> Iterator[bytes]:
    """The plain chunks of one object, hashed as stored alone, for who wants to be quick. Raises `Corrupt`."""
    reader = zstandard.ZstdDecompressor().stream_reader(
        cast("IO[bytes]", _Source(fetch, stored)), read_across_frames=True
    )
    while True:
        try:
            chunk = reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise Corrupt(f"{name} is not whole zstd data: {error}", "restore from the other place") from error
        if not chunk:
            return
        yield chunk


class _Source:
    """The file-like object that zstandard reads compressed bytes from."""

    def __init__(self, fetch: Callable[[], bytes], stored: Tally) -> None:
        self._fetch = fetch
        self._stored = stored

    def read(self, _size: int = -1) -> bytes:
        data = self._fetch()
        self._stored.add(data)
        return data
