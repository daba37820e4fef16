"""Whether a table holds exactly the rows of a backup, byte for byte, by COPYing it out again.

Rows that were COPYed into a table inside the transaction that created or truncated it lie in the order they came, so
the bytes of each part hash to what they did. Where order was not kept, rows are compared as a bag.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, column_list, qualified

_MODULUS = 2**256


@dataclass(frozen=True, slots=True)
class PartHash:
    """What a part of a backup promises: so many rows, hashing to this (SHA-256, hex)."""

    rows: int
    sha256: str


class InOrder:
    """Cuts COPY text into parts by their numbers of rows, and compares each part's hash."""

    def __init__(self, parts: Sequence[PartHash]) -> None:
        self._waiting = [part for part in parts if part.rows][::-1]
        self._hash = hashlib.sha256()
        self._left = self._waiting[-1].rows if self._waiting else 0
        self.equal = True

    def feed(self, text: bytes) -> None:
        """Take the next bytes."""
        while text and self.equal:
            if not self._waiting:
                self.equal = False
                return
            count = text.count(b"\n")
            if count < self._left:
                self._hash.update(text)
                self._left -= count
                return
            cut = _after_line(text, self._left)
            self._hash.update(text[:cut])
            text = text[cut:]
            self._next()

    def _next(self) -> None:
        self.equal = self._hash.hexdigest() == self._waiting.pop().sha256
        self._hash = hashlib.sha256()
        self._left = self._waiting[-1].rows if self._waiting else 0

    def finished(self) -> bool:
        """Whether all that was promised came, and nothing else."""
        return self.equal and not self._waiting


def _after_line(text: bytes, number: int) -> int:
    """The position behind the so-manieth line end."""
    at = 0
    for _ in range(number):
        at = text.index(b"\n", at) + 1
    return at


@dataclass(frozen=True, slots=True)
class BagTotal:
    """A hash of lines whatever their order: the sum of their SHA-256 (modulo 2^256), and how many they are."""

    sum: int = 0
    count: int = 0

    def __add__(self, other: "BagTotal") -> "BagTotal":
        return BagTotal((self.sum + other.sum) % _MODULUS, self.count + other.count)


class Bag:
    """Gathers whole lines, however they are cut."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0
        self._rest = b""

    def feed(self, text: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + text).split(b"\n")
        self._count += len(lines)
        self._sum += sum(int.from_bytes(hashlib.sha256(line).digest()) for line in lines)

    def total(self) -> BagTotal:
        """What two bags of the same lines have in common."""
        return BagTotal(self._sum % _MODULUS, self._count)


async def copy_through(
    connection: Connection, table: TableName, columns: Sequence[str], into: InOrder | Bag, *, only: bool = True
) -> int:
    """COPY a table's rows out through a comparison; return how many. `only=False` includes partitions."""

    async def sink(chunk: bytes) -> None:
        into.feed(chunk)

    query = f"SELECT {column_list(columns)} FROM {'ONLY ' if only else ''}{qualified(table)}"
    with translated(f"reading {table} back"):
        status = await connection.copy_from_query(query, output=sink, format="text", encoding="UTF8")
    return int(status.removeprefix("COPY "))
