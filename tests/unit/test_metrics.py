"""Metrics: what a scrape shows, from the start on."""

import subprocess
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.metrics import SHOWN_TABLES, Metrics
from jobs.results import BackupResult, PlaceOutcome, Problem, TableOutcome, VerifyResult
from jobs.status import Facts, JobFacts, PlaceFacts, judge

NOW = datetime(2025, 6, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROMTOOL = Path("/usr/bin/promtool")

FACTS = Facts(
    now=NOW,
    first_start=NOW - HOUR,
    jobs={"daily-full": JobFacts(next_run=NOW + HOUR, longest_gap=24 * HOUR)},
    places={"local": PlaceFacts(), "s3": PlaceFacts()},
)


class Daemon:
    """Metrics over facts that a test changes."""

    def __init__(self, facts: Facts = FACTS) -> None:
        self.facts = facts
        self.metrics = Metrics("1.2.3", ["daily-full"], ["local", "s3"], lambda: judge(self.facts))

    def scrape(self) -> dict[str, float]:
        """Every sample by name and labels, in alphabetical order."""
        body, _ = self.metrics.render()
        return {
            sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }


def table(name: str, size: int = 100) -> TableOutcome:
    return TableOutcome("public", name, rows=5, bytes_raw=size, bytes_stored=size // 4)


def backup(tables: Iterable[TableOutcome], **other: object) -> BackupResult:
    usual = BackupResult(
        id="b1",
        kind="full",
        state="success",
        created_at=NOW,
        places=(PlaceOutcome("local", "committed"),),
        tables=tuple(tables),
        duration_seconds=10,
        verify_seconds=5,
    )
    return replace(usual, **other)  # type: ignore[arg-type]  # the fields a test names


def test_series_of_registered_jobs_and_places_exist_from_the_start() -> None:
    samples = Daemon().scrape()
    for outcome in ("success", "warning", "failed", "refused"):
        assert samples[f"rowvault_job_runs_total job=daily-full outcome={outcome}"] == 0
    assert samples["rowvault_job_duration_seconds_count job=daily-full"] == 0
    assert samples["rowvault_job_last_success_timestamp_seconds job=daily-full"] == 0
    assert samples["rowvault_job_last_failure_timestamp_seconds job=daily-full"] == 0
    assert samples["rowvault_job_running_seconds job=daily-full"] == 0
    assert samples["rowvault_verification_failures_total place=local"] == 0
    assert samples["rowvault_offsite_backlog_backups"] == 0
    assert samples["rowvault_uncovered_tables"] == 0
    assert samples["rowvault_build_info version=1.2.3"] == 1


def test_runs_are_counted_by_outcome_and_timed() -> None:
    daemon = Daemon()
    daemon.metrics.observe_run("daily-full", "success", 12)
    daemon.metrics.observe_run("daily-full", "refused", 0.1)
    samples = daemon.scrape()
    assert samples["rowvault_job_runs_total job=daily-full outcome=success"] == 1
    assert samples["rowvault_job_runs_total job=daily-full outcome=refused"] == 1
    assert samples["rowvault_job_duration_seconds_count job=daily-full"] == 2
    assert samples["rowvault_job_duration_seconds_sum job=daily-full"] == pytest.approx(12.1)


def test_gauges_follow_the_status_at_each_scrape() -> None:
    daemon = Daemon()
    assert daemon.scrape()["rowvault_recovery_point_age_seconds"] == 3600
    job = JobFacts(last_success=NOW - HOUR, last_failure=NOW, running_since=NOW - HOUR / 2, longest_gap=24 * HOUR)
    daemon.facts = replace(
        FACTS, recovery_point=NOW - 30 * HOUR, jobs={"daily-full": job}, offsite_backlog=2, uncovered_tables=3
    )
    samples = daemon.scrape()
    assert samples["rowvault_recovery_point_age_seconds"] == 30 * 3600
    assert samples["rowvault_healthy"] == 0
    assert samples["rowvault_job_last_success_timestamp_seconds job=daily-full"] == NOW.timestamp() - 3600
    assert samples["rowvault_job_last_failure_timestamp_seconds job=daily-full"] == NOW.timestamp()
    assert samples["rowvault_job_running_seconds job=daily-full"] == 1800
    assert samples["rowvault_offsite_backlog_backups"] == 2
    assert samples["rowvault_uncovered_tables"] == 3


def test_a_next_run_is_shown_only_if_there_is_one() -> None:
    daemon = Daemon()
    name = "rowvault_job_next_run_timestamp_seconds job=daily-full"
    assert daemon.scrape()[name] == NOW.timestamp() + 3600
    daemon.facts = replace(FACTS, jobs={"daily-full": JobFacts()})
    assert name not in daemon.scrape()


def test_objectives_are_shown_as_far_as_there_are_any() -> None:
    daemon = Daemon()
    assert daemon.scrape()["rowvault_objective_seconds objective=rpo"] == 25 * 3600
    assert "rowvault_objective_seconds objective=rto" not in daemon.scrape()
    daemon.facts = replace(FACTS, rto=HOUR)
    assert daemon.scrape()["rowvault_objective_seconds objective=rto"] == 3600


def test_places_show_reach_and_room_once_they_were_asked() -> None:
    daemon = Daemon()
    assert "rowvault_place_reachable place=local" not in daemon.scrape()
    daemon.facts = replace(
        FACTS, places={"local": PlaceFacts(reachable=True, free_bytes=7), "s3": PlaceFacts(reachable=False)}
    )
    samples = daemon.scrape()
    assert samples["rowvault_place_reachable place=local"] == 1
    assert samples["rowvault_place_reachable place=s3"] == 0
    assert samples["rowvault_storage_free_bytes place=local"] == 7
    assert "rowvault_storage_free_bytes place=s3" not in samples


def test_a_backup_shows_its_tables_hostile_names_too() -> None:
    daemon = Daemon()
    daemon.metrics.observe_backup(backup([table('we"ird\\\n😀')]))
    samples = daemon.scrape()
    labels = 'kind=full schema=public table=we"ird\\\n😀'
    assert samples[f"rowvault_table_backup_rows {labels}"] == 5
    assert samples[f"rowvault_table_backup_bytes {labels}"] == 100
    assert samples[f"rowvault_table_backup_stored_bytes {labels}"] == 25
    assert samples[f"rowvault_table_last_success_timestamp_seconds {labels}"] == NOW.timestamp()


def test_a_table_that_is_gone_loses_its_series() -> None:
    daemon = Daemon()
    daemon.metrics.observe_backup(backup([table("a"), table("b")]))
    daemon.metrics.observe_backup(backup([table("b")]))
    rows = [name for name in daemon.scrape() if name.startswith("rowvault_table_backup_rows")]
    assert rows == ["rowvault_table_backup_rows kind=full schema=public table=b"]


def test_a_failed_backup_leaves_the_tables_as_they_were() -> None:
    daemon = Daemon()
    daemon.metrics.observe_backup(backup([table("a")]))
    daemon.metrics.observe_backup(backup([], state="failed"))
    assert "rowvault_table_backup_rows kind=full schema=public table=a" in daemon.scrape()


def test_after_a_restart_tables_are_shown_from_the_catalogue() -> None:
    daemon = Daemon()
    daemon.metrics.show_tables("full", NOW - HOUR, [table("a")])
    name = "rowvault_table_last_success_timestamp_seconds kind=full schema=public table=a"
    assert daemon.scrape()[name] == NOW.timestamp() - 3600


def test_only_the_largest_tables_have_series_and_the_others_are_counted() -> None:
    daemon = Daemon()
    daemon.metrics.observe_backup(backup(table(f"t{n}", size=n) for n in range(SHOWN_TABLES + 3)))
    samples = daemon.scrape()
    assert sum(name.startswith("rowvault_table_backup_rows ") for name in samples) == SHOWN_TABLES
    assert "rowvault_table_backup_rows kind=full schema=public table=t2" not in samples
    assert samples["rowvault_tables_without_series kind=full"] == 3


def test_a_verification_counts_once_for_each_place_with_problems() -> None:
    daemon = Daemon()
    problems = tuple(
        Problem("s3", name, None, kind="missing", expected="there", found="nothing") for name in ("x", "y")
    )
    found = VerifyResult("b1", "failed", problems)
    daemon.metrics.observe_verification(found)
    daemon.metrics.observe_backup(backup([], verification=found))
    samples = daemon.scrape()
    assert samples["rowvault_verification_failures_total place=s3"] == 2
    assert samples["rowvault_verification_failures_total place=local"] == 0


def test_the_process_shows_its_memory_and_open_files() -> None:
    samples = Daemon().scrape()
    assert samples["process_resident_memory_bytes"] > 0
    assert samples["process_open_fds"] > 0


def test_two_daemons_in_one_process_share_nothing() -> None:
    one, other = Daemon(), Daemon()
    one.metrics.observe_run("daily-full", "success", 1)
    assert other.scrape()["rowvault_job_runs_total job=daily-full outcome=success"] == 0


def test_openmetrics_is_spoken_where_it_is_asked_for() -> None:
    body, content_type = Daemon().metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.skipif(not PROMTOOL.exists(), reason="promtool is not installed (Debian package prometheus)")
def test_promtool_finds_nothing_to_lint() -> None:
    daemon = Daemon(replace(FACTS, places={"local": PlaceFacts(reachable=True, free_bytes=1)}, rto=HOUR))
    daemon.metrics.observe_backup(backup([table("a")]))
    body, _ = daemon.metrics.render()
    linted = subprocess.run([PROMTOOL, "check", "metrics"], input=body, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, b"")
