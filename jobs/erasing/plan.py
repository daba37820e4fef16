"""What an erasure would do, and how far it reaches: for a person to look at before anything is changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from jobs.erasing.counts import (
    Mention,
    PlacePlan,
    TablePlan,
    in_definitions,
    mentions,
    place_plans,
    table_plan,
)
from jobs.erasing.holdings import Holdings, read_holdings
from jobs.erasing.locks import StillLocked, locks_ahead
from jobs.erasing.resolving import Alive, Resolving
from jobs.erasing.search import Searched
from jobs.erasing.subject import Children, Found, Predicate
from jobs.errors import NotThere, UnsafeTarget
from jobs.places.catalogue import read_backup
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.errors import translated
from jobs.progress import OnProgress, no_progress
from storage.increments import AnyBackup, Increment
from storage.manifest import Manifest
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class ErasePlan:
    """Everything that was found, as of the newest backup; nothing of it was changed yet.

    What is `alive` has to be deleted in the database first. `locked` will still be there afterwards, until `resume`.
    Where something is damaged that is of other tables, it is `not_looked_through` for mentions.
    """

    predicate: Predicate
    children: Children | None
    until: "Until"
    alive: tuple[Alive, ...]
    tables: tuple[TablePlan, ...]
    places: tuple[PlacePlan, ...]
    mentions: tuple[Mention, ...]
    not_looked_through: tuple[str, ...]
    locked: tuple[StillLocked, ...]
    found: tuple[Found, ...] = field(repr=False)
    holdings: Holdings = field(repr=False)
    searched: Searched = field(repr=False)

    def require_gone(self) -> None:
        """Raise `UnsafeTarget` if rows are still in the database: they would be in the next backup again."""
        _require_gone(self.alive)


def _require_gone(alive: Sequence[Alive]) -> None:
    for one in alive:
        raise UnsafeTarget(
            f"{one.rows} of these rows are still in {one.table} of the database",
            "delete them there first; or, if they only lost what they pointed to, erase table by table, "
            "those that point before those they point to, with --children null",
        )


@dataclass(frozen=True, slots=True)
class Until:
    """How far an erasure reaches: what was committed later, or at this LSN or after it in that system, it leaves."""

    moment: datetime
    lsn: str
    system_identifier: str


async def drained(source: Source, newest: AnyBackup) -> Until:
    """Up to a backup that was just taken, so that everything before now is stored."""
    async with session(source, "clock") as connection:
        with translated("reading the clock"):
            moment = await connection.fetchval("SELECT pg_catalog.clock_timestamp()")
    return Until(moment, _lsn(newest), newest.source.system_identifier)


async def newest(repositories: Sequence[Repository]) -> Until:
    """Up to the newest backup that there is, to see what would be done."""
    ids = {entry.id for repository in repositories for entry in (await repository.catalogue()).entries}
    if not ids:
        raise NotThere("there is no backup yet", "there is nothing to erase")
    found = await read_backup(repositories, max(ids))
    return Until(found.created_at, _lsn(found), found.source.system_identifier)


def _lsn(backup: AnyBackup) -> str:
    if isinstance(backup, Manifest):
        return backup.snapshot.lsn
    return backup.end if isinstance(backup, Increment) else backup.beside.snapshot.lsn


async def check_subject(
    connection: Connection, repositories: Sequence[Repository], predicate: Predicate, children: Children | None
) -> None:
    """Raise, before anything is done, what stands in the way as far as it shows without looking through backups."""
    holdings = await read_holdings(repositories, (await newest(repositories)).moment)
    resolving = Resolving(connection, holdings, predicate, children, no_progress)
    await resolving.begin()
    _require_gone(await resolving.alive())


async def _refuse_later(repositories: Sequence[Repository], until: Until) -> None:
    """A backup that a wrong clock dated in the future would count as one from after the erasure, and keep the rows."""
    for repository in repositories:
        for entry in (await repository.catalogue()).entries:
            if entry.created_at > until.moment:
                raise UnsafeTarget(
                    f"{entry.id} in {repository.place} is dated in the future, so that what it holds cannot be erased",
                    f"set the clock right; then remove that backup: rowvault prune {entry.id}",
                )


async def plan_erasure(
    connection: Connection,
    repositories: Sequence[Repository],
    predicate: Predicate,
    children: Children | None,
    until: Until,
    on_progress: OnProgress,
) -> ErasePlan:
    """Find out all that an erasure would do in these places.

    Raises `BadName`, `NotThere`, `UnsafeTarget`, saying what to do; `Corrupt` for what cannot be read.
    """
    await _refuse_later(repositories, until)
    holdings = await read_holdings(repositories, until.moment)
    resolving = Resolving(connection, holdings, predicate, children, on_progress)
    search = await resolving.resolve()
    tables = tuple(table_plan(one, holdings, search.searched) for one in search.found.values())
    return ErasePlan(
        predicate=predicate,
        children=children,
        until=until,
        alive=await resolving.alive(),
        tables=tables,
        places=place_plans(repositories, holdings, search.searched),
        mentions=(*mentions(holdings, search.searched), *in_definitions(resolving.definitions)),
        not_looked_through=resolving.not_looked_through,
        locked=await locks_ahead(holdings, search.searched),
        found=tuple(search.found.values()),
        holdings=holdings,
        searched=search.searched,
    )
