"""Changes as the server's `pgoutput` plug-in says them, protocol version 1, read from a window of the change log.

A window is what `COPY (SELECT lsn, xid, data FROM pg_logical_slot_peek_binary_changes(…)) TO STDOUT (FORMAT binary)`
sends, byte for byte: a header, then a tuple of three fields for each message, then -1.
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS-BINARY
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Literal, NamedTuple

from jobs.postgres.copy_text import ESCAPES

UNCHANGED = b"\\U"
"""A TOASTed value that an UPDATE did not touch, and that the log does not hold. COPY text never has such a field."""

NULL = b"\\N"

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_FRAME = 26  # bytes of framing before a message: three fields; lsn in 8 bytes, xid in 4, the length of the message
_HEAD = Struct("!hi8xi4xiBI")  # the framing, and what every message about a row begins with: its kind and the table
_END = b"\xff\xff"
_BEGIN = Struct("!qqI")
_INT16, _INT32 = Struct("!h"), Struct("!i")
_OID = Struct("!I")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_SPECIAL = re.compile(rb"[\\\b\f\n\r\t\v]")
_PLAIN = bytes(set(range(256)) - ESCAPES.keys())

Kind = Literal["insert", "update", "delete", "truncate"]


class Garbled(ValueError):
    """Bytes that are no window of changes; what they were read from was hashed, so this is a fault of ours."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction that a change belongs to: the LSN of its commit record, its commit time, its 32-bit xid."""

    lsn: int
    time: datetime
    xid: int


class Change(NamedTuple):  # quicker to make than a dataclass, and a million of them are made
    """One change of one table. `old` and `new` are fields as COPY text has them, in table order, generated ones aside.

    `old` is there where the key changed or the row went: its key's fields, NULL elsewhere (all with REPLICA IDENTITY
    FULL). A field of `new` may be `UNCHANGED`. A truncation has neither.
    """

    kind: Kind
    oid: int
    commit: Commit
    old: list[bytes] | None = None
    new: list[bytes] | None = None


def lsn_number(text: str) -> int:
    """An LSN as a number: `16/B374D848`."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(number: int) -> str:
    """A number as PostgreSQL writes an LSN."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


class Messages:
    """The plug-in's messages out of a window's bytes, which may be cut anywhere.

    With `counted`, those about a row do not come out, but are counted there by their table's oid: quicker by far.
    """

    def __init__(self, counted: dict[int, int] | None = None) -> None:
        self.counted = counted
        self._rest = b""
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The messages that are whole once these bytes are there; all must be taken before the next chunk."""
        buffer, at = self._rest + chunk, 0
        if not self._begun:
            if len(buffer) < len(_HEADER):
                self._rest = buffer
                return
            if not buffer.startswith(_HEADER):
                raise Garbled("a window does not begin as COPY's binary format does")
            at, self._begun = len(_HEADER), True
        size, unpack, counted = len(buffer), _HEAD.unpack_from, self.counted
        while at + _HEAD.size <= size:
            fields, lsn_length, xid_length, length, kind, oid = unpack(buffer, at)
            if fields != 3 or lsn_length != 8 or xid_length != 4:  # a tuple to compare with would cost more
                raise Garbled("a window holds something else than changes")
            end = at + _FRAME + length
            if end > size:
                break
            if counted is not None and kind in ROWS:
                counted[oid] = counted.get(oid, 0) + 1
            else:
                yield buffer[at + _FRAME : end]
                counted = self.counted
            at = end
        self._rest = buffer[at:]

    def finish(self) -> None:
        """Raise `Garbled` unless the window is complete."""
        if self._rest != _END:
            raise Garbled("a window ends too early")


def changes(chunks: Iterable[bytes], since: int = 0, wanted: Callable[[bytes], bool] | None = None) -> Iterator[Change]:
    """Every change in a window, in commit order, but for transactions whose commit record lies before LSN `since`.

    `wanted` is asked of each message whether to read it: most can be told apart without.
    """
    reader = Messages()
    commit: Commit | None = None
    for chunk in chunks:
        for message in reader.feed(chunk):
            kind = message[0]
            if kind == BEGIN:
                commit = commit_of(message)
                commit = commit if commit.lsn >= since else None
            elif commit is not None and kind in _CHANGES and (wanted is None or wanted(message)):
                yield from _CHANGES[kind](message, commit)
    reader.finish()


def commit_of(begin: bytes) -> Commit:
    """The transaction that a Begin message announces."""
    lsn, time, xid = _BEGIN.unpack_from(begin, 1)
    return Commit(lsn, _EPOCH + timedelta(microseconds=time), xid)


def table_of(change: bytes) -> int:
    """The oid of the table that an Insert, Update or Delete message is about."""
    oid: int = _OID.unpack_from(change, 1)[0]
    return oid


def as_sent(value: bytes) -> bytes:
    """How a field's text stands in a message."""
    return b"t" + _INT32.pack(len(value)) + value


def truncated_tables(truncate: bytes) -> tuple[int, ...]:
    """The oids of the tables that a Truncate message is about."""
    (count,) = _INT32.unpack_from(truncate, 1)
    return tuple(_OID.unpack_from(truncate, 6 + 4 * number)[0] for number in range(count))


def _insert(message: bytes, commit: Commit) -> Iterator[Change]:
    new, _ = read_tuple(message, 6)
    yield Change("insert", _OID.unpack_from(message, 1)[0], commit, None, new)


def _update(message: bytes, commit: Commit) -> Iterator[Change]:
    old, at = read_tuple(message, 6) if message[5:6] in b"KO" else (None, 5)
    new, _ = read_tuple(message, at + 1)
    yield Change("update", _OID.unpack_from(message, 1)[0], commit, old, new)


def _delete(message: bytes, commit: Commit) -> Iterator[Change]:
    old, _ = read_tuple(message, 6)
    yield Change("delete", _OID.unpack_from(message, 1)[0], commit, old, None)


def _truncate(message: bytes, commit: Commit) -> Iterator[Change]:
    for oid in truncated_tables(message):
        yield Change("truncate", oid, commit)


BEGIN = ord("B")
ROWS = frozenset(b"IUD")
TRUNCATE = ord("T")
_CHANGES = {ord("I"): _insert, ord("U"): _update, ord("D"): _delete, TRUNCATE: _truncate}


def read_tuple(message: bytes, at: int) -> tuple[list[bytes], int]:
    """The fields of a tuple that begins there, and where it ends."""
    (count,) = _INT16.unpack_from(message, at)
    at += 2
    fields: list[bytes] = []
    texts: list[bytes] = []
    for _ in range(count):
        how = message[at]
        at += 1
        if how == _TEXT:
            end = at + 4 + _INT32.unpack_from(message, at)[0]
            text = message[at + 4 : end]
            fields.append(text)
            texts.append(text)
            at = end
        elif how == _UNCHANGED:
            fields.append(UNCHANGED)
        else:
            fields.append(NULL)
    if b"".join(texts).translate(None, _PLAIN):  # to search each is slower, and few have anything to escape
        fields = [field if field is NULL or field is UNCHANGED else _SPECIAL.sub(_escape, field) for field in fields]
    return fields, at


_TEXT, _UNCHANGED = ord("t"), ord("u")


def _escape(found: re.Match[bytes]) -> bytes:
    return ESCAPES[found[0][0]]
