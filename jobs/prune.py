"""Carries retention out: removes from each place what its policy no longer keeps.

Whatever another place still lacks is left, whatever somebody reads too, and the newest good one that a place has. The
manifest goes first, then records and marks, then objects: so whatever a crash leaves is listed nowhere, and is swept.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Literal

from jobs.concurrency import task_group
from jobs.places.catalogue import Asked
from jobs.places.leasing import unlisting
from jobs.places.one_database import bindings
from jobs.places.standing import Standing, standing
from jobs.places.sweep import discard, purge_or_hide
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import PlaceOutcome, State
from storage.backends.protocol import Locked
from storage.errors import NotFound, StorageError
from storage.leases import list_leases
from storage.names import KEPT, VERIFICATIONS, ManifestName
from storage.repository import Catalogue, Entry, Repository
from storage.retention import Tier

STREAMS = 8

Action = Literal["keep", "hold back", "remove", "removed"]


@dataclass(frozen=True, slots=True)
class PruneRow:
    """What becomes of one backup in one place: kept for `reasons`, surely `until` (None: open); or to be removed, and
    `held_by` what that has to wait for. `verified` is what its verification came to there, None for none yet.
    """

    id: str
    place: str
    kind: str
    created_at: datetime
    bytes_stored: int
    action: Action
    tiers: tuple[Tier, ...] = ()
    reasons: tuple[str, ...] = ()
    until: datetime | None = None
    held_by: str | None = None
    verified: str | None = None


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What retention came to, newest backup first. `unreachable` places were left as they are; `failed` ones as far as
    they are.
    """

    dry_run: bool
    state: State
    backups: tuple[PruneRow, ...]
    unreachable: tuple[PlaceOutcome, ...] = ()
    failed: tuple[PlaceOutcome, ...] = ()

    def doing(self, *actions: Action) -> tuple[PruneRow, ...]:
        """The rows of which one of these becomes."""
        return tuple(row for row in self.backups if row.action in actions)


async def plan_prune(repositories: Sequence[Repository], now: datetime | None = None) -> PruneResult:
    """What `prune` would do; changes nothing. Raises as `prune`."""
    await bindings(repositories)
    return await _plan(repositories, await standing(repositories, now))


async def prune(
    repositories: Sequence[Repository], now: datetime | None = None, on_progress: OnProgress = no_progress
) -> PruneResult:
    """Remove what no policy keeps from every place that answers; the caller holds the job lock.

    A place that fails does not keep the others from being pruned. Raises `Unavailable` if none answers, and
    `OtherSource` if they belong to different databases: one's backups say nothing of which of the other's may go.
    """
    await bindings(repositories)
    stands = await standing(repositories, now)
    return await carry_out(repositories, stands.asked, await _plan(repositories, stands), on_progress)


async def carry_out(
    repositories: Sequence[Repository], asked: Asked, planned: PruneResult, on_progress: OnProgress
) -> PruneResult:
    """Remove what was planned from the places that were asked; what a store does not let go of is held back."""
    pruning = [
        _Pruning(repository, catalogue, on_progress)
        for repository in repositories
        if (catalogue := asked.catalogues[repository.place]) is not None
    ]
    await asyncio.gather(*(one.remove(planned.doing("remove")) for one in pruning))
    failed = tuple(PlaceOutcome(one.place, "failed", one.error) for one in pruning if one.error is not None)
    outcomes = {one.place: one for one in pruning}
    rows = tuple(outcomes[row.place].outcome(row) for row in planned.backups)
    waits = planned.unreachable or any(row.action == "hold back" for row in rows)
    state: State = "failed" if failed else "warning" if waits else "success"
    return PruneResult(False, state, rows, planned.unreachable, failed)


async def _plan(repositories: Sequence[Repository], stands: Standing) -> PruneResult:
    used = await being_read(repositories, stands.asked.catalogues)
    places = {repository.place: repository for repository in repositories}
    last = {one.place: _last(one, stands) for one in repositories}
    rows = [await _unless_locked(places[row.place], row) for row in _rows(stands, used, last)]
    waits = stands.asked.unreachable or any(row.action == "hold back" for row in rows)
    return PruneResult(True, "warning" if waits else "success", tuple(rows), stands.asked.unreachable)


async def _unless_locked(repository: Repository, row: PruneRow) -> PruneRow:
    """An archive that the store does not let go of is left whole: hidden, nobody would remove it later."""
    if row.action != "remove" or row.kind != "archive":
        return row
    try:
        locked = await repository.backend.lock_of(await repository.find(row.id))
    except NotFound:
        return row
    if locked is None:
        return row
    return replace(row, action="hold back", held_by=lock_text(locked))


def lock_text(locked: Locked) -> str:
    """Until when something is locked, as a sentence."""
    until = f"until {locked.until.isoformat(timespec='seconds')}" if locked.until else "until its hold is lifted"
    return f"it is locked {until}"


def _last(repository: Repository, stands: Standing) -> frozenset[str]:
    """The newest good full backup that a place has, though others have newer ones; an archive if none stays."""
    catalogue, policy, place = stands.asked.catalogues[repository.place], repository.policy, repository.place

    def good(kind: str) -> list[str]:
        if catalogue is None or not (policy is None or policy.keeps(kind)):
            return []
        return [one.id for one in catalogue.of_kind(kind) if one.verified != "failed"]

    last, archives = good("full")[:1], good("archive")
    if not any(stands.wanted.by(place, one) for one in archives):
        last += archives[:1]
    return frozenset(last)


def _rows(
    stands: Standing, used: Mapping[str, frozenset[str]], last: Mapping[str, frozenset[str]]
) -> Iterator[PruneRow]:
    catalogues = stands.asked.catalogues
    has = {place: {one.id: one for one in found.entries} if found else None for place, found in catalogues.items()}
    for backup_id in sorted({one for entries in has.values() for one in entries or ()}, reverse=True):
        for place, entries in has.items():
            if entries is None or backup_id not in entries:
                continue
            decision, entry = stands.wanted.of(place, backup_id), entries[backup_id]
            row = row_of(entry, place)
            if decision is None or decision.stays:
                tiers, reasons = (decision.tiers, decision.reasons) if decision else ((), ())
                until = decision.until if decision else None
                yield replace(row, action="keep", tiers=tiers, reasons=reasons, until=until)
            elif held_by := _held_by(stands, has, place, entry, used[place]):
                yield replace(row, action="hold back", held_by=held_by)
            elif backup_id in last[place]:
                held_by = f"{place} has no newer one"
                yield replace(row, action="hold back", held_by=held_by)
            else:
                yield row


def row_of(entry: Entry, place: str) -> PruneRow:
    """A copy that goes."""
    return PruneRow(
        id=entry.id,
        place=place,
        kind=entry.kind,
        created_at=entry.created_at,
        bytes_stored=entry.bytes_stored,
        action="remove",
        verified=entry.verified,
    )


def _held_by(
    stands: Standing,
    has: Mapping[str, Mapping[str, Entry] | None],
    place: str,
    entry: Entry,
    used: frozenset[str],
) -> str | None:
    """What the removal of a backup from a place has to wait for."""
    if entry.id in used:
        return "it is being read"
    for other, entries in has.items():
        if other == place or not stands.wanted.by(other, entry.id):
            continue
        if entries is None:
            return f"{other} does not answer, and may lack it"
        if entry.id not in entries:
            return f"its copy in {other} is pending"
        if entries[entry.id].verified == "failed" != entry.verified:
            return f"its copy in {other} is damaged"
    return None


async def being_read(
    repositories: Sequence[Repository], catalogues: Mapping[str, Catalogue | None]
) -> dict[str, frozenset[str]]:
    """By place the backups under a live lease. Who reads a full one may read the windows that go with it.

    Those are all from the full one before it on, since it may lack some of what came before itself.
    """

    async def one(repository: Repository) -> tuple[str, frozenset[str]]:
        catalogue = catalogues[repository.place]
        if catalogue is None:
            return repository.place, frozenset()
        return repository.place, in_use(await _leased(repository), catalogue.entries)

    return dict(await asyncio.gather(*(one(repository) for repository in repositories)))


def in_use(leased: Iterable[str], entries: Sequence[Entry]) -> frozenset[str]:
    """What the readers of some backups may read, of all there are."""
    used = set(leased)
    fulls = sorted(entry.id for entry in entries if entry.kind == "full")
    oldest = min(used.intersection(fulls), default=None)
    if oldest is not None:
        begin = max((one for one in fulls if one < oldest), default="")
        used |= {entry.id for entry in entries if entry.kind == "incremental" and entry.id > begin}
    return frozenset(used)


async def _leased(repository: Repository) -> set[str]:
    now = datetime.now(UTC)
    return {lease.backup for lease in await list_leases(repository.backend) if lease.live(now)}


class _Pruning:
    """Removes backups from one place. `unlisted` are those that it lists no longer, `locked` those of which the store
    does not let the manifest go, `marked` those that somebody marked meanwhile; `error` says what went wrong.
    """

    def __init__(self, repository: Repository, catalogue: Catalogue, on_progress: OnProgress) -> None:
        self.place = repository.place
        self.unlisted: dict[str, None] = {}
        self.locked: dict[str, Locked] = {}
        self.marked: set[str] = set()
        self.error: str | None = None
        self._repository = repository
        self._catalogue = catalogue
        self._on_progress = on_progress

    async def remove(self, rows: Sequence[PruneRow]) -> None:
        """Remove the rows' backups of this place, newest first. Raises nothing that the store raises."""
        try:
            if ids := {row.id for row in rows if row.place == self.place}:
                async with unlisting(self._repository):
                    # Somebody may just have set a mark: who does so from here on finds the lease, and waits.
                    self.marked = ids & await self._repository.marked()
                    await self._unlist(ids - self.marked)
                await self._discard()
        except StorageError as error:
            self.error = error.message

    async def _unlist(self, ids: set[str]) -> None:
        entries = [one for one in self._catalogue.entries if one.id in ids]
        # What an erasure replaced goes before what replaced it: else it would be listed again.
        earlier = [name for name in self._catalogue.superseded if ManifestName.parse(name).id in ids]
        await self._remove(earlier)
        await self._remove([one.manifest for one in entries if one.id not in self.locked])
        self.unlisted = {one.id: None for one in entries if one.id not in self.locked}
        # Still under the lease: a record without a manifest otherwise says that somebody else took that.
        await self._repository.backend.delete([name for one in self.unlisted for name in _records(one)])

    async def _remove(self, manifests: Sequence[str]) -> None:
        locked = await purge_or_hide(self._repository, manifests)
        self.locked |= {ManifestName.parse(one.name).id: one for one in locked}

    def outcome(self, row: PruneRow) -> PruneRow:
        """What became of a backup of this place."""
        if row.id in self.unlisted:
            return replace(row, action="removed")
        if row.id in self.locked:
            return replace(row, action="hold back", held_by=lock_text(self.locked[row.id]))
        if row.id in self.marked:
            return replace(row, action="hold back", held_by="a keep mark was just set")
        return row

    async def _discard(self) -> None:
        """Remove what belonged to backups that are listed no longer. What is read just now is left to be swept."""
        leased = await _leased(self._repository)
        waiting = iter([one for one in self.unlisted if one not in leased])
        done = count(1)

        async def stream() -> None:
            for backup_id in waiting:
                await discard(self._repository, backup_id)
                self._on_progress(
                    Progress(f"pruning {self.place}", next(done), len(self.unlisted), backup_id, counted=True)
                )

        async with task_group() as group:
            for _ in range(STREAMS):
                group.create_task(stream())


def _records(backup_id: str) -> tuple[str, ...]:
    verified = [f"{VERIFICATIONS}{backup_id}~{state}.json" for state in ("success", "failed")]
    return (*verified, f"{KEPT}{backup_id}.json")
