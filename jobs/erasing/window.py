"""A window of the change log without the changes of an erasure's rows; every other message stays byte for byte."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jobs.erasing.marks import Fields, Judge, Marked
from jobs.postgres.identifiers import TableName
from jobs.postgres.pgoutput import BEGIN, ROWS, commit_of, table_of
from jobs.postgres.window_frames import (
    RELATION,
    Frame,
    Relation,
    frames,
    read_row,
    relation_of,
    with_message,
    write_row,
)


@dataclass(slots=True)
class WindowCount:
    """What was found in a window: changes that go or were altered, by table; `dropped` of transactions that count."""

    changes: dict[TableName, int] = field(default_factory=dict)
    dropped: dict[int, int] = field(default_factory=dict)
    messages: int = 0
    mentions: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Messages that are not to stay as they are."""
        return sum(self.changes.values())


Found = Callable[[Marked, Judge, Fields], None]


@dataclass(slots=True)
class WindowFilter:
    """Goes through a window. `since`: the LSN from which on its transactions count."""

    marked: Sequence[Marked]
    count: WindowCount
    since: int = 0
    mentioned: bytes = b""
    _judges: dict[int, tuple[Marked, Judge]] = field(default_factory=dict)
    _relations: dict[int, Relation] = field(default_factory=dict)
    _counts: bool = False

    def kept(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The window as it is to be."""
        for frame in frames(chunks):
            yield b"".join(self.fate(frame) or ())

    def look(self, chunks: Iterator[bytes], found: Found) -> None:
        """Tell `found` each tuple of every message about a row that is concerned."""
        for frame in frames(chunks):
            self.fate(frame, found)

    def fate(self, frame: Frame, found: Found | None = None) -> Frame | None:
        """The frame as it is to be, None if it goes."""
        kind = frame.message[0] if frame.message else 0
        if kind == BEGIN:
            self._counts = commit_of(frame.message).lsn >= self.since
        elif kind == RELATION:
            self._meet(relation_of(frame.message))
        elif kind in ROWS:
            oid = table_of(frame.message)
            if oid in self._judges:
                return self._row(frame, *self._judges[oid], found)
            self._count_mentions(frame)
        return frame

    def _meet(self, relation: Relation) -> None:
        self._relations[relation.oid] = relation
        name = TableName(relation.schema, relation.name)
        for marked in self.marked:
            if relation.oid in marked.oids or name in marked.names:
                self._judges[relation.oid] = marked, Judge(marked, relation.columns)

    def _row(self, frame: Frame, marked: Marked, judge: Judge, found: Found | None) -> Frame | None:
        row = read_row(frame.message)
        tuples = row.tuples()
        concerned = any(map(judge.concerns, tuples))
        if concerned and found is not None:
            _tell(found, marked, judge, tuples)
        if concerned and marked.how == "drop":
            self._counted(marked, row.oid, dropped=True)
            return None
        change = judge.anonymised if concerned else judge.fate
        old, new = (None if one is None else change(one) for one in (row.old, row.new))
        if old is row.old and new is row.new:
            self._count_mentions(frame)
            return frame
        self._counted(marked, row.oid, dropped=False)
        return with_message(frame, write_row(row.changed(old, new)))

    def _counted(self, marked: Marked, oid: int, *, dropped: bool) -> None:
        self.count.changes[marked.table] = self.count.changes.get(marked.table, 0) + 1
        if dropped:
            self.count.messages += 1
            if self._counts:
                self.count.dropped[oid] = self.count.dropped.get(oid, 0) + 1

    def _count_mentions(self, frame: Frame) -> None:
        if not self.mentioned or self.mentioned not in frame.message:
            return
        relation = self._relations.get(table_of(frame.message))
        row = read_row(frame.message)
        for fields in (row.old, row.new):
            for column, value in zip(relation.columns if relation else (), fields or (), strict=False):
                if self.mentioned in value and relation is not None:
                    where = f"{relation.schema}.{relation.name}", column
                    self.count.mentions[where] = self.count.mentions.get(where, 0) + 1


def _tell(found: Found, marked: Marked, judge: Judge, tuples: Sequence[Fields]) -> None:
    for fields in tuples:
        found(marked, judge, fields)
