"""COPY text to stored bytes and back: hash, compress, encrypt if wanted, hash, in one pass and bounded memory.

Stored bytes are plain zstd frames (RFC 8878), `zstd -dc` reads them; or an age file around them, for `age -d`. Nothing
here waits for anybody outside: the classes are fed.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import IO, cast

import zstandard

from storage.age import NO_KEYS, SEALED, Keyring, Recipients
from storage.age_streams import Opening, Sealing
from storage.errors import Corrupt

FRAME = 256 * 1024  # bytes of plain data in a frame: by the frame, zstd is a tenth faster than by one long stream
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

    def add(self, data: bytes | bytearray) -> None:
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


def compressor(level: int) -> zstandard.ZstdCompressor:
    """What makes frames. Encoders that one thread feeds may share one: to make it takes longer than a small table."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True)


class Encoder:
    """Plain bytes in, compressed blocks out, encrypted for recipients if there are any.

    A stream longer than `roll_at` stored bytes, give or take a frame, becomes several objects. An encoder that is not
    finished MUST be closed.
    """

    def __init__(
        self, frames: zstandard.ZstdCompressor, roll_at: int = ROLL_AT, recipients: Recipients | None = None
    ) -> None:
        self._frames = frames
        self._roll_at = roll_at
        self._recipients = recipients
        self._plain = Tally()
        self._waiting = bytearray()
        self._open()

    def _open(self) -> None:
        self._sealing: Sealing | None = None
        self._stored = Tally()
        self._buffer = bytearray()
        self._length = 0

    def feed(self, plain: bytes) -> Block | None:
        """Take plain bytes; return a block once one is full."""
        for start in range(0, len(plain), FRAME):
            self._waiting += plain[start : start + FRAME]
            if len(self._waiting) >= FRAME:
                self._compress()
        if self._length + len(self._buffer) + len(self._waiting) >= self._roll_at:
            block = self._close()
            self._open()
            return block
        return self._take() if len(self._buffer) >= BLOCK else None

    def finish(self) -> tuple[Block, Digest]:
        """The last block, and the digest of all plain bytes."""
        return replace(self._close(), last=True), self._plain.digest()

    def close(self) -> None:
        """Give up what is not finished."""
        if self._sealing is not None:
            self._sealing.close()

    def _take(self) -> Block:
        data = self._drained()
        if self._recipients is not None:
            self._sealing = self._sealing or Sealing(self._recipients)
            data = self._sealing.feed(data)
        return self._block(data)

    def _compress(self) -> None:
        self._plain.add(self._waiting)
        self._buffer += self._frames.compress(self._waiting)
        self._waiting.clear()

    def _close(self) -> Block:
        if self._waiting or not self._length + len(self._buffer):
            self._compress()
        data = self._drained()
        if self._sealing is not None:
            data = self._sealing.finish(data)
        elif self._recipients is not None:
            data = self._recipients.seal(data)
        block = self._block(data)
        return Block(block.data, self._stored.digest())

    def _drained(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _block(self, data: bytes) -> Block:
        self._stored.add(data)
        self._length += len(data)
        return Block(data)


class Decoder:
    """Reads a part's stored objects back, one after another, hashing both sides.

    `rows` counts line ends: COPY text escapes newlines inside values, so each row has exactly one.
    """

    def __init__(self, keyring: Keyring = NO_KEYS) -> None:
        self.plain = Tally()
        self.rows = 0
        self._keyring = keyring

    def read(self, name: str, fetch: Callable[[], bytes], stored: Tally) -> Generator[bytes, None, None]:
        """Yield the plain chunks of one object. `fetch` returns its next stored bytes, or none at the end."""
        with closing(decompressed(name, fetch, stored, self._keyring)) as chunks:
            for chunk in chunks:
                self.plain.add(chunk)
                self.rows += chunk.count(b"\n")
                yield chunk


def decompressed(
    name: str, fetch: Callable[[], bytes], stored: Tally, keyring: Keyring = NO_KEYS
) -> Generator[bytes, None, None]:
    """The plain chunks of one object, hashed as stored alone, for who wants to be quick.

    Raises `Corrupt`; `NoIdentity` where its name says that it is encrypted, and no identity of the keyring opens it.
    """

    def counted() -> bytes:
        data = fetch()
        stored.add(data)
        return data

    if not name.endswith(SEALED):
        yield from _unpacked(name, counted)
        return
    with closing(Opening(keyring, name, counted)) as opening:
        yield from _unpacked(name, opening.next)


def _unpacked(name: str, fetch: Callable[[], bytes]) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", _Source(fetch)), read_across_frames=True)
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

    def __init__(self, fetch: Callable[[], bytes]) -> None:
        self._fetch = fetch

    def read(self, _size: int = -1) -> bytes:
        return self._fetch()
