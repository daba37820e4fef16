"""The policy report: what is kept, why and until when, and the evidence of what was done, for whoever has to check."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

from jobs.places.ledger import read_ledgers
from jobs.postgres.connection import Source
from jobs.prune import PruneResult, PruneRow, plan_prune
from jobs.results import PlaceOutcome
from jobs.trail import TrailEntry, TrailReport, verify_trail
from storage.errors import Corrupt, StorageError
from storage.names import id_moment
from storage.repository import Identity, Repository
from storage.retention import Policy

_DAY = timedelta(days=1)
_GOOD = frozenset({"success", "warning"})


@dataclass(frozen=True, slots=True)
class ReportedPlace:
    """One place: its policy (None: it keeps everything), how much it holds; `error` says why it was not read."""

    name: str
    policy: Policy | None
    backups: int
    bytes_stored: int
    oldest: datetime | None
    newest: datetime | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """How often something was done since, with which outcomes, and when last."""

    what: str
    success: int
    warning: int
    failed: int
    refused: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """Days, from the first up to the last, on which no good backup was taken."""

    first: date
    last: date


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """`backups` are all copies, newest first; `entries` is what the audit trail tells since `since`, oldest first;
    `notes` what a person should look into.
    """

    created_at: datetime
    since: datetime | None
    database: Identity | None
    places: tuple[ReportedPlace, ...]
    backups: tuple[PruneRow, ...]
    activities: tuple[Activity, ...]
    gaps: tuple[Gap, ...]
    entries: tuple[TrailEntry, ...]
    trail: TrailReport
    notes: tuple[str, ...] = ()

    @property
    def overdue(self) -> tuple[PruneRow, ...]:
        """Copies that no policy keeps and which are still there."""
        return tuple(row for row in self.backups if row.action != "keep")


async def policy_report(
    repositories: Sequence[Repository], log: Source | None, zone: tzinfo, since: datetime | None = None
) -> PolicyReport:
    """Gather it all; changes nothing. `log` is asked for the heads of the trail that it remembers.

    Every manifest is read, for each remembers the trail's head. Raises `Unavailable` if no place answers.
    """
    now = datetime.now(UTC)
    planned = await plan_prune(repositories, now)
    trail = await verify_trail(repositories, log)
    entries = tuple(one for one in trail.entries if since is None or one.at >= since)
    away = {one.name for one in planned.unreachable}
    there = [one for one in repositories if one.place not in away]
    database, unsaid = await _identity(there)
    return PolicyReport(
        created_at=now,
        since=since,
        database=database,
        places=tuple(_place(repository, planned) for repository in repositories),
        backups=planned.backups,
        activities=activities(entries),
        gaps=gaps(_good_days(planned.backups, entries, zone), since, now, zone),
        entries=entries,
        trail=trail,
        notes=(*unsaid, *await _erasures(there)),
    )


async def _identity(repositories: Sequence[Repository]) -> tuple[Identity | None, list[str]]:
    """Whose backups they are, and what is wrong where a place cannot say."""
    bound, wrong = list[Identity](), list[str]()
    for repository in repositories:
        try:
            if (identity := await repository.identity()) is not None:
                bound.append(identity)
        except StorageError as error:
            wrong.append(f"{error.message}: {error.hint}")
    return next(iter(bound), None), wrong


async def _erasures(repositories: Sequence[Repository]) -> list[str]:
    """Erasures that are not through."""
    try:
        ledger = await read_ledgers(repositories)
    except Corrupt as error:
        return [f"{error.message}: {error.hint}"]
    return [f"erasure {one.id} is not finished: rowvault erase --resume" for one in ledger.unfinished]


def _place(repository: Repository, planned: PruneResult) -> ReportedPlace:
    rows = [row for row in planned.backups if row.place == repository.place]
    away: dict[str, PlaceOutcome] = {one.name: one for one in planned.unreachable}
    moments = [row.created_at for row in rows]
    return ReportedPlace(
        name=repository.place,
        policy=repository.policy,
        backups=len(rows),
        bytes_stored=sum(row.bytes_stored for row in rows),
        oldest=min(moments, default=None),
        newest=max(moments, default=None),
        error=away[repository.place].error if repository.place in away else None,
    )


def activities(entries: Iterable[TrailEntry]) -> tuple[Activity, ...]:
    """What was done, by kind, in the order of the alphabet."""
    counts: dict[str, Counter[str]] = {}
    last: dict[str, datetime] = {}
    for one in entries:
        counts.setdefault(one.what, Counter())[one.outcome] += 1
        last[one.what] = max(one.at, last.get(one.what, one.at))
    return tuple(
        Activity(what, found["success"], found["warning"], found["failed"], found["refused"], last[what])
        for what, found in sorted(counts.items())
    )


def _good_days(rows: Iterable[PruneRow], entries: Iterable[TrailEntry], zone: tzinfo) -> set[date]:
    """Days on which a good backup was taken, also one that is no more: the trail remembers it."""
    there = {row.created_at for row in rows if row.verified != "failed"}
    told = {id_moment(one.backup) for one in entries if one.what == "backup" and one.backup and one.outcome in _GOOD}
    return {moment.astimezone(zone).date() for moment in there | told}


def gaps(good: set[date], since: datetime | None, now: datetime, zone: tzinfo) -> tuple[Gap, ...]:
    """Runs of whole days without a good backup, from `since` (or the first good one) up to yesterday."""
    begin = since.astimezone(zone).date() if since is not None else min(good, default=now.date())
    found, first = list[Gap](), None
    today = now.astimezone(zone).date()
    for number in range(max(0, (today - begin).days) + 1):
        day = begin + number * _DAY
        if day in good or day == today:
            if first is not None:
                found.append(Gap(first, day - _DAY))
            first = None
        elif first is None:
            first = day
    return tuple(found)
