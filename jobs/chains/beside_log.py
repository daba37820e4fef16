"""Brings tables that are not in the change log to what incremental backups found of them, one after the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from jobs.chains.replay import TableStates
from jobs.chains.sorted_keys import lines_of
from jobs.copying.part_reading import read_part
from storage.increments import Incremental, TableDifference
from storage.manifest import Part
from storage.repository import Repository


def differences_of(beside: Sequence[Incremental], oid: int) -> list[TableDifference]:
    """What became of one table, oldest first."""
    return [one for step in beside if step.beside is not None for one in step.beside.tables if one.oid == oid]


def newest_whole(beside: Sequence[Incremental], oid: int) -> tuple[Part, ...]:
    """The parts of a table as it was last copied whole; none if that was in the full backup."""
    return next((one.parts for one in reversed(differences_of(beside, oid)) if one.parts), ())


async def follow_differences(
    repository: Repository, beside: Sequence[Incremental], states: Mapping[int, TableStates]
) -> None:
    """Take what became of these tables, by oid. Raises `Corrupt` where it does not fit the full backup."""
    for oid, state in states.items():
        for one in differences_of(beside, oid):
            for part, take in ((one.removed, state.remove), (one.added, state.add)):
                if part is not None:
                    await read_part(repository, part, _each(take))


def _each(take: Callable[[bytes], None]) -> Callable[[Iterator[bytes]], None]:
    def take_all(chunks: Iterator[bytes]) -> None:
        for line in lines_of(chunks):
            take(line)

    return take_all
