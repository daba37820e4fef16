"""The last state of every row that the change log touches, computed change by change, in bounded memory.

It is kept by the text of a row's key: what was written under one text is found again under the same.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from jobs.postgres.pgoutput import UNCHANGED, Change
from storage.errors import Corrupt
from storage.manifest import Table

RECENT = 50_000
"""States that are kept in memory before they go to disk together."""


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


class TableStates:
    """What became of one table's rows. Raises `Corrupt` for a change that does not fit what was there before."""

    def __init__(self, table: Table, folder: Path, key: Sequence[str] = ()) -> None:
        self.rows = Rows(table, key)
        self.truncated = False
        self._recent: dict[bytes, RowState] = {}
        self._spilled = False
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
        if state is not None or not self._spilled:
            return state
        row = self._disk.execute("SELECT line, origin, in_base FROM states WHERE key = ?", (key,)).fetchone()
        return RowState(row[0], row[1], bool(row[2])) if row else None

    def settle(self) -> None:
        """There are no more changes: what follows reads the states in bulk."""
        self._spill()
        self._disk.execute("CREATE INDEX origins ON states (origin) WHERE origin IS NOT NULL")

    def count(self, condition: str = "true") -> int:
        """How many states there are, or those of which a condition is true."""
        number: int = self._disk.execute(f"SELECT count(*) FROM states WHERE {condition}").fetchone()[0]
        return number

    def keys(self) -> Iterator[bytes]:
        """Every key of which something is known."""
        return (row[0] for row in self._disk.execute("SELECT key FROM states"))

    def in_base(self, keys: Sequence[bytes]) -> dict[bytes, bool]:
        """Of those keys of which something is known: whether the base must have a row with it."""
        marks = ",".join("?" * len(keys))
        rows = self._disk.execute(f"SELECT key, in_base FROM states WHERE key IN ({marks})", keys)
        return dict(rows.fetchall())

    def wanting(self, origins: Sequence[bytes]) -> dict[bytes, bytes]:
        """The lines, by origin, that get fields from the base's rows with these keys."""
        marks = ",".join("?" * len(origins))
        return dict(
            self._disk.execute(f"SELECT origin, line FROM states WHERE origin IN ({marks})", origins).fetchall()
        )

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
        if len(self._recent) >= RECENT:
            self._spill()

    def _spill(self) -> None:
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


class Merge:
    """One table's rows as of the moment: the base's that nothing became of, and those that the log left.

    The base's rows pass through `kept`, several parts at a time from threads of their own; `left` comes last, and
    proves that the base had every row it had to have.
    """

    def __init__(self, states: TableStates) -> None:
        states.settle()
        self._states = states
        self._rows = states.rows
        self._filter = key_filter(states.keys(), states.count())
        self._counting = threading.Lock()
        self._to_find = states.count("in_base")
        self._to_complete = states.count("origin IS NOT NULL")

    def kept(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The lines of a part of the base that are still so, with those that need a field of an earlier row."""
        rest = b""
        for chunk in chunks:
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if lines:
                yield self._kept(lines)

    def _kept(self, lines: list[bytes]) -> bytes:
        keys = self._rows.keys(lines)
        hits = self._filter.hits(keys)
        touched = self._states.in_base(hits) if hits else {}
        if not all(touched.values()):
            raise misfit(self._rows.name, "a row was inserted that the full backup has already")
        with self._counting:
            self._to_find -= len(touched)
        kept = [line for line, key in zip(lines, keys, strict=True) if key not in touched] if touched else lines
        if self._to_complete and touched:
            kept += self._completed(lines, keys, self._states.wanting(hits))
        return b"\n".join(kept) + b"\n" if kept else b""

    def _completed(self, lines: list[bytes], keys: list[bytes], wanting: dict[bytes, bytes]) -> list[bytes]:
        with self._counting:
            self._to_complete -= len(wanting)
        return [
            b"\t".join(
                was if now == UNCHANGED else now
                for was, now in zip(line.split(b"\t"), wanting[key].split(b"\t"), strict=True)
            )
            for line, key in zip(lines, keys, strict=True)
            if key in wanting
        ]

    def left(self) -> Iterator[bytes]:
        """The rows that the log made or changed wholly; raises `Corrupt` if the base lacked one that was changed."""
        if self._to_find or self._to_complete:
            raise misfit(self._rows.name, f"{self._to_find or self._to_complete} rows were changed that are not in it")
        for line in self._states.whole_lines():
            yield line + b"\n"


FEW = 200_000
"""Keys that are kept in memory as they are, some 20 MB."""


class KeyFilter(Protocol):
    """Tells most keys that are not in a set from those that may be."""

    def hits(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """Of these keys, those that may be in the set."""


def key_filter(keys: Iterable[bytes], count: int) -> KeyFilter:
    """A filter that knows these keys: exactly if they are few, else in eight megabytes."""
    return FewKeys(frozenset(keys)) if count <= FEW else ManyKeys(keys)


@dataclass(frozen=True, slots=True)
class FewKeys:
    """Knows every key. Implements `KeyFilter`."""

    keys: frozenset[bytes]

    def hits(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """See `KeyFilter.hits`."""
        return tuple(self.keys.intersection(keys))


class ManyKeys:
    """Knows a bit of each key's hash. Implements `KeyFilter`."""

    BITS = 1 << 26

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._bits = bytearray(self.BITS // 8)
        for key in keys:
            at = hash(key) % self.BITS
            self._bits[at >> 3] |= 1 << (at & 7)

    def hits(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """See `KeyFilter.hits`."""
        bits, many = self._bits, self.BITS
        return tuple(key for key in keys if bits[(at := hash(key) % many) >> 3] >> (at & 7) & 1)
