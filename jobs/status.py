"""Is the data safe, now? A pure judgement of what the process knows, shown alike wherever it is shown.

The one objective judged is the recovery point's: how old the newest moment is to which the database could be
brought back. It is counted from the first start on, so an empty repository grows old as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

# What a job may take after it fires before its absence counts.
JOB_ALLOWANCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of one registered job. Times are aware; None: never, or not known, or not scheduled.

    `longest_gap` is the longest time between two of its runs by schedule, `makes_recovery_points` whether a
    run adds one. `last_outcome` is success, warning, failed or refused; a warning is a success, too.
    """

    last_success: datetime | None = None
    last_failure: datetime | None = None
    last_outcome: str | None = None
    running_since: datetime | None = None
    next_run: datetime | None = None
    longest_gap: timedelta | None = None
    makes_recovery_points: bool = True


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """How a place answered lately: None before it was asked, `error` why not, `free_bytes` its room."""

    reachable: bool | None = None
    error: str | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is judged. `first_start` is the repository's creation, or else the process's start.

    `recovery_point` is the newest moment that can be restored; `offsite_backlog` counts backups whose
    off-site copy is still to be made. `slot_lag_bytes`: WAL that the replication slot holds back; None: there is none.
    """

    now: datetime
    first_start: datetime
    recovery_point: datetime | None = None
    jobs: Mapping[str, JobFacts] = field(default_factory=lambda: MappingProxyType({}))
    places: Mapping[str, PlaceFacts] = field(default_factory=lambda: MappingProxyType({}))
    offsite_backlog: int = 0
    uncovered_tables: int = 0
    slot_lag_bytes: int | None = None
    rpo: timedelta | None = None
    rto: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The judgement: `reasons` says why it is not healthy, a line each; beside it, what it rests on.

    `recovery_point_objective_seconds` is None where no job is registered that could keep one.
    """

    healthy: bool
    reasons: tuple[str, ...]
    recovery_point_age_seconds: float
    recovery_point_objective_seconds: float | None
    facts: Facts


def judge(facts: Facts) -> Status:
    """Judge whether the recovery point objective is kept at `facts.now`."""
    age = max(facts.now - (facts.recovery_point or facts.first_start), timedelta())
    objective = facts.rpo or default_objective(facts.jobs)
    reasons = _reasons(facts, age, objective)
    return Status(
        healthy=not reasons,
        reasons=reasons,
        recovery_point_age_seconds=age.total_seconds(),
        recovery_point_objective_seconds=objective.total_seconds() if objective else None,
        facts=facts,
    )


def default_objective(jobs: Mapping[str, JobFacts]) -> timedelta | None:
    """What the most frequent registered backup job promises: its longest gap, and an hour to run."""
    gaps = [job.longest_gap for job in jobs.values() if job.makes_recovery_points and job.longest_gap]
    return min(gaps) + JOB_ALLOWANCE if gaps else None


def as_document(status: Status) -> dict[str, Any]:
    """The status as JSON shows it, on `/healthz` and elsewhere; times are ISO 8601 in UTC, or null."""
    facts = status.facts
    return {
        "status": "ok" if status.healthy else "failing",
        "reasons": list(status.reasons),
        "jobs": {name: _job_document(job) for name, job in facts.jobs.items()},
        "recovery_point": {
            "at": _iso(facts.recovery_point),
            "age_seconds": round(status.recovery_point_age_seconds, 3),
            "objective_seconds": status.recovery_point_objective_seconds,
        },
        "offsite_backlog": facts.offsite_backlog,
        "uncovered_tables": facts.uncovered_tables,
        "places": {name: _place_document(place) for name, place in facts.places.items()},
    }


def _reasons(facts: Facts, age: timedelta, objective: timedelta | None) -> tuple[str, ...]:
    if objective is None or age <= objective:
        return ()
    allowed = f"the objective allows {_hours(objective)}"
    if facts.recovery_point is None:
        return (f"there is no backup yet, {_hours(age)} after the first start; {allowed}",)
    return (f"the newest recovery point is {_hours(age)} old; {allowed}",)


def _job_document(job: JobFacts) -> dict[str, Any]:
    return {
        "last_success": _iso(job.last_success),
        "last_failure": _iso(job.last_failure),
        "last_outcome": job.last_outcome,
        "running_since": _iso(job.running_since),
        "next_run": _iso(job.next_run),
    }


def _place_document(place: PlaceFacts) -> dict[str, Any]:
    return {"reachable": place.reachable, "error": place.error, "free_bytes": place.free_bytes}


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None


def _hours(duration: timedelta) -> str:
    if duration < timedelta(minutes=2):
        return f"{round(duration.total_seconds())} s"
    minutes = round(duration.total_seconds() / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
