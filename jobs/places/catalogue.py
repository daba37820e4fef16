"""The catalogue over all places: what a person sees as the list of backups."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.errors import NotThere
from jobs.places.leasing import until_nothing_is_unlisted
from jobs.places.sweep import ORPHANED_HINT, is_orphaned, orphaned_text
from jobs.places.wanted import Wanted, broken_off, wanted
from jobs.results import PlaceOutcome, PlaceState, State
from storage.errors import NotFound, StorageError, Unavailable
from storage.increments import AnyBackup
from storage.repository import Catalogue, Entry, Repository
from storage.retention import TIERS, Decision, Policy, Tier


@dataclass(frozen=True, slots=True)
class ListedBackup:
    """One backup, its places merged: those that have it or should. `recoverable_to` is the latest moment it can bring
    back: every one from `created_at` on, where incremental backups continue it. `reasons` are why any place that has it
    keeps it, `tiers` among them; surely until `kept_until`, None where that is open. Without a reason it may go.
    """

    id: str
    kind: str
    state: State
    label: str
    created_at: datetime
    recoverable_to: datetime
    places: tuple[PlaceOutcome, ...]
    rows: int
    bytes_stored: int
    kept: bool
    base: str | None
    tiers: tuple[Tier, ...] = ()
    reasons: tuple[str, ...] = ()
    kept_until: datetime | None = None

    @property
    def whole_somewhere(self) -> bool:
        """Whether at least one place has it and did not fail its verification."""
        return any(place.state == "committed" for place in self.places)


@dataclass(frozen=True, slots=True)
class Listing:
    """All backups, newest first; places that did not answer; names among the manifests that are none."""

    backups: tuple[ListedBackup, ...]
    unreachable: tuple[PlaceOutcome, ...]
    strays: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What every place answered: its catalogue, None where it did not; why it did not; strays by place."""

    catalogues: Mapping[str, Catalogue | None]
    unreachable: tuple[PlaceOutcome, ...]
    strays: tuple[str, ...]


async def list_backups(repositories: Sequence[Repository]) -> Listing:
    """Ask every place; raises `Unavailable` only if none answers."""
    asked = await ask(repositories)
    decided = wanted(asked.catalogues, policies(repositories), datetime.now(UTC))
    return Listing(merge(asked.catalogues, decided), asked.unreachable, asked.strays)


def policies(repositories: Sequence[Repository]) -> dict[str, Policy | None]:
    """What each place is to keep."""
    return {repository.place: repository.policy for repository in repositories}


async def ask(repositories: Sequence[Repository]) -> Asked:
    """Read every place's catalogue; raises `Unavailable` only if none answers."""
    answers = await asyncio.gather(*(_ask(repository) for repository in repositories))
    unreachable = tuple(answer for answer in answers if isinstance(answer, PlaceOutcome))
    if len(unreachable) == len(answers):
        raise Unavailable(
            "no place answers: " + "; ".join(f"{place.name}: {place.error}" for place in unreachable),
            "rowvault doctor looks at each place",
        )
    catalogues = {
        repository.place: answer if isinstance(answer, Catalogue) else None
        for repository, answer in zip(repositories, answers, strict=True)
    }
    strays = tuple(f"{place}: {name}" for place, found in catalogues.items() if found for name in found.strays)
    return Asked(catalogues, unreachable, strays)


async def _ask(repository: Repository) -> Catalogue | PlaceOutcome:
    try:
        return await repository.catalogue()
    except StorageError as error:
        return PlaceOutcome(repository.place, "unreachable", error.message)


def merge(catalogues: Mapping[str, Catalogue | None], decided: Wanted) -> tuple[ListedBackup, ...]:
    """Join the places' catalogues, newest first; None is a place that did not answer."""
    by_id: dict[str, dict[str, Entry]] = {}
    reaches: dict[str, datetime] = {}
    lost = broken_off(catalogues)
    for place, catalogue in catalogues.items():
        for entry in catalogue.entries if catalogue else ():
            by_id.setdefault(entry.id, {})[place] = entry
            if entry.base is not None and entry.verified != "failed" and entry.id not in lost:
                reaches[entry.base] = max(entry.created_at, reaches.get(entry.base, entry.created_at))
    return tuple(_merged(by_id[backup_id], catalogues, reaches, decided) for backup_id in sorted(by_id, reverse=True))


def _merged(
    entries: dict[str, Entry],
    catalogues: Mapping[str, Catalogue | None],
    reaches: dict[str, datetime],
    decided: Wanted,
) -> ListedBackup:
    entry = next(iter(entries.values()))
    places = tuple(
        PlaceOutcome(place, _place_state(entries.get(place), catalogue))
        for place, catalogue in catalogues.items()
        if place in entries or catalogue is None or decided.by(place, entry.id)
    )
    decisions = [one for place in entries if (one := decided.of(place, entry.id))]
    return ListedBackup(
        id=entry.id,
        kind=entry.kind,
        base=entry.base,
        state=_state(places),
        label=entry.label,
        created_at=entry.created_at,
        recoverable_to=max(entry.created_at, reaches.get(entry.id, entry.created_at)),
        places=places,
        rows=entry.rows,
        bytes_stored=entry.bytes_stored,
        kept=any(one.kept for one in entries.values()),
        tiers=tuple(tier for tier in TIERS if any(tier in one.tiers for one in decisions)),
        reasons=tuple(dict.fromkeys(reason for one in decisions for reason in one.reasons)),
        kept_until=_last_until(decisions),
    )


def _last_until(decisions: Sequence[Decision]) -> datetime | None:
    """Until when a backup stays somewhere; None where that is open or it may go."""
    untils = [one.until for one in decisions if one.stays]
    return None if None in untils else max((one for one in untils if one), default=None)


def _place_state(entry: Entry | None, catalogue: Catalogue | None) -> PlaceState:
    if catalogue is None:
        return "unreachable"
    if entry is None:
        return "pending"
    return "failed" if entry.verified == "failed" else "committed"


def _state(places: tuple[PlaceOutcome, ...]) -> State:
    states = {place.state for place in places}
    if "failed" in states:
        return "failed"
    return "success" if states == {"committed"} else "warning"


async def resolve(repositories: Sequence[Repository], wanted: str) -> str:
    """The id that a person means: an id, or `latest`.

    Raises `NotThere`; `Unavailable` if a place that did not answer may have it.
    """
    listing = await list_backups(repositories)
    for backup in listing.backups:
        if backup.id == wanted or (wanted == "latest" and backup.whole_somewhere):
            return backup.id
    _refuse_unless_all_answer(listing)
    if wanted == "latest" and not listing.backups:
        raise NotThere("there is no backup yet", "take one with: rowvault backup")
    if wanted == "latest":
        raise NotThere("no backup is whole in any place", "rowvault verify --all shows what is wrong with each")
    for repository in repositories:
        if await is_orphaned(repository, wanted):
            raise NotThere(orphaned_text(repository, wanted), ORPHANED_HINT)
    raise NotThere(f"there is no backup {wanted}", "list the backups with: rowvault list")


def _refuse_unless_all_answer(listing: Listing) -> None:
    for place in listing.unreachable:
        raise Unavailable(f"{place.name} does not answer: {place.error}", "try again when all places answer")


async def keep(repositories: Sequence[Repository], backup_id: str, reason: str) -> None:
    """Set a keep mark in every place that has the backup. Raises `NotThere` if it was removed at that moment."""
    having = await _having(repositories, backup_id)
    for repository in having:
        with suppress(NotFound):  # it is just being removed there
            await repository.keep(backup_id, reason)
    for repository in having:
        await until_nothing_is_unlisted(repository)
    if not any([await repository.has(backup_id) for repository in having]):
        raise NotThere(f"backup {backup_id} was removed in this moment", "choose another: rowvault list")


async def release(repositories: Sequence[Repository], backup_id: str) -> None:
    """Lift the keep mark in every place that has the backup."""
    for repository in await _having(repositories, backup_id):
        await repository.release(backup_id)


async def _having(repositories: Sequence[Repository], backup_id: str) -> list[Repository]:
    """All places must answer: a mark set in one place only would be forgotten in the other."""
    listing = await list_backups(repositories)
    _refuse_unless_all_answer(listing)
    states = {
        place.name: place.state for backup in listing.backups if backup.id == backup_id for place in backup.places
    }
    if not states:
        raise NotThere(f"there is no backup {backup_id}", "list the backups with: rowvault list")
    return [repository for repository in repositories if states.get(repository.place) in {"committed", "failed"}]


async def concerned(repositories: Sequence[Repository], backup_ids: Sequence[str]) -> list[list[Repository]]:
    """For each backup the places that have it, should have it, or do not answer; all of them if it is nowhere."""
    there = {one.id: {place.name for place in one.places} for one in (await list_backups(repositories)).backups}
    everywhere = {repository.place for repository in repositories}
    return [[one for one in repositories if one.place in there.get(each, everywhere)] for each in backup_ids]


async def read_backup(repositories: Sequence[Repository], backup_id: str) -> AnyBackup:
    """The manifest of a backup of any kind from the first place where it can be read.

    Raises the first failure that is not an absence, `NotFound` if it is absent everywhere.
    """
    failure: StorageError | None = None
    for repository in repositories:
        try:
            return await repository.backup(backup_id)
        except StorageError as error:
            failure = error if failure is None or isinstance(failure, NotFound) else failure
    assert failure is not None
    raise failure


async def read_resolved(repositories: Sequence[Repository], wanted: str) -> AnyBackup:
    """The manifest of the backup that a person means. Raises what `resolve` and `read_backup` raise."""
    return await read_backup(repositories, await resolve(repositories, wanted))
