"""Which rows an erasure concerns: by what columns hold, in plain, or as the salted hashes of the ledger."""

import hmac
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Protocol

from jobs.errors import UnsafeTarget
from jobs.postgres.copy_text import escaped, unescaped
from jobs.postgres.identifiers import TableName
from jobs.postgres.pgoutput import NULL, UNCHANGED
from storage.manifest import Table

Columns = tuple[str, ...]
Fields = list[bytes]
How = Literal["drop", "anonymise"]
MOST_NEEDLES = 24
"""Values of columns that are searched for one by one; if there are more, every line's are looked up."""


class Known(Protocol):
    """Values of columns that an erasure knows."""

    def has(self, columns: Columns, value: bytes) -> bool:
        """Whether it knows this value: fields of COPY text, joined by tabs."""

    def listed(self, columns: Columns) -> Set[bytes] | None:
        """All of them, None if it knows only hashes. Others add to them: who goes through them copies them first."""


_NONE: frozenset[bytes] = frozenset()


class Values:
    """Values in plain, which become more while rows are found. Implements `Known`."""

    def __init__(self) -> None:
        self.version = 0
        self._known: dict[Columns, set[bytes]] = {}

    def add(self, columns: Columns, value: bytes) -> None:
        """Know one more; `version` changes if it was not known."""
        known = self._known.setdefault(columns, set())
        if value not in known:
            known.add(value)
            self.version += 1

    def has(self, columns: Columns, value: bytes) -> bool:
        """See `Known.has`."""
        return value in self._known.get(columns, ())

    def listed(self, columns: Columns) -> Set[bytes]:
        """See `Known.listed`."""
        return self._known.get(columns, _NONE)


@dataclass(frozen=True, slots=True)
class Digests:
    """Values as the ledger has them. Implements `Known`."""

    salt: bytes
    known: Mapping[Columns, frozenset[str]]

    def has(self, columns: Columns, value: bytes) -> bool:
        """See `Known.has`."""
        return columns in self.known and digest(self.salt, columns, value) in self.known[columns]

    def listed(self, columns: Columns) -> Set[bytes] | None:
        """See `Known.listed`."""
        return None if self.known.get(columns) else _NONE


def digest(salt: bytes, columns: Columns, value: bytes) -> str:
    """What the ledger holds of a value of these columns."""
    name = "".join(f"{len(column)}:{column}" for column in columns).encode()
    return hmac.digest(salt, name + b"\0" + value, "sha256").hex()


_INDEX = re.compile(r"-?[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Document:
    """A place in JSON documents: the column, and the path from its root on."""

    column: str
    path: tuple[str, ...]

    @property
    def columns(self) -> Columns:
        """Under which its values are known; no columns have such names together."""
        return (self.column, "#>>", *self.path)

    def value(self, field: bytes) -> bytes | None:
        """The text that a document holds there, as `#>>` gives it, None if there is no string, number or boolean."""
        if field in (NULL, UNCHANGED):
            return None
        try:
            found = json.loads(unescaped(field), parse_int=str, parse_float=str)
        except ValueError:
            return None  # of a backup from before the column was JSON
        except RecursionError as error:
            raise UnsafeTarget(
                f"column {self.column} holds a document that is nested too deeply", "name the rows by another column"
            ) from error
        for step in self.path:
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and _INDEX.fullmatch(step) and -len(found) <= int(step) < len(found):
                found = found[int(step)]
            else:
                return None
        if isinstance(found, bool):
            return b"true" if found else b"false"
        return found.encode(errors="surrogatepass") if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class Substitute:
    """What stands for a column's values in rows that stay: a field of COPY text; `unique`: made of each value."""

    column: str
    field: str
    unique: Literal["", "text", "number", "uuid"] = ""


@dataclass(frozen=True, slots=True)
class Marked:
    """The rows of one table, or of the partitions of one, that an erasure concerns.

    A row is concerned if what it holds in any of the columns `by`, or in the `document`, is known. `how` says what
    becomes of it: it goes, or its columns get `substitutes`. In other rows the columns of `links` become NULL, where
    they hold what is known. The table is known by the `oids` it had, or the names, where a window has another.
    """

    table: TableName
    oids: frozenset[int]
    names: frozenset[TableName]
    by: tuple[Columns, ...]
    known: Known
    document: Document | None = None
    how: How = "drop"
    links: tuple[Columns, ...] = ()
    substitutes: tuple[Substitute, ...] = ()
    salt: bytes = b""

    def is_of(self, table: Table) -> bool:
        """Whether a table is that one: one that had its name before may be in copies that were out of reach."""
        name = TableName(table.schema_name, table.name)
        return table.oid in self.oids or name in {self.table, *self.names} or table.partition_of == str(self.table)


class Judge:
    """Says what becomes of a row that has these columns, or some of them: others are NULL or left out."""

    def __init__(self, marked: Marked, columns: Sequence[str], types: Mapping[str, str] | None = None) -> None:
        self.width = len(columns)
        self._marked = marked
        self._at = {name: number for number, name in enumerate(columns)}
        self._by = self._positioned(marked.by)
        self._links = self._positioned(marked.links)
        self._document = marked.document if marked.document and marked.document.column in self._at else None
        self._substitutes = [(self._at[one.column], one) for one in marked.substitutes if one.column in self._at]
        self._types = types or {}

    def _positioned(self, sets: Sequence[Columns]) -> list[tuple[Columns, list[int]]]:
        return [(columns, [self._at[one] for one in columns]) for columns in sets if self.has(columns)]

    def has(self, columns: Columns) -> bool:
        """Whether rows have these columns."""
        return all(column in self._at for column in columns)

    def value(self, fields: Sequence[bytes], columns: Columns) -> bytes | None:
        """What a row holds in these columns; None if that is not known, or NULL somewhere."""
        return _joined(fields, [self._at[column] for column in columns])

    def concerns(self, fields: Sequence[bytes]) -> bool:
        """Whether a row is one of those that are erased."""
        known = self._marked.known
        for columns, positions in self._by:
            value = _joined(fields, positions)
            if value is not None and known.has(columns, value):
                return True
        if self._document is None:
            return False
        text = self._document.value(fields[self._at[self._document.column]])
        return text is not None and known.has(self._document.columns, text)

    def fate(self, fields: Fields) -> Fields | None:
        """The row as it is to be; the very same if it is not concerned, None if it goes."""
        if self.concerns(fields):
            return self.anonymised(fields) if self._marked.how == "anonymise" else None
        for columns, positions in self._links:
            value = _joined(fields, positions)
            if value is not None and self._marked.known.has(columns, value):
                fields = [NULL if number in positions else one for number, one in enumerate(fields)]
        return fields

    def anonymised(self, fields: Fields) -> Fields:
        """A row that is concerned, as it stays; the very same if it is so already."""
        changed = list(fields)
        for position, one in self._substitutes:
            if changed[position] not in (NULL, UNCHANGED):
                changed[position] = substituted(self._marked.salt, one, changed[position])
        return fields if changed == fields else changed

    def candidates(self, block: bytes) -> list[tuple[int, int]]:
        """Where the lines begin and end, of whole lines of COPY text, that may be of rows that are concerned."""
        needles, many = list[bytes](), list[tuple[Sequence[int], Set[bytes]]]()
        for columns, positions in (*self._by, *self._links):
            listed = self._marked.known.listed(columns)
            if listed is None:
                return every_line(block)
            if len(listed) > MOST_NEEDLES:
                many.append((positions, listed))
            else:
                needles += [self._needle(value.split(b"\t"), positions) for value in tuple(listed)]
        if (more := self._document_needles()) is None:
            return every_line(block)
        found = spans(block, needles + more)
        return sorted({*found, *looked_up(block, many)}) if many else found

    def _document_needles(self) -> list[bytes] | None:
        if self._document is None:
            return []
        listed = self._marked.known.listed(self._document.columns)
        if listed is None:
            return None
        texts = [json.dumps(one.decode(errors="surrogatepass"), ensure_ascii=False)[1:-1] for one in tuple(listed)]
        # The text of a jsonb is the server's own; that of a json may escape whatever it likes.
        escapes = [] if self._types.get(self._document.column) == "jsonb" else [rb"\\"]
        return None if "" in texts else [escaped(text) for text in texts] + escapes

    def _needle(self, values: list[bytes], positions: Sequence[int]) -> bytes:
        position, value = max(zip(positions, values, strict=True), key=lambda one: len(one[1]))
        before = b"\n" if position == 0 else b"\t"
        after = b"\n" if position == self.width - 1 else b"\t"
        return before + value + after


def _joined(fields: Sequence[bytes], positions: Sequence[int]) -> bytes | None:
    values = [fields[position] for position in positions]
    return None if NULL in values or UNCHANGED in values else b"\t".join(values)


_MADE = {
    "text": re.compile(rb"erased-[0-9a-f]{20}"),
    "number": re.compile(rb"20\d{8}"),
    "uuid": re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-e7a5ed[0-9a-f]{6}"),
}


def substituted(salt: bytes, one: Substitute, value: bytes) -> bytes:
    """What stands for a value; where it is to be unique, for the same one always the same, and for itself itself."""
    if not one.unique:
        return one.field.encode()
    if _MADE[one.unique].fullmatch(value):
        return value
    made = digest(salt, ("substitute", one.column), value)
    if one.unique == "number":
        return str(2_000_000_000 + int(made[:12], 16) % 100_000_000).encode()
    if one.unique == "uuid":
        return f"{made[:8]}-{made[8:12]}-4{made[12:15]}-8{made[15:18]}-e7a5ed{made[18:24]}".encode()
    return f"erased-{made[:20]}".encode()


def spans(block: bytes, needles: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where the lines begin and end, each once, that hold any of the needles; of whole lines of COPY text."""
    found = set()
    for needle in needles:
        first = needle[:1] == b"\n"
        if first and block.startswith(needle[1:]):
            found.add((0, block.index(b"\n") + 1))
        at = block.find(needle)
        while at >= 0:
            start = at + 1 if first else block.rfind(b"\n", 0, at) + 1
            end = block.index(b"\n", at + first) + 1
            found.add((start, end))
            at = block.find(needle, end - 1)
    return sorted(found)


def looked_up(block: bytes, many: Sequence[tuple[Sequence[int], Set[bytes]]]) -> list[tuple[int, int]]:
    """The same of lines whose fields at some positions, joined by tabs, are in a set."""
    lines, found = block.split(b"\n"), set[int]()
    lines.pop()
    for positions, known in many:
        if len(positions) == 1:
            at = positions[0]
            keys = [line.split(b"\t", at + 1)[at] for line in lines]
        else:
            keys = [b"\t".join([fields[at] for at in positions]) for fields in (line.split(b"\t") for line in lines)]
        if not known.isdisjoint(keys):
            found |= {number for number, key in enumerate(keys) if key in known}
    if not found:
        return []
    ends = list(accumulate(len(line) + 1 for line in lines))
    return [(ends[number] - len(lines[number]) - 1, ends[number]) for number in sorted(found)]


def every_line(block: bytes) -> list[tuple[int, int]]:
    """Where each line begins and ends."""
    ends = list(accumulate(len(line) + 1 for line in block.split(b"\n")[:-1]))
    return list(zip([0, *ends], ends, strict=False))
