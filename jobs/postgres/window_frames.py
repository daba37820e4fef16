"""A window of the change log taken apart and put together again: whatever is not to change stays byte for byte.

The formats are those of `jobs.postgres.pgoutput`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from struct import Struct
from typing import NamedTuple

from jobs.postgres.copy_text import unescaped_bytes
from jobs.postgres.pgoutput import BEGIN, NULL, ROWS, UNCHANGED, Garbled, commit_of, read_tuple, table_of

Fields = list[bytes]
RELATION = ord("R")

_HEADER_BYTES = 19
_FRAME = 26
_HEAD = Struct("!hi8xi4xi")
_LENGTH = Struct("!i")
_COUNT = Struct("!h")
_OID = Struct("!I")
_END = b"\xff\xff"
_WHOLE_ROW, _KEY = ord("O"), ord("K")


class Frame(NamedTuple):
    """One message with the framing before it; the first and the last piece of a window have no message."""

    framing: bytes
    message: bytes


class Frames:
    """Takes a window apart that comes in chunks, cut anywhere."""

    def __init__(self) -> None:
        self.rest = b""
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The pieces that are whole once these bytes are there; all must be taken before the next chunk."""
        buffer, at = self.rest + chunk, 0
        if not self._begun and len(buffer) >= _HEADER_BYTES:
            self._begun, at = True, _HEADER_BYTES
            yield Frame(buffer[:at], b"")
        while self._begun and at + _FRAME <= len(buffer):
            fields, lsn_length, xid_length, length = _HEAD.unpack_from(buffer, at)
            if fields != 3 or lsn_length != 8 or xid_length != 4:
                raise Garbled("a window holds something else than changes")
            message, end = at + _FRAME, at + _FRAME + length
            if end > len(buffer):
                break
            yield Frame(buffer[at:message], buffer[message:end])
            at = end
        self.rest = buffer[at:]


def frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """The pieces of a whole window; joined, they are its bytes. Raises `Garbled`."""
    reader = Frames()
    for chunk in chunks:
        yield from reader.feed(chunk)
    if reader.rest != _END:
        raise Garbled("a window ends too early")
    yield Frame(_END, b"")


class Fresh:
    """Lets a window through without the changes of transactions that lie before an LSN: an earlier window has them.

    A slot that went back after a crash sends them again, and what was erased there since must not come back. They come
    first, so from the first one on that is new everything passes untouched. `left_out` counts messages.
    """

    def __init__(self, since: int) -> None:
        self.left_out = 0
        self._since = since
        self._frames = Frames()
        self._passing = False

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to store for these."""
        if self._passing:
            return chunk
        kept: list[bytes] = []
        for frame in self._frames.feed(chunk):
            kept += self._kept(frame)
        if self._passing:
            kept.append(self._frames.rest)
        return b"".join(kept)

    def finish(self) -> bytes:
        """What is left once all bytes came."""
        return b"" if self._passing else self._frames.rest

    def _kept(self, frame: Frame) -> tuple[bytes, ...]:
        kind = frame.message[0] if frame.message else 0
        if kind == BEGIN and commit_of(frame.message).lsn >= self._since:
            self._passing = True
        if kind in ROWS and not self._passing:
            self.left_out += 1
            return ()
        return frame


def with_message(frame: Frame, message: bytes) -> Frame:
    """The same place in the log with another message."""
    return Frame(frame.framing[: -_LENGTH.size] + _LENGTH.pack(len(message)), message)


@dataclass(frozen=True, slots=True)
class Relation:
    """What a window says of a table before its first row: its names as they were, and the columns of its tuples."""

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]


def relation_of(message: bytes) -> Relation:
    """Read a Relation message."""
    schema, at = _string(message, 5)
    name, at = _string(message, at)
    (count,) = _COUNT.unpack_from(message, at + 1)
    at, columns = at + 3, list[str]()
    for _ in range(count):
        column, at = _string(message, at + 1)
        columns.append(column)
        at += 8
    return Relation(table_of(message), schema, name, tuple(columns))


def _string(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(b"\0", at)
    return message[at:end].decode(errors="surrogateescape"), end + 1


@dataclass(frozen=True, slots=True)
class RowMessage:
    """An Insert, Update or Delete message: fields as COPY text has them, and whether `old` is the whole row."""

    kind: bytes
    oid: int
    old: Fields | None
    new: Fields | None
    whole_old: bool = False

    def tuples(self) -> list[Fields]:
        """The tuples that it holds; fields that a new one leaves out are the old one's, as far as that has them."""
        if self.old is None or self.new is None:
            return [one for one in (self.old, self.new) if one is not None]
        new = [was if now == UNCHANGED and was != NULL else now for was, now in zip(self.old, self.new, strict=True)]
        return [self.old, new]

    def changed(self, old: Fields | None, new: Fields | None) -> "RowMessage":
        """The same message with other fields."""
        return replace(self, old=old, new=new)


def read_row(message: bytes) -> RowMessage:
    """Read an Insert, Update or Delete message."""
    kind, oid, how = message[:1], table_of(message), message[5]
    if kind == b"I":
        return RowMessage(kind, oid, None, read_tuple(message, 6)[0])
    if kind == b"D":
        return RowMessage(kind, oid, read_tuple(message, 6)[0], None, how == _WHOLE_ROW)
    if how not in (_WHOLE_ROW, _KEY):
        return RowMessage(kind, oid, None, read_tuple(message, 6)[0])
    old, at = read_tuple(message, 6)
    return RowMessage(kind, oid, old, read_tuple(message, at + 1)[0], how == _WHOLE_ROW)


def write_row(row: RowMessage) -> bytes:
    """The message that `read_row` was given, if nothing was changed."""
    pieces = [row.kind, _OID.pack(row.oid)]
    if row.old is not None:
        pieces += [b"O" if row.whole_old else b"K", _written(row.old)]
    if row.new is not None:
        pieces += [b"N", _written(row.new)]
    return b"".join(pieces)


def _written(fields: Fields) -> bytes:
    return _COUNT.pack(len(fields)) + b"".join(map(_written_field, fields))


def _written_field(field: bytes) -> bytes:
    if field == NULL:
        return b"n"
    if field == UNCHANGED:
        return b"u"
    value = unescaped_bytes(field)
    return b"t" + _LENGTH.pack(len(value)) + value
