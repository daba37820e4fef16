"""The last state of every row that the change log touches, computed change by change, in bounded memory.

It is kept by the text of a row's key: what was written under one text is found again under the same.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobs.chains.known_keys import ManyKeys
from jobs.postgres.pgoutput import UNCHANGED, Change
from storage.errors import Corrupt
from storage.manifest import Table

ROOM = 24 * 1024 * 1024
STATE = 250  # bytes that a state takes in memory beside its key and its line, about
AT_ONCE = 10_000  # keys that are looked up together; SQLite takes some 30,000


class RowState(NamedTuple):  # quicker to make than a dataclass, and made for every change
    """How a row ends: its line of COPY text, None if it is gone.

    A line with `UNCHANGED` fields gets them from the base's row with the key `origin`. `in_base`: whether the base must
    hold a row with this key, which then is no longer to be taken from there.
    """

    line: bytes | None
    origin: bytes | None
    in_base: bool


class Rows:
    """The rows of one table: which fields make a line's key, and how many a line has.

    The key is what tells rows apart in the log, or any other `columns`.
    """

    def __init__(self, table: Table, columns: Sequence[str] = ()) -> None:
        copied = [column.name for column in table.columns if not column.generated]
        self._positions = [copied.index(name) for name in columns or table.identity]
        self.width = len(copied)
        self.name = f"{table.schema_name}.{table.name}"

    def key(self, fields: Sequence[bytes]) -> bytes:
        """The key of a row, given its fields."""
        if len(fields) != self.width:
            raise misfit(self.name, f"a change has {len(fields)} columns instead of {self.width}")
        if len(self._positions) == 1:
            return fields[self._positions[0]]
        return b"\t".join([fields[position] for position in self._positions])

    def key_of(self, line: bytes) -> bytes:
        """The key of one line of COPY text."""
        return self.key(line.split(b"\t"))

    def whole_key(self, new: list[bytes], old: list[bytes]) -> list[bytes]:
        """The fields of `new`, those of its key never `UNCHANGED`: a TOASTed key is said in full in `old` alone."""
        fields = list(new)
        for position in self._positions:
            fields[position] = old[position] if new[position] == UNCHANGED else new[position]
        return fields

    def keys(self, lines: Sequence[bytes]) -> list[bytes]:
        """The keys of many lines of COPY text."""
        if self._positions == [0]:
            return [line.partition(b"\t")[0] for line in lines]
        if len(self._positions) == 1:
            at = self._positions[0]
            return [line.split(b"\t", at + 1)[at] for line in lines]
        return [self.key(line.split(b"\t")) for line in lines]


class Room:
    """Memory, in bytes, that the states of several tables share: when it is full, all of them go to disk."""

    def __init__(self, most: int = ROOM) -> None:
        self.spilled = ManyKeys()
        self._tables: list[TableStates] = []
        self._most = self._left = most

    def share(self, states: "TableStates") -> None:
        """Let one more table have of it."""
        self._tables.append(states)

    def take(self, size: int) -> None:
        """Take room for a state, which is there already."""
        self._left -= size
        if self._left < 0:
            for states in self._tables:
                states.spill()
            self._left = self._most


class TableStates:
    """What became of one table's rows. Raises `Corrupt` for a change that does not fit what was there before."""

    def __init__(self, table: Table, folder: Path, room: Room, key: Sequence[str] = ()) -> None:
        self.rows = Rows(table, key)
        self.truncated = False
        self._room = room
        self._recent: dict[bytes, RowState] = {}
        self._spilled = False
        room.share(self)
        # Written by one thread at a time, though not always by the same; read by several, which SQLite serializes.
        self._disk = sqlite3.connect(folder / f"{table.oid}.states", isolation_level=None, check_same_thread=False)
        self._disk.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8000;"
            "CREATE TABLE states (key BLOB PRIMARY KEY, line BLOB, origin BLOB, in_base INTEGER);"
        )

    @property
    def touched(self) -> bool:
        """Whether the log changes anything in the table."""
        return self.truncated or self._spilled or bool(self._recent)

    def close(self) -> None:
        """Free what it takes."""
        self._disk.close()

    def apply(self, change: Change) -> None:
        """Take the next change."""
        if change.kind == "truncate":
            self._truncate()
        elif change.kind == "insert":
            assert change.new is not None
            self._put(self.rows.key(change.new), b"\t".join(change.new), None)
        elif change.kind == "update":
            self._update(change)
        else:
            assert change.old is not None
            self._take(self.rows.key(change.old))

    def add(self, line: bytes) -> None:
        """A row came."""
        self._put(self.rows.key_of(line), line, None)

    def remove(self, key: bytes) -> None:
        """The row with a key went."""
        self._take(key)

    def get(self, key: bytes) -> RowState | None:
        """What became of the row with a key; None if nothing is known of it."""
        state = self._recent.get(key)
        if state is not None or not self._spilled or not self._room.spilled.hits((key,)):
            return state
        row = self._disk.execute("SELECT line, origin, in_base FROM states WHERE key = ?", (key,)).fetchone()
        return RowState(row[0], row[1], bool(row[2])) if row else None

    def settle(self) -> None:
        """There are no more changes: what follows reads the states in bulk."""
        self.spill()
        self._disk.execute("CREATE INDEX origins ON states (origin) WHERE origin IS NOT NULL")

    def count(self, condition: str = "true") -> int:
        """How many states there are, or those of which a condition is true."""
        number: int = self._disk.execute(f"SELECT count(*) FROM states WHERE {condition}").fetchone()[0]
        return number

    def known(self) -> Iterator[tuple[bytes, bool]]:
        """Every key of which something is known, and whether the base must have a row with it."""
        return self._disk.execute("SELECT key, in_base FROM states")

    def in_base(self, keys: Sequence[bytes]) -> dict[bytes, bool]:
        """The same of those of these keys of which something is known."""
        return self._looked_up("SELECT key, in_base FROM states WHERE key IN", keys)

    def wanting(self, origins: Sequence[bytes]) -> dict[bytes, bytes]:
        """The lines, by origin, that get fields from the base's rows with these keys."""
        return self._looked_up("SELECT origin, line FROM states WHERE origin IN", origins)

    def _looked_up(self, query: str, keys: Sequence[bytes]) -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for begin in range(0, len(keys), AT_ONCE):
            some = keys[begin : begin + AT_ONCE]
            found.update(self._disk.execute(f"{query} ({','.join('?' * len(some))})", some))
        return found

    def whole_lines(self) -> Iterator[bytes]:
        """The lines that want nothing from the base."""
        return (
            row[0] for row in self._disk.execute("SELECT line FROM states WHERE line IS NOT NULL AND origin IS NULL")
        )

    def _truncate(self) -> None:
        self._recent.clear()
        self._disk.execute("DELETE FROM states")
        self.truncated = True

    def _update(self, change: Change) -> None:
        assert change.new is not None
        fields = change.new if change.old is None else self.rows.whole_key(change.new, change.old)
        key = self.rows.key(fields)
        before = key if change.old is None else self.rows.key(change.old)
        line, origin = self._take(before)
        if UNCHANGED in fields:
            if line is not None:
                earlier = line.split(b"\t")
                fields = [was if now == UNCHANGED else now for was, now in zip(earlier, fields, strict=True)]
            origin = origin if UNCHANGED in fields else None
        else:
            origin = None
        self._put(key, b"\t".join(fields), origin)

    def _take(self, key: bytes) -> tuple[bytes | None, bytes | None]:
        """Take a row away that must be there; return its line and origin, a line of None if only the base has it."""
        state = self.get(key)
        if state is None:
            if self.truncated:
                raise misfit(self.rows.name, "a row is changed that a TRUNCATE had taken")
            self._set(key, RowState(None, None, in_base=True))
            return None, key
        if state.line is None:
            raise misfit(self.rows.name, "a row is changed that was deleted before")
        self._set(key, RowState(None, None, state.in_base))
        return state.line, state.origin

    def _put(self, key: bytes, line: bytes, origin: bytes | None) -> None:
        """Put a row where none may be."""
        state = self.get(key)
        if state is not None and state.line is not None:
            raise misfit(self.rows.name, "a row comes under a key that is taken")
        self._set(key, RowState(line, origin, state.in_base if state else False))

    def _set(self, key: bytes, state: RowState) -> None:
        self._recent[key] = state
        self._room.take(STATE + len(key) + len(state.line or b""))

    def spill(self) -> None:
        """Write to disk what is in memory."""
        if not self._recent:
            return
        self._room.spilled.add(self._recent)
        self._disk.execute("BEGIN")
        self._disk.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)",
            ((key, state.line, state.origin, state.in_base) for key, state in self._recent.items()),
        )
        self._disk.execute("COMMIT")
        self._recent.clear()
        self._spilled = True


def misfit(table: str, what: str) -> Corrupt:
    """The error for a log and a full backup that cannot both be right."""
    return Corrupt(
        f"the change log does not fit the full backup: in {table}, {what}",
        "restore the full backup itself, or another moment; and report this",
    )
