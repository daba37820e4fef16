"""COPY text without the rows of an erasure: only lines that are concerned are taken apart, all others stay."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.erasing.marks import Columns, Fields, Judge, spans


@dataclass(slots=True)
class Count:
    """What was found: rows that are erased, rows that lose a reference; and what else was asked for."""

    concerned: int = 0
    unlinked: int = 0
    keys: set[bytes] = field(default_factory=set)
    mentions: dict[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Rows that are not to stay as they are."""
        return self.concerned + self.unlinked


@dataclass(frozen=True, slots=True)
class TextFilter:
    """Goes through the rows of one table, as the columns in which they are stored; counts what it finds.

    `keyed` are columns whose values are collected of every row that is concerned; `mentioned` is a text that is looked
    for in all others.
    """

    judge: Judge
    columns: tuple[str, ...]
    count: Count
    keyed: Columns = ()
    mentioned: bytes = b""

    def kept(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The text as it is to be."""
        for block in blocks(chunks):
            yield self._kept(block)

    def look(self, chunks: Iterator[bytes]) -> Iterator[Fields]:
        """The rows that are concerned."""
        for block in blocks(chunks):
            for start, end in self.judge.candidates(block):
                fields = block[start : end - 1].split(b"\t")
                fate = self.judge.fate(fields)
                if fate is not fields and self._counted(fields):
                    yield fields
            if self.mentioned and self.mentioned in block:
                self._count_mentions(block)

    def _kept(self, block: bytes) -> bytes:
        kept, at = list[bytes](), 0
        for start, end in self.judge.candidates(block):
            fields = block[start : end - 1].split(b"\t")
            fate = self.judge.fate(fields)
            if fate is fields:
                continue
            self._counted(fields)
            kept += [block[at:start]] if fate is None else [block[at:start], b"\t".join(fate), b"\n"]
            at = end
        return b"".join([*kept, block[at:]]) if at else block

    def _counted(self, fields: Fields) -> bool:
        concerned = self.judge.concerns(fields)
        if concerned:
            self.count.concerned += 1
        else:
            self.count.unlinked += 1
        if concerned and self.keyed and self.judge.has(self.keyed):
            value = self.judge.value(fields, self.keyed)
            self.count.keys |= {value} if value is not None else set()
        return concerned

    def _count_mentions(self, block: bytes) -> None:
        for start, end in spans(block, [self.mentioned]):
            fate = self.judge.fate(block[start : end - 1].split(b"\t"))
            for column, value in zip(self.columns, fate or (), strict=False):
                if self.mentioned in value:
                    self.count.mentions[column] = self.count.mentions.get(column, 0) + 1


def blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same text in pieces that end with a line."""
    cut: list[bytes] = []
    for chunk in chunks:
        last = chunk.rfind(b"\n") + 1
        if last:
            yield b"".join((*cut, chunk[:last]))
            cut = [chunk[last:]]
        else:
            cut.append(chunk)
