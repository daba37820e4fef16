"""What the daemon knows: gathered from catalogues and runs, told as readiness, liveness and status."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from daemon.cron import parse_cron
from daemon.knowledge import ARCHIVE, DRILL, DaemonKnowledge
from daemon.scheduler import Scheduler
from jobs.status import JobFacts, PlaceFacts
from storage.drill_reports import DrillRecord
from storage.repository import Catalogue, Entry

FULL = "daily-full"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


async def _nothing() -> None:
    pass


def entry(age: timedelta, *, verified: str | None = "success", kind: str = "full") -> Entry:
    """A backup that was taken so long ago; its id says so."""
    created_at = NOW - age
    backup_id = f"{created_at:%Y%m%dT%H%M%S}-{kind}"
    return Entry(backup_id, kind, created_at, None, 1, 1, "", kept=False, verified=verified, manifest="")


def catalogue(*entries: Entry) -> Catalogue:
    return Catalogue(entries, ())


def knowing(**catalogues: Catalogue) -> DaemonKnowledge:
    """A daemon with a local place and one off-site, which has read these catalogues."""
    scheduler = Scheduler({FULL: parse_cron("0 2 * * *")}, {FULL: _nothing}, UTC)
    knowledge = DaemonKnowledge(scheduler, rpo=None, rto=None)
    knowledge.places = {"local": PlaceFacts(reachable=True), "s3": PlaceFacts(reachable=True)}
    knowledge.catalogues = dict(catalogues)
    knowledge.database_error = None
    return knowledge


def job(knowledge: DaemonKnowledge) -> JobFacts:
    return knowledge.status().facts.jobs[FULL]


def test_the_newest_backup_of_any_place_is_the_recovery_point() -> None:
    old, new = entry(5 * HOUR), entry(HOUR)
    knowledge = knowing(local=catalogue(old), s3=catalogue(new, old))
    assert knowledge.newest() == new.created_at
    assert knowledge.status().facts.recovery_point == new.created_at


def test_a_backup_that_failed_its_verification_is_no_recovery_point() -> None:
    old, damaged = entry(5 * HOUR), entry(HOUR, verified="failed")
    assert knowing(local=catalogue(damaged, old)).newest() == old.created_at


def test_what_goes_on_from_one_that_failed_everywhere_is_no_recovery_point() -> None:
    first, damaged, last = [
        replace(entry(age * HOUR, kind="incremental"), base="base", verified=verified)
        for age, verified in ((3, "success"), (2, "failed"), (1, "success"))
    ]
    assert knowing(local=catalogue(last, damaged, first)).newest() == first.created_at
    whole = replace(damaged, verified=None)
    assert knowing(local=catalogue(last, damaged, first), s3=catalogue(whole)).newest() == last.created_at


def test_what_a_clock_dated_years_ahead_stands_for_no_backup_to_come() -> None:
    old, ahead = entry(30 * HOUR), entry(-4 * 365 * 24 * HOUR)
    knowledge = knowing(local=catalogue(ahead, old))
    knowledge.first_start = old.created_at
    assert knowledge.newest() == old.created_at
    assert knowledge.scheduler.missed(FULL, knowledge.last_run(FULL), NOW)
    assert not knowledge.status().healthy
    knowledge.drill = DrillRecord(ahead.created_at, ahead.id, "success")
    assert knowledge.last_run(DRILL) == old.created_at


def test_an_archive_counts_from_when_it_was_taken_though_its_moment_is_before_the_schedule_s() -> None:
    made = replace(entry(26 * HOUR, kind="archive"), written_at=NOW - 25 * HOUR)
    copied = replace(made, written_at=NOW)
    knowledge = knowing(local=catalogue(made), s3=catalogue(copied))
    assert knowledge.last_run(ARCHIVE) == NOW - 25 * HOUR


def test_a_backup_that_is_damaged_in_one_place_only_is_one() -> None:
    damaged, whole = entry(HOUR, verified="failed"), entry(HOUR)
    assert knowing(local=catalogue(damaged), s3=catalogue(whole)).newest() == whole.created_at


def test_the_newest_of_a_kind_passes_over_the_others() -> None:
    full, incremental = entry(5 * HOUR), entry(HOUR, kind="incremental")
    knowledge = knowing(local=catalogue(incremental, full))
    assert knowledge.newest("full") == full.created_at
    assert knowledge.newest() == incremental.created_at


def test_nothing_known_is_no_recovery_point_and_age_counts_from_the_first_start() -> None:
    knowledge = knowing()
    knowledge.first_start = NOW - 30 * HOUR
    assert knowledge.newest() is None
    assert not knowledge.status().healthy
    assert knowledge.status().recovery_point_age_seconds >= 30 * 3600


def test_the_backlog_is_what_the_first_place_has_and_another_lacks_oldest_first() -> None:
    first, second, third = entry(3 * HOUR), entry(2 * HOUR), entry(HOUR)
    knowledge = knowing(local=catalogue(third, second, first), s3=catalogue(second))
    assert knowledge.backlog() == [first.id, third.id]
    assert knowledge.status().facts.offsite_backlog == 2


def test_all_is_backlog_for_a_place_that_never_answered() -> None:
    only = entry(HOUR)
    assert knowing(local=catalogue(only)).backlog() == [only.id]


def test_what_only_the_off_site_place_has_is_no_backlog() -> None:
    assert knowing(local=catalogue(), s3=catalogue(entry(HOUR))).backlog() == []


def test_a_damaged_backup_is_not_waiting_to_be_copied() -> None:
    damaged, whole = entry(2 * HOUR, verified="failed"), entry(HOUR, verified=None)
    assert knowing(local=catalogue(whole, damaged), s3=catalogue()).backlog() == [whole.id]


def test_readiness_names_everything_that_does_not_answer_and_why() -> None:
    knowledge = knowing()
    assert knowledge.readiness() == ()
    knowledge.database_error = "refused"
    knowledge.places["s3"] = PlaceFacts(reachable=False, error="no route")
    assert knowledge.readiness() == ("database: refused", "s3: no route")


def test_before_anything_was_asked_it_is_not_ready() -> None:
    knowledge = DaemonKnowledge(knowing().scheduler, rpo=None, rto=None)
    knowledge.places = {"local": PlaceFacts()}
    assert knowledge.readiness() == ("database: was not asked yet", "local: was not asked yet")


def test_it_lives_while_the_scheduler_moves() -> None:
    assert knowing().liveness() == ()


def test_after_a_restart_the_catalogue_says_when_a_job_last_succeeded() -> None:
    backup = entry(HOUR)
    assert job(knowing(local=catalogue(backup))) == JobFacts(
        last_success=backup.created_at, longest_gap=timedelta(days=1)
    )


def test_a_run_that_ended_well_or_with_a_warning_is_a_success() -> None:
    knowledge = knowing(local=catalogue(entry(HOUR)))
    knowledge.ended(FULL, "warning")
    told = job(knowledge)
    assert told.last_outcome == "warning"
    assert told.last_success
    assert told.last_success >= NOW
    assert told.last_failure is None


def test_a_run_that_failed_leaves_the_last_success_as_it_was() -> None:
    backup = entry(HOUR)
    knowledge = knowing(local=catalogue(backup))
    knowledge.ended(FULL, "failed")
    told = job(knowledge)
    assert (told.last_outcome, told.last_success) == ("failed", backup.created_at)
    assert told.last_failure
    assert told.last_failure >= NOW


def test_a_run_that_was_refused_is_neither() -> None:
    knowledge = knowing()
    knowledge.ended(FULL, "refused")
    told = job(knowledge)
    assert (told.last_outcome, told.last_success, told.last_failure) == ("refused", None, None)
