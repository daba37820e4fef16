"""Blocks that an encoder makes become stored objects: one, or several where the stream is very long."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from storage.backends.protocol import Backend
from storage.codecs import Block, Digest
from storage.manifest import StoredFile


@dataclass(frozen=True, slots=True)
class Encoded:
    """The next block of a stream; with the last one, the digest of all its plain bytes and COPY's own count of rows."""

    block: Block
    plain: Digest | None = None
    rows: int = 0


async def store_encoded(
    backend: Backend, name: Callable[[int], str], first: Encoded, more: Callable[[], Awaitable[Encoded]]
) -> tuple[Encoded, list[StoredFile]]:
    """Write a stream whose first block came already, under the names of its pieces; return its end and its objects."""
    objects: list[StoredFile] = []
    encoded = first
    while True:
        piece = name(len(objects))
        last = await _store_object(backend, piece, encoded, more)
        objects.append(stored_file(piece, last))
        if last.plain is not None:
            return last, objects
        encoded = await more()


async def _store_object(backend: Backend, name: str, first: Encoded, more: Callable[[], Awaitable[Encoded]]) -> Encoded:
    """Write one object; return what ended it."""
    upload = await backend.begin(name)
    try:
        encoded = first
        await upload.append(encoded.block.data)
        while encoded.block.ends is None:
            encoded = await more()
            await upload.append(encoded.block.data)
        await upload.commit()
        return encoded
    finally:
        await upload.abort()


def stored_file(name: str, last: Encoded) -> StoredFile:
    """How an object is described, given the block that ended it."""
    assert last.block.ends is not None
    return StoredFile(name=name, bytes=last.block.ends.bytes, sha256=last.block.ends.sha256)
