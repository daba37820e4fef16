"""One row's way through a chain: how it is in the base, and what each change of its table makes of it."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from jobs.chains.chain import Chain
from jobs.chains.replay import Rows, misfit
from jobs.chains.row_differences import Fields, Found, found_in_differences
from jobs.chains.row_search import Needle, find_row
from jobs.copying.part_reading import read_part
from jobs.postgres.copy_text import unescaped_bytes
from jobs.postgres.pgoutput import (
    NULL,
    TRUNCATE,
    UNCHANGED,
    Change,
    Commit,
    Kind,
    as_sent,
    changes,
    lsn_number,
    table_of,
)
from jobs.progress import OnProgress, Progress
from storage.increments import Increment
from storage.manifest import Table
from storage.repository import Repository

Key = Mapping[str, bytes]
"""The fields of COPY text, by column, that a row is known by."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the row that is followed: the `number`th message about rows in a window.

    `fields` are the row's after it, None if it is gone. Where its key changed, it `came_from` another one, or, with
    these fields, `went_to` another.
    """

    kind: Kind
    commit: Commit
    window: str
    number: int
    fields: Fields | None
    came_from: Key | None = None
    went_to: Key | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Where it stands in the log, in whose order places sort: ids of windows do."""
        return self.window, self.number

    @property
    def left(self) -> Fields | None:
        """What is there under the row's key after it."""
        return None if self.went_to is not None else self.fields


def copied_columns(table: Table) -> list[str]:
    """The columns that a line of COPY text has, in order."""
    return [column.name for column in table.columns if not column.generated]


def _needle(columns: Sequence[str], key: Key) -> Needle:
    return Needle(tuple((columns.index(name), field) for name, field in key.items()), len(columns))


class Followed:
    """The row under one key while the changes of its table pass by; raises `Corrupt` for one that does not fit it."""

    def __init__(self, table: Table, key: Key, fields: Fields | None) -> None:
        self._rows = Rows(table)
        self._known_by = Rows(table, list(key))
        self._columns = copied_columns(table)
        self._table = table
        self._key = b"\t".join(key.values())
        self._key_columns = list(key)
        self._fields = fields

    def take(self, change: Change, window: str, number: int) -> Step | None:
        """What the change makes of the row, None if it is about another; `UNCHANGED` are fields of a row that came."""
        if change.kind == "truncate":
            return self._gone(Step("truncate", change.commit, window, number, None))
        before = self._before(change)
        ours = self._is(before)
        new = self._after(change, self._fields if ours else None)
        comes = new is not None and self._known_by.key(new) == self._key
        if not ours and not comes:
            return None
        if not ours and self._fields is not None:
            raise misfit(self._rows.name, "a row comes under a key that is taken")
        self._fields = new if comes else None
        step = Step(change.kind, change.commit, window, number, new)
        if comes and not ours and before is not None:
            return replace(step, came_from=self._named(before, self._table.identity))
        if new is not None and not comes:
            return replace(step, went_to=self._named(new, self._key_columns))
        return step

    def _gone(self, step: Step) -> Step | None:
        if self._fields is None:
            return None
        self._fields = None
        return step

    def _is(self, before: Fields | None) -> bool:
        if self._fields is None or before is None:
            return False
        return self._rows.key(before) == self._rows.key(self._fields)

    def _before(self, change: Change) -> Fields | None:
        """Fields of the row as it was, those at least that tell it apart."""
        return change.new if change.kind == "update" and change.old is None else change.old

    def _after(self, change: Change, was: Fields | None) -> Fields | None:
        """The fields that it has then: what the change leaves out stays as it was, as far as that is known."""
        new = change.new
        for earlier in (change.old, was):
            if new is not None and earlier is not None and UNCHANGED in new:
                new = [
                    then if now == UNCHANGED and then != NULL else now for then, now in zip(earlier, new, strict=True)
                ]
        return new

    def _named(self, fields: Fields, columns: Sequence[str]) -> Key:
        return {column: fields[self._columns.index(column)] for column in columns}


class Mentions:
    """Tells messages that may be about a row from those that are not; counts all of them as they pass by."""

    def __init__(self, table: Table, key: Key) -> None:
        self.number = 0
        self._oid = table.oid
        values = [as_sent(unescaped_bytes(field)) for field in key.values()]
        # What tells rows apart in the log is in every message about a row; other columns need not be.
        self._sought = max(values, key=len) if set(key) == set(table.identity) else b""

    def __call__(self, message: bytes) -> bool:
        """Whether to read the next message."""
        self.number += 1
        return message[0] == TRUNCATE or (table_of(message) == self._oid and self._sought in message)


class RowReading:
    """Reads one table's rows out of the chain's backups in one place, for as long as it is leased there."""

    def __init__(self, repository: Repository, chain: Chain, table: Table, on_progress: OnProgress) -> None:
        self._repository = repository
        self._chain = chain
        self._table = table
        self._on_progress = on_progress

    async def in_base(self, key: Key) -> Fields | None:
        """The row as the base has it, None if it has none."""
        sought = _needle(copied_columns(self._table), key)
        line, _, _ = (await find_row(self._repository, self._table, sought, self._on_progress)).partition(b"\n")
        return line.split(b"\t") if line else None

    async def differences(self, key: Key, known: Fields | None) -> list[Found]:
        """What the backups found of it that compare its table with the base, where it was as `known`."""
        sought = _needle(self._table.primary_key, key), _needle(copied_columns(self._table), key)
        chain = self._chain
        return await found_in_differences(self._repository, chain.base, chain.beside, self._table, sought, known)

    async def steps(self, key: Key, known: Fields | None, last: Step | None = None) -> AsyncGenerator[Step, None]:
        """Every change of the row that the base lacks, in the order of the log, up to `last` if it is given.

        `known` is the row as in the base.
        """
        row = Followed(self._table, key, known)
        since = self._chain.since if self._chain.windows else 0
        windows = self._chain.windows
        for done, window in enumerate(windows, 1):
            if any(one.oid == self._table.oid and one.changes for one in window.changes):
                follow = partial(self._follow, row, Mentions(self._table, key), window, since)
                for step in await read_part(self._repository, window.log, follow):
                    if last is not None and step.place > last.place:
                        return
                    whole = await self._whole(step, known)
                    known = whole.left
                    yield whole
            since = max(since, lsn_number(window.end))
            self._on_progress(Progress("reading the change log", done, len(windows), window.id, counted=True))

    def _follow(
        self, row: Followed, mentions: Mentions, window: Increment, since: int, chunks: Iterator[bytes]
    ) -> list[Step]:
        """In a thread: what a window does to the row."""
        found = []
        for change in changes(chunks, since, mentions):
            if change.oid == self._table.oid and self._chain.lacks(change.commit):
                step = row.take(change, window.id, mentions.number)
                if step is not None:
                    found.append(step)
        return found

    async def _whole(self, step: Step, known: Fields | None) -> Step:
        """The step with every field: those that the log leaves out are as they were before it."""
        if step.fields is None or UNCHANGED not in step.fields:
            return step
        if step.came_from is not None:
            known = await self._under_the_other_key(step, step.came_from)
        if known is None:
            raise misfit(f"{self._table.schema_name}.{self._table.name}", "a row is changed that is not in it")
        fields = [was if now == UNCHANGED else now for was, now in zip(known, step.fields, strict=True)]
        return replace(step, fields=fields)

    async def _under_the_other_key(self, arrival: Step, key: Key) -> Fields | None:
        """The fields of a row that came, followed under the key it had, up to the change that moved it."""
        async with aclosing(self.steps(key, await self.in_base(key), arrival)) as steps:
            async for step in steps:
                if step.place == arrival.place:
                    return step.fields
        return None
