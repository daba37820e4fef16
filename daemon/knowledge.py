"""What the daemon knows: gathered by its rounds and runs, asked by its endpoints and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from daemon.outcomes import Outcome
from daemon.scheduler import Scheduler
from jobs.places.wanted import Wanted, broken_off
from jobs.status import Facts, JobFacts, PlaceFacts, Status, judge
from storage.drill_reports import DrillRecord
from storage.leases import CLOCKS_APART
from storage.repository import Catalogue

INCREMENTAL, ARCHIVE, DRILL = "hourly-incremental", "weekly-archive", "monthly-drill"

JOB_KINDS = {"daily-full": "full", INCREMENTAL: "incremental", ARCHIVE: "archive"}


@dataclass(slots=True)
class LastRuns:
    """How the runs of one job in this process ended."""

    success: datetime | None = None
    failure: datetime | None = None
    outcome: Outcome | None = None


@dataclass(slots=True)
class DaemonKnowledge:
    """Everything that is answered over HTTP, from memory. Written by one loop, so no locks.

    `catalogues` has each place's newest known listing, kept while the place does not answer; `wanted` is what each
    place's policy made of them.
    """

    scheduler: Scheduler
    rpo: timedelta | None
    rto: timedelta | None
    first_start: datetime = field(default_factory=lambda: datetime.now(UTC))
    database_error: str | None = "was not asked yet"
    places: dict[str, PlaceFacts] = field(default_factory=dict)
    catalogues: dict[str, Catalogue] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)
    uncovered_tables: int = 0
    slot_lag_bytes: int | None = None
    drill: DrillRecord | None = None
    runs: dict[str, LastRuns] = field(default_factory=dict)
    held_up: set[str] = field(default_factory=set)
    """Jobs that could not run because another process was running one."""

    def liveness(self) -> tuple[str, ...]:
        """Why the loop or the scheduler is not alive."""
        return () if self.scheduler.alive() else ("the scheduler has not moved for half a minute",)

    def readiness(self) -> tuple[str, ...]:
        """What did not answer lately."""
        reasons = [f"database: {self.database_error}"] if self.database_error else []
        reasons += [
            f"{place}: {facts.error or 'was not asked yet'}"
            for place, facts in self.places.items()
            if not facts.reachable
        ]
        return tuple(reasons)

    def status(self) -> Status:
        """Whether the data is safe, judged now."""
        return judge(self._facts(datetime.now(UTC)))

    def newest(self, kind: str | None = None) -> datetime | None:
        """The moment of the newest backup (of a kind) that did not fail its verification, nor goes on from one that
        did, in any place, and is not dated in the future.
        """
        lost = broken_off(self.catalogues)
        moments = (
            entry.created_at
            for catalogue in self.catalogues.values()
            for entry in catalogue.entries
            if entry.verified != "failed"
            and entry.id not in lost
            and kind in {None, entry.kind}
            and _can_be(entry.created_at)
        )
        return max(moments, default=None)

    @property
    def may_capture(self) -> bool:
        """Whether changes may be captured: there are incremental backups, or a job of this process has looked."""
        return self.newest("incremental") is not None or bool(self.runs)

    def last_run(self, job: str) -> datetime | None:
        """From when on a job's schedule counts: its newest backup; for drills the newest report or the first start."""
        if job == DRILL:
            return self.drill.at if self.drill and _can_be(self.drill.at) else self.first_start
        return self._last_archiving() if job == ARCHIVE else self.newest(JOB_KINDS[job])

    def _last_archiving(self) -> datetime | None:
        """When the newest archive was taken: its moment is that of an older backup, which may be before the schedule's.

        A place to which it was copied later tells of that, so the first to have had it counts.
        """
        taken: dict[str, datetime] = {}
        for catalogue in self.catalogues.values():
            for entry in catalogue.entries:
                if entry.kind == "archive" and entry.verified != "failed" and entry.written_at is not None:
                    taken[entry.id] = min(entry.written_at, taken.get(entry.id, entry.written_at))
        return max(filter(_can_be, taken.values()), default=None)

    def backlog(self) -> list[str]:
        """Ids of backups that the first place has, undamaged, and another wants and lacks, as far as is known; oldest
        first.
        """
        places = list(self.places)
        if not places or places[0] not in self.catalogues:
            return []
        here = {entry.id for entry in self.catalogues[places[0]].entries if entry.verified != "failed"}
        missing: set[str] = set()
        for place in places[1:]:
            known = self.catalogues.get(place)
            lacking = here - ({entry.id for entry in known.entries} if known else set())
            missing |= {one for one in lacking if self.wanted.by(place, one)}
        return sorted(missing)

    def ended(self, job: str, outcome: Outcome, *, achieved: bool = True) -> None:
        """A run of a job ended now; without having `achieved` anything it is no success, whatever else it is."""
        runs = self.runs.setdefault(job, LastRuns())
        runs.outcome = outcome
        if achieved and outcome in {"success", "warning"}:
            runs.success = datetime.now(UTC)
        elif outcome == "failed":
            runs.failure = datetime.now(UTC)

    def _facts(self, now: datetime) -> Facts:
        return Facts(
            now=now,
            first_start=self.first_start,
            recovery_point=self.newest(),
            jobs=self._jobs(now),
            places=self.places,
            offsite_backlog=len(self.backlog()),
            uncovered_tables=self.uncovered_tables,
            slot_lag_bytes=self.slot_lag_bytes,
            rpo=self.rpo,
            rto=self.rto,
        )

    def _jobs(self, now: datetime) -> Mapping[str, JobFacts]:
        return {job: self._job(job, now) for job in self.scheduler.registered}

    def _job(self, job: str, now: datetime) -> JobFacts:
        runs = self.runs.get(job, LastRuns())
        newest = self.newest(JOB_KINDS[job]) if job in JOB_KINDS else None
        drill = self.drill if job == DRILL else None
        drilled = drill.at if drill and drill.state == "success" else None
        drilled_badly = drill.at if drill and drill.state == "failed" else None
        return JobFacts(
            last_success=_latest(newest, drilled, runs.success),
            last_failure=_latest(drilled_badly, runs.failure),
            last_outcome=runs.outcome,
            running_since=self.scheduler.running.get(job),
            next_run=self.scheduler.next_run(job),
            longest_gap=self.scheduler.longest_gap(job, now),
            makes_recovery_points=job in JOB_KINDS and job != ARCHIVE,
        )


def _can_be(moment: datetime) -> bool:
    """Whether something can have been then, as clocks may differ."""
    return moment <= datetime.now(UTC) + CLOCKS_APART


def _latest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment), default=None)
