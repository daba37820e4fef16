"""Is the data safe, now? The judgement, and how JSON shows it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.status import Facts, JobFacts, PlaceFacts, Status, as_document, judge

NOW = datetime(2025, 6, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAILY = JobFacts(longest_gap=24 * HOUR)
HOURLY = JobFacts(longest_gap=HOUR)


def status(**facts: Any) -> Status:
    usual = Facts(now=NOW, first_start=NOW - 100 * HOUR, jobs={"daily-full": DAILY})
    return judge(replace(usual, **facts))


def test_a_fresh_recovery_point_is_healthy() -> None:
    judged = status(recovery_point=NOW - 3 * HOUR)
    assert judged.healthy
    assert judged.reasons == ()
    assert judged.recovery_point_age_seconds == 3 * 3600


def test_without_an_objective_set_the_schedule_and_an_hour_make_it() -> None:
    assert status().recovery_point_objective_seconds == 25 * 3600
    assert status(recovery_point=NOW - 25 * HOUR).healthy
    assert not status(recovery_point=NOW - 25 * HOUR - timedelta(seconds=1)).healthy


def test_the_most_frequent_backup_job_makes_the_objective() -> None:
    judged = status(jobs={"daily-full": DAILY, "hourly-incremental": HOURLY})
    assert judged.recovery_point_objective_seconds == 2 * 3600


def test_a_drill_makes_no_recovery_point_however_often_it_runs() -> None:
    drill = JobFacts(longest_gap=HOUR, makes_recovery_points=False)
    assert status(jobs={"daily-full": DAILY, "monthly-drill": drill}).recovery_point_objective_seconds == 25 * 3600


def test_an_objective_that_is_set_stands_above_the_schedule() -> None:
    judged = status(rpo=2 * HOUR, recovery_point=NOW - 3 * HOUR)
    assert judged.recovery_point_objective_seconds == 2 * 3600
    assert judged.reasons == ("the newest recovery point is 3 h 0 min old; the objective allows 2 h 0 min",)


def test_an_empty_repository_is_judged_from_the_first_start() -> None:
    assert status(first_start=NOW - HOUR).healthy
    assert status(first_start=NOW - HOUR).recovery_point_age_seconds == 3600
    assert status(first_start=NOW - 26 * HOUR).reasons == (
        "there is no backup yet, 26 h 0 min after the first start; the objective allows 25 h 0 min",
    )


def test_without_any_backup_job_nothing_is_promised() -> None:
    judged = status(jobs={})
    assert judged.healthy
    assert judged.recovery_point_objective_seconds is None


def test_a_failed_run_alone_misses_no_objective() -> None:
    job = JobFacts(last_failure=NOW, last_outcome="failed", longest_gap=24 * HOUR)
    assert status(jobs={"daily-full": job}, recovery_point=NOW - 2 * HOUR).healthy


def test_an_unreachable_place_and_a_backlog_are_shown_but_miss_no_objective() -> None:
    judged = status(
        recovery_point=NOW, offsite_backlog=3, places={"s3": PlaceFacts(reachable=False, error="timed out")}
    )
    assert judged.healthy
    document = as_document(judged)
    assert document["offsite_backlog"] == 3
    assert document["places"] == {"s3": {"reachable": False, "error": "timed out", "free_bytes": None}}


def test_a_recovery_point_of_a_clock_ahead_has_no_negative_age() -> None:
    assert status(recovery_point=NOW + HOUR).recovery_point_age_seconds == 0


def test_the_document_shows_each_job_with_times_in_utc_or_null() -> None:
    berlin = datetime.fromisoformat("2025-06-10T04:00:00.123+02:00")
    job = JobFacts(last_success=berlin, last_outcome="success", next_run=NOW + HOUR, longest_gap=24 * HOUR)
    document = as_document(status(jobs={"daily-full": job}, recovery_point=berlin))
    assert document == {
        "status": "ok",
        "reasons": [],
        "jobs": {
            "daily-full": {
                "last_success": "2025-06-10T02:00:00Z",
                "last_failure": None,
                "last_outcome": "success",
                "running_since": None,
                "next_run": "2025-06-10T13:00:00Z",
            }
        },
        "recovery_point": {
            "at": "2025-06-10T02:00:00Z",
            "age_seconds": 35999.877,
            "objective_seconds": 90000.0,
        },
        "offsite_backlog": 0,
        "uncovered_tables": 0,
        "places": {},
    }
