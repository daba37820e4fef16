"""Finds a row of a table in a backup by the text of its key, in one pass that verifies what it reads."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from jobs.concurrency import task_group
from jobs.copying.part_reading import read_part
from jobs.postgres.copy_text import escaped
from jobs.progress import OnProgress, Progress
from storage.manifest import Table
from storage.repository import Repository

STREAMS = 2


@dataclass(frozen=True, slots=True)
class Needle:
    """What a row's line must hold: the escaped text of some fields, by their positions in the line of `width` fields.

    None of it may be NULL; a key's columns never are.
    """

    fields: tuple[tuple[int, bytes], ...]
    width: int

    @property
    def _sought(self) -> bytes:
        """The longest value, with the separators around it."""
        position, value = max(self.fields, key=lambda field: len(field[1]))
        before = b"\n" if position == 0 else b"\t"
        after = b"\n" if position == self.width - 1 else b"\t"
        return before + value + after

    def lines_of(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Whole lines that hold it, of text that comes in chunks, cut anywhere; what follows the last line end is none.

        Only lines that are cut are put together: to copy everything would take as long as to look through it.
        """
        cut = [b"\n"]
        for chunk in chunks:
            first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
            if first < 0:
                cut.append(chunk)
                continue
            line = b"".join((*cut, chunk[: first + 1]))
            yield from self._lines_between(line, 0, len(line) - 1)
            yield from self._lines_between(chunk, first, last)
            cut = [chunk[last:]]

    def _lines_between(self, text: bytes, first: int, last: int) -> Iterator[bytes]:
        """Those between two line ends, which are at `first` and `last`."""
        sought = self._sought
        at = text.find(sought, first, last + 1)
        while at >= 0:
            start = at + 1 if sought[0] == 10 else text.rfind(b"\n", first, at + 1) + 1
            end = text.index(b"\n", start) + 1
            values = text[start : end - 1].split(b"\t")
            if all(values[position] == value for position, value in self.fields):
                yield text[start:end]
            at = text.find(sought, end - 1, last + 1)


def needle(table: Table, values: Mapping[str, str]) -> Needle:
    """Look for values, as the server writes them, in columns of a table."""
    copied = [column.name for column in table.columns if not column.generated]
    return Needle(tuple((copied.index(name), escaped(value)) for name, value in values.items()), len(copied))


async def find_row(repository: Repository, table: Table, sought: Needle, on_progress: OnProgress) -> bytes:
    """The line of COPY text with a primary key, empty if there is none. Once it is found, no further part is begun.

    Every part that is read is read to its end: raises `Corrupt` if it is not what was backed up, `NotFound` if it is
    missing.
    """
    total = sum(stored.bytes for part in table.parts for stored in part.objects)
    done = 0
    found: list[bytes] = []
    waiting = iter(table.parts)

    async def stream() -> None:
        nonlocal done
        while not found and (part := next(waiting, None)) is not None:
            found.extend(await read_part(repository, part, partial(_search, sought)))
            done += sum(stored.bytes for stored in part.objects)
            on_progress(Progress("searching", done, total, table=f"{table.schema_name}.{table.name}"))

    async with task_group() as group:
        for _ in range(STREAMS):
            group.create_task(stream())
    return b"".join(found)


def _search(sought: Needle, text: Iterator[bytes]) -> list[bytes]:
    """In a thread: all lines of a part that hold it."""
    return list(sought.lines_of(text))
