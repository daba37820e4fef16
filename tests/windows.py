"""Made-up windows of the change log: messages as pgoutput writes them, and the COPY stream that holds them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from struct import pack
from types import EllipsisType

from jobs.postgres.pgoutput import Change, Commit

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
UNTOUCHED = ...
"""A field that an UPDATE left in its TOAST table."""

Field = bytes | EllipsisType | None
Row = Sequence[Field]


def commit_at(lsn: int, xid: int = 700, seconds: float = 0) -> Commit:
    """A transaction that committed there, so many seconds into the year 2026."""
    return Commit(lsn, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds), xid)


def begin(commit: Commit) -> bytes:
    """The message that a transaction begins with."""
    return b"B" + pack("!qqI", commit.lsn, (commit.time - EPOCH) // timedelta(microseconds=1), commit.xid)


def end(commit: Commit) -> bytes:
    """The message that a transaction ends with."""
    return b"C" + pack("!Bqqq", 0, commit.lsn, commit.lsn + 1, (commit.time - EPOCH) // timedelta(microseconds=1))


def insert(oid: int, new: Row) -> bytes:
    """A row came."""
    return b"I" + pack("!I", oid) + b"N" + _tuple(new)


def update(oid: int, new: Row, key: Row | None = None, old: Row | None = None) -> bytes:
    """A row changed; with its earlier key if that changed, or the whole earlier row."""
    before = b"K" + _tuple(key) if key is not None else b"O" + _tuple(old) if old is not None else b""
    return b"U" + pack("!I", oid) + before + b"N" + _tuple(new)


def delete(oid: int, key: Row) -> bytes:
    """A row went."""
    return b"D" + pack("!I", oid) + b"K" + _tuple(key)


def truncate(*oids: int) -> bytes:
    """All rows of some tables went."""
    return b"T" + pack("!iB", len(oids), 0) + b"".join(pack("!I", oid) for oid in oids)


def window(messages: Iterable[bytes]) -> bytes:
    """What COPY sends in binary: LSN and xid of each message, which nobody reads, and the message."""
    rows = (pack("!hiqiIi", 3, 8, 0, 4, 0, len(message)) + message for message in messages)
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(rows) + b"\xff\xff"


def cut(data: bytes, size: int) -> list[bytes]:
    """The same in pieces."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def kinds(changes: Iterable[Change]) -> list[str]:
    """What was done, change by change."""
    return [change.kind for change in changes]


def _tuple(fields: Row) -> bytes:
    return pack("!h", len(fields)) + b"".join(map(_field, fields))


def _field(field: Field) -> bytes:
    if field is None:
        return b"n"
    if isinstance(field, EllipsisType):
        return b"u"
    return b"t" + pack("!i", len(field)) + field
