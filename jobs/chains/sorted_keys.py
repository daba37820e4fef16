"""Sorted lists of keys, merged in one pass and bounded memory: which rows there were, and which of them went.

A key is a line of COPY text; lists are sorted by its fields as bytes before they are escaped.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from jobs.errors import Unexplained
from jobs.postgres.copy_text import unescaped_bytes

WRITTEN = b"1"
AT_ONCE = 10_000
"""Keys that are told of together."""


class Step(NamedTuple):
    """What became of a list: keys that went, then keys that came; each sorted."""

    removed: Iterable[bytes]
    added: Iterable[bytes]


class _Turn(NamedTuple):
    """A key at which a list changes, in the step with this number, and whether it is there after it."""

    fields: tuple[bytes, ...]
    number: int
    line: bytes
    there: bool


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of COPY text that comes in chunks."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield from lines


def fields_of(line: bytes) -> tuple[bytes, ...]:
    """What a line is sorted by."""
    fields = tuple(line.split(b"\t"))
    return tuple(map(unescaped_bytes, fields)) if b"\\" in line else fields


def known_keys(listed: Iterator[bytes], steps: Sequence[Step]) -> Iterator[bytes]:
    """The keys that were there after the last step, given the list from before the first."""
    if not steps:
        yield from listed
        return
    turns = _last_turns(steps)
    turn = next(turns, None)
    for line in listed:
        while turn is not None and turn.line != line and turn.fields < fields_of(line):
            if turn.there:
                yield turn.line
            turn = next(turns, None)
        if turn is None or turn.line != line:
            yield line
            continue
        if turn.there:
            yield line
        turn = next(turns, None)
    while turn is not None:
        if turn.there:
            yield turn.line
        turn = next(turns, None)


def _last_turns(steps: Sequence[Step]) -> Iterator[_Turn]:
    """What became of each key in the end."""
    streams = []
    for number, step in enumerate(steps):
        streams.append(_turns(step.removed, 2 * number, there=False))
        streams.append(_turns(step.added, 2 * number + 1, there=True))
    last: _Turn | None = None
    for turn in heapq.merge(*streams):
        if last is not None and last.fields != turn.fields:
            yield last
        last = turn
    if last is not None:
        yield last


def _turns(lines: Iterable[bytes], number: int, *, there: bool) -> Iterator[_Turn]:
    return (_Turn(fields_of(line), number, line, there) for line in lines)


class KeySieve:
    """Takes all keys of a table as they are now, sorted and marked; gives those known ones that went or were written.

    `keys`, `written` and `known` count what went by, `fresh` the written ones that were not known. Raises `Unexplained`
    for one that is neither known nor written since. Implements `Sieve`, in bounded memory however many go.
    """

    def __init__(self, table: str, known: Iterator[bytes]) -> None:
        self.keys = self.written = self.known = self.fresh = self.removed = 0
        self._table = table
        self._known = known
        self._rest = b""
        self._next: bytes | None = None
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take the next bytes of the keys that are there; the removed ones that this tells of."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        self.keys += len(lines)
        return self._told(self._taken(lines))

    def finish(self) -> Iterator[bytes]:
        """There are no more keys: the known ones that are left went."""
        return self._told(self._passed(None))

    def _taken(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        self._begin()
        for marked in lines:
            line, written = marked[2:], marked[:1] == WRITTEN
            if self._next != line:
                yield from self._passed(fields_of(line))
            self.written += written
            if self._next == line:
                if written:
                    yield line
                self._step()
            elif written:
                self.fresh += 1
            else:
                raise Unexplained(
                    f"{self._table} has a row that was not there at the last backup and was not written since",
                    "a full backup has it; report this",
                )

    def _passed(self, here: tuple[bytes, ...] | None) -> Iterator[bytes]:
        """Go on to the known key that is here or after; to the end, if nowhere."""
        self._begin()
        while self._next is not None and (here is None or fields_of(self._next) < here):
            yield self._next
            self._step()

    def _begin(self) -> None:
        """Reading what is known blocks, so it begins in the thread that goes through it."""
        if not self._begun:
            self._begun = True
            self._step()

    def _step(self) -> None:
        self._next = next(self._known, None)
        self.known += self._next is not None

    def _told(self, removed: Iterator[bytes]) -> Iterator[bytes]:
        while some := list(islice(removed, AT_ONCE)):
            self.removed += len(some)
            yield b"".join([line + b"\n" for line in some])
