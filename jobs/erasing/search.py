"""Searches everything that places hold for the rows of an erasure, again and again until no more of them are found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jobs.concurrency import task_group
from jobs.copying.part_reading import read_part
from jobs.erasing.damage import NOTHING_ERASED, Damage, in_the_way
from jobs.erasing.holdings import Holdings, Key, Reading
from jobs.erasing.marks import Fields, Judge, Marked
from jobs.erasing.subject import Found
from jobs.erasing.text import Count, TextFilter
from jobs.erasing.window import WindowCount, WindowFilter
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from storage.errors import Corrupt, NotFound, StorageError
from storage.increments import Log

STREAMS = 2


@dataclass(slots=True)
class Searched:
    """What the newest look at each content came to."""

    rows: dict[Key, Count] = field(default_factory=dict)
    windows: dict[Key, WindowCount] = field(default_factory=dict)

    def changed(self, reading: Reading) -> int:
        """How many rows, keys or changes of it are not to stay as they are."""
        if reading.what == "window":
            return self.windows[reading.key].changed if reading.key in self.windows else 0
        return self.rows[reading.key].changed if reading.key in self.rows else 0


class Search:
    """Looks through holdings for the rows of these tables; counts in all others where `mentioned` is, if anything."""

    def __init__(self, holdings: Holdings, mentioned: bytes, on_progress: OnProgress) -> None:
        self.found: dict[TableName, Found] = {}
        self.searched = Searched()
        self._holdings = holdings
        self._mentioned = mentioned
        self._on_progress = on_progress
        self._seen: dict[Key, int] = {}
        self._damaged: dict[Key, StorageError] = {}

    async def settle(self) -> None:
        """Go on until every content was looked at with all that is known.

        Raises `Corrupt`, naming all backups that stand in the way, if some cannot be looked through.
        """
        while todo := [one for one in self._in_order() if self._seen.get(one.key) != self._version(one)]:
            await self._look_at([one for one in todo if self._version(one)])
            self._seen |= {one.key: 0 for one in todo if not self._version(one)}
        if self._damaged:
            raise in_the_way([one for key in self._damaged for one in await self._damages(key)], NOTHING_ERASED)

    async def look_at_the_rest(self) -> tuple[str, ...]:
        """Count the mentions in whatever was not looked at yet; what is wrong with contents that hold none that can be
        counted. They are of other tables, and not in the way.
        """
        if self._mentioned:
            await self._look_at([one for one in self._in_order() if not self._seen.get(one.key)])
        return tuple(error.message for error in self._damaged.values())

    async def _damages(self, key: Key) -> list[Damage]:
        """The backups that have a damaged content, or as well the same one whole, each in every place."""
        troubles: dict[str, list[StorageError | None]] = {}
        for backup, reading in self._holdings.having(key):
            troubles.setdefault(backup, []).append(await _trouble(reading))
        return [
            Damage(backup, error, None in found)
            for backup, found in troubles.items()
            if (error := next(filter(None, found), None)) is not None
        ]

    def _in_order(self) -> list[Reading]:
        """Windows first, which are small and tell of keys, then the newest backups."""
        newest = list(self._holdings.readings.values())[::-1]
        return sorted(newest, key=lambda one: one.what != "window")

    def _concerned(self, reading: Reading) -> list[Found]:
        if reading.table is None:
            return list(self.found.values())
        return [one for one in self.found.values() if reading.table.oid in one.oids]

    def _version(self, reading: Reading) -> int:
        return sum(one.values.version for one in self._concerned(reading))

    async def _look_at(self, readings: Sequence[Reading]) -> None:
        total, done = sum(one.bytes for one in readings), 0
        waiting = iter(readings)

        async def stream() -> None:
            nonlocal done
            for one in waiting:
                self._seen[one.key] = self._version(one)
                await self._look(one)
                done += one.bytes
                table = f"{one.table.schema_name}.{one.table.name}" if one.table else None
                self._on_progress(Progress("searching", done, total, table=table))

        async with task_group() as group:
            for _ in range(STREAMS):
                group.create_task(stream())

    async def _look(self, reading: Reading) -> None:
        if reading.key in self._damaged:
            return
        try:
            await self._read(reading)
        except (Corrupt, NotFound) as error:
            self._damaged[reading.key] = error

    async def _read(self, reading: Reading) -> None:
        if isinstance(reading.part, Log):
            window = WindowFilter([one.marked() for one in self._concerned(reading)], WindowCount())
            window.mentioned = self._mentioned
            await read_part(reading.repository, reading.part, lambda chunks: window.look(chunks, self._take))
            self.searched.windows[reading.key] = window.count
            return
        text = self._text_filter(reading)
        found = self._concerned(reading)

        def look(chunks: Iterator[bytes]) -> None:
            for fields in text.look(chunks):
                for one in found:
                    one.take(text.judge, fields)

        await read_part(reading.repository, reading.part, look)
        self.searched.rows[reading.key] = text.count

    def _text_filter(self, reading: Reading) -> TextFilter:
        found = self._concerned(reading)
        marked = found[0].marked() if found else _NOTHING
        mentioned = self._mentioned if reading.what == "rows" else b""
        return TextFilter(Judge(marked, reading.columns, reading.types), reading.columns, Count(), (), mentioned)

    def _take(self, marked: Marked, judge: Judge, fields: Fields) -> None:
        self.found[marked.table].take(judge, fields)


async def _trouble(reading: Reading) -> StorageError | None:
    """What is wrong with a content as it lies in one place."""
    try:
        await read_part(reading.repository, reading.part, lambda chunks: sum(map(len, chunks)))
    except (Corrupt, NotFound) as error:
        return error
    return None


_NOTHING = Found(TableName("", ""), (), frozenset()).marked()
