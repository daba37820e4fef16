"""Reconciles the places: what one wants and lacks, has in part or has differently is made good from another, both ways.

Keep marks, drill reports and the binding to the database come along; the trail does with every entry written to it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from jobs.places.mending import bytes_lacking, mend
from jobs.places.survey import Check, Found, Holding, Place, Surveyed, look, survey
from jobs.places.sync_along import bind_alike, bring_along, share_ledger
from jobs.progress import OnProgress, no_progress
from jobs.results import PlaceOutcome, State, VerifyResult
from jobs.verify import verify_backup
from storage.erasures import Erasure
from storage.errors import NotFound, StorageError, Unavailable
from storage.names import REPOSITORY, id_moment
from storage.repository import Identity, Repository

Done = Literal["nothing", "to do", "made good", "left", "failed"]


@dataclass(frozen=True, slots=True)
class SyncRow:
    """What was found of one backup in one place, and what was done. `bytes` are those that were brought, or would be.

    `error` says why it was left or failed.
    """

    id: str
    place: str
    found: Found
    objects: int = 0
    bytes: int = 0
    done: Done = "nothing"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SyncCost:
    """What it took to look at one place: names listed, checksums asked for, bytes read; and how many were brought."""

    place: str
    listed: int
    checksums: int
    bytes_read: int
    bytes_brought: int


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What reconciling the places came to. `marks` counts keep marks and drill reports that were brought, or would be.

    `damaged` are backups of which something is whole in no place. Where it `gave_way`, not all were looked at.
    """

    check: Check
    dry_run: bool
    state: State
    backups: tuple[SyncRow, ...]
    damaged: tuple[str, ...]
    unreachable: tuple[PlaceOutcome, ...]
    costs: tuple[SyncCost, ...]
    marks: int = 0
    verified: tuple[VerifyResult, ...] = ()
    gave_way: bool = False

    @property
    def lacking(self) -> tuple[SyncRow, ...]:
        """What was not whole when it was looked at."""
        return tuple(row for row in self.backups if row.found != "whole")


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How thoroughly to look. Without `fill` the first place gets no backup that is older than itself: it may be a
    volume that is not mounted, beside a bucket that holds years. `give_way` is asked between backups whether to stop.
    """

    check: Check = "size"
    dry_run: bool = False
    fill: bool = True
    give_way: Callable[[], bool] = lambda: False


async def sync(
    repositories: Sequence[Repository], options: SyncOptions | None = None, on_progress: OnProgress = no_progress
) -> SyncResult:
    """Reconcile the places that answer; the caller holds the job lock.

    Raises `OtherSource` if they belong to different databases, `Unavailable` if none answers.
    """
    options = options or SyncOptions()
    answering, unreachable = await _answering(repositories)
    born = await bind_alike(answering, fill=options.fill, dry_run=options.dry_run)
    erasures = await share_ledger(answering, dry_run=options.dry_run)
    places = await look(answering)
    syncing = _Syncing(places, options, born, erasures, on_progress)
    marks, gave_way = 0, False
    try:
        async for surveyed in survey(places, options.check, on_progress):
            if gave_way := options.give_way():
                break
            await syncing.take(surveyed)
        marks = await bring_along(places, dry_run=options.dry_run)
    except Unavailable:
        # Whoever fell silent meanwhile takes nothing away from what was found and done until then.
        _, silent = await _answering(answering)
        if not silent:
            raise
        unreachable += silent
    return syncing.result(tuple(unreachable), marks, gave_way=gave_way)


async def _answering(repositories: Sequence[Repository]) -> tuple[list[Repository], list[PlaceOutcome]]:
    answering, unreachable = list[Repository](), list[PlaceOutcome]()
    for repository in repositories:
        try:
            with suppress(NotFound):
                await repository.backend.stat(REPOSITORY)
            answering.append(repository)
        except StorageError as error:
            unreachable.append(PlaceOutcome(repository.place, "unreachable", error.message))
    if not answering:
        said = "; ".join(f"{place.name}: {place.error}" for place in unreachable)
        raise Unavailable(f"no place answers: {said}", "rowvault doctor looks at each place")
    return answering, unreachable


class _Syncing:
    """Makes good what the survey finds, backup by backup, and keeps account."""

    def __init__(
        self,
        places: Sequence[Place],
        options: SyncOptions,
        born: dict[str, Identity],
        erasures: Sequence[Erasure],
        on_progress: OnProgress,
    ) -> None:
        self._places = places
        self._options = options
        self._born = born
        self._erasures = erasures
        self._on_progress = on_progress
        self._rows: list[SyncRow] = []
        self._damaged: list[str] = []
        self._verified: list[VerifyResult] = []
        self._silent: dict[str, str] = {}
        self._marks = 0
        self._brought = {place.name: 0 for place in places}

    async def take(self, surveyed: Surveyed) -> None:
        """One backup: note what was found, and make it good."""
        rows = {one.place.name: _row(surveyed, one) for one in surveyed.holdings}
        if surveyed.manifest is None and surveyed.lacking:
            self._damaged.append(surveyed.id)
            error = "its manifest cannot be read in any place"
            rows = {name: replace(row, done="failed", error=error) for name, row in rows.items()}
        elif self._options.dry_run:
            for holding in surveyed.lacking:
                rows[holding.place.name] = replace(rows[holding.place.name], done="to do")
            if surveyed.holdings and self._hopeless(surveyed):
                self._damaged.append(surveyed.id)
        else:
            await self._make_good(surveyed, rows)
        self._rows += rows.values()

    def _hopeless(self, surveyed: Surveyed) -> bool:
        return bool(set.intersection(*(one.bad for one in surveyed.holdings)))

    async def _make_good(self, surveyed: Surveyed, rows: dict[str, SyncRow]) -> None:
        """Again until nothing gets better: while one place is made good, another may turn out to be damaged.

        What a verification once found fault with, and is as it should be, is verified again.
        """
        tried = dict[str, int]()
        while todo := [one for one in surveyed.lacking if tried.get(one.place.name) != len(one.bad)]:
            holding = todo[0]
            tried[holding.place.name] = len(holding.bad)
            rows[holding.place.name] = await self._make_good_in(holding, surveyed, rows[holding.place.name])
            tried[holding.place.name] = len(holding.bad)
        if surveyed.lacking and self._hopeless(surveyed):
            self._damaged.append(surveyed.id)
        self._marks += sum(holding.marked for holding in surveyed.holdings)
        for holding in surveyed.holdings:
            if holding.failed and holding.found == "whole" and rows[holding.place.name].done == "nothing":
                await self._verify(surveyed.id, holding)

    async def _verify(self, backup_id: str, holding: Holding) -> None:
        """Read it back, which is remembered in the place too."""
        repository = holding.place.repository
        self._verified.append(await verify_backup([repository], backup_id, on_progress=self._on_progress))

    async def _make_good_in(self, holding: Holding, surveyed: Surveyed, row: SyncRow) -> SyncRow:
        manifest, place = holding.own or surveyed.manifest, holding.place
        assert manifest is not None
        if row.found == "whole":  # it seemed so, by its sizes
            row = _row(surveyed, holding)
        if (error := self._silent.get(place.name)) is not None:
            return replace(row, done="failed", error=error)
        if self._is_older_than(place, surveyed.id):
            return replace(row, done="left", error=f"{place.name} began after it: is a volume not mounted?")
        if unerased := [one.id for one in self._erasures if not one.clears(manifest)]:
            return replace(row, done="left", error=f"it may hold rows of {unerased[0]}: rowvault erase --resume")
        try:
            brought = await mend(surveyed, manifest, holding, self._on_progress)
        except StorageError as failure:
            if isinstance(failure, Unavailable):
                self._silent[place.name] = failure.message
            return replace(row, done="failed", error=failure.message)
        self._brought[place.name] += brought
        await self._verify(surveyed.id, holding)
        return replace(row, done="made good", bytes=brought, error=None)

    def _is_older_than(self, place: Place, backup_id: str) -> bool:
        """Whether a place that is not to be filled began after a backup that it has nothing of."""
        if self._options.fill or place is not self._places[0] or backup_id in place.entries:
            return False
        identity = self._born.get(place.name)
        return identity is None or id_moment(backup_id) < identity.created_at

    def result(self, unreachable: tuple[PlaceOutcome, ...], marks: int, *, gave_way: bool) -> SyncResult:
        """What it all came to."""
        bad = any(row.done == "failed" for row in self._rows) or any(one.state == "failed" for one in self._verified)
        costs = [
            SyncCost(one.name, one.listed, one.asked, one.bytes_read, self._brought[one.name]) for one in self._places
        ]
        state: State = "failed" if bad or unreachable or self._damaged else "success"
        if state == "success" and (gave_way or any(row.done == "left" for row in self._rows)):
            state = "warning"
        return SyncResult(
            check=self._options.check,
            dry_run=self._options.dry_run,
            state=state,
            backups=tuple(self._rows),
            damaged=tuple(self._damaged),
            unreachable=unreachable,
            costs=tuple(costs),
            marks=marks + self._marks,
            verified=tuple(self._verified),
            gave_way=gave_way,
        )


def _row(surveyed: Surveyed, holding: Holding) -> SyncRow:
    manifest = holding.own or surveyed.manifest
    wanted = 0 if manifest is None else bytes_lacking(holding, manifest)
    return SyncRow(surveyed.id, holding.place.name, holding.found, len(holding.bad), wanted)
