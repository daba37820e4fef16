"""Puts what became of a table's rows into its base: a part at a time, in bounded memory."""

import threading
from collections.abc import Callable, Iterator

from jobs.chains.known_keys import ManyKeys
from jobs.chains.replay import TableStates, misfit
from jobs.postgres.pgoutput import UNCHANGED
from storage.codecs import CHUNK

FEW = 200_000
"""Keys that are kept in memory as they are, some 20 MB."""


class Merge:
    """One table's rows as of the moment: the base's that nothing became of, and those that the log left.

    The base's rows pass through `kept`, several parts at a time from threads of their own; `left` comes last, and
    proves that the base had every row it had to have.
    """

    def __init__(self, states: TableStates) -> None:
        states.settle()
        self._states = states
        self._rows = states.rows
        self._touched = _touched_by(states)
        self._counting = threading.Lock()
        self._to_find = states.count("in_base")
        self._to_complete = states.count("origin IS NOT NULL")

    def touches(self, chunks: Iterator[bytes]) -> bool:
        """Whether something became of a row in a part of the base; the part is read no further than to the first."""
        return any(self._touched(self._rows.keys(lines)) for lines in _lines(chunks))

    def kept(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The lines of a part of the base that are still so, with those that need a field of an earlier row."""
        return (b"\n".join([*self._kept(lines), b""]) for lines in _lines(chunks))

    def _kept(self, lines: list[bytes]) -> list[bytes]:
        keys = self._rows.keys(lines)
        touched = self._touched(keys)
        if not touched:
            return lines
        if not all(touched.values()):
            raise misfit(self._rows.name, "a row was inserted that the full backup has already")
        with self._counting:
            self._to_find -= len(touched)
        kept = [line for line, key in zip(lines, keys, strict=True) if key not in touched]
        if self._to_complete:
            kept += self._completed(lines, keys, self._states.wanting(list(touched)))
        return kept

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
        chunk = bytearray()
        for line in self._states.whole_lines():
            chunk += line + b"\n"
            if len(chunk) >= CHUNK:
                yield bytes(chunk)
                chunk.clear()
        yield bytes(chunk)


def _touched_by(states: TableStates) -> Callable[[list[bytes]], dict[bytes, bool]]:
    """Tells which of some keys something is known of, and whether the base must have a row with each."""
    if states.count() <= FEW:
        few = dict(states.known())
        return lambda keys: {key: few[key] for key in few.keys() & keys}
    many = ManyKeys(key for key, _ in states.known())
    return lambda keys: states.in_base(many.hits(keys))


def _lines(chunks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """The lines that each chunk ends."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if lines:
            yield lines
