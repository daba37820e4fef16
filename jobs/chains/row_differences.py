"""One row's way through incremental backups that compare its table: what each found of it, at its own moment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from jobs.chains.beside_log import differences_of
from jobs.chains.replay import misfit
from jobs.chains.row_search import Needle
from jobs.copying.part_reading import read_part
from storage.increments import Incremental
from storage.manifest import Manifest, Part, Table
from storage.repository import Repository

Fields = list[bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """The row as a backup found it at the moment `at`, None if it was gone; the backup before it was of `after`."""

    backup: str
    after: datetime
    at: datetime
    fields: Fields | None


async def found_in_differences(
    repository: Repository,
    base: Manifest,
    beside: Sequence[Incremental],
    table: Table,
    sought: tuple[Needle, Needle],
    fields: Fields | None,
) -> list[Found]:
    """What each backup after the base stored of the row, even if it is as it was; `fields` are the base's.

    It is sought among the keys that went, and among the rows that came. Raises `Corrupt` where what is stored does not
    fit, and what `read_part` raises.
    """
    among_keys, among_rows = sought
    found, before = list[Found](), base.created_at
    for step in beside:
        assert step.beside is not None
        for one in differences_of([step], table.oid):
            went = await _lines(repository, one.removed, among_keys)
            came = await _lines(repository, one.added, among_rows)
            _check_fit(table, there=fields is not None, went=bool(went), came=bool(came))
            if went or came:
                fields = came[0].rstrip(b"\n").split(b"\t") if came else None
                found.append(Found(step.id, before, step.beside.moment, fields))
        before = step.beside.moment
    return found


async def _lines(repository: Repository, part: Part | None, sought: Needle) -> list[bytes]:
    return [] if part is None else await read_part(repository, part, partial(_search, sought))


def _search(sought: Needle, text: Iterator[bytes]) -> list[bytes]:
    """In a thread: all lines that hold it."""
    return list(sought.lines_of(text))


def _check_fit(table: Table, *, there: bool, went: bool, came: bool) -> None:
    name = f"{table.schema_name}.{table.name}"
    if went and not there:
        raise misfit(name, "a row goes that is not there")
    if came and there and not went:
        raise misfit(name, "a row comes under a key that is taken")
