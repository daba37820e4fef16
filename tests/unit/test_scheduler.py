"""The scheduler: which jobs run when, what was missed, and signs of life."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from daemon import scheduler as scheduler_module
from daemon.cron import CronLine, parse_cron
from daemon.scheduler import CronTrigger, Run, Scheduler, missed

DAILY = parse_cron("0 2 * * *")
# Fires at some moment that no test lives to see.
RARELY = parse_cron("0 0 29 2 *")
BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Recorder:
    """A job that says it began, and runs until it is let go."""

    def __init__(self) -> None:
        self.runs = 0
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cancelled = False

    async def __call__(self) -> None:
        self.runs += 1
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def make(jobs: Mapping[str, Run], **schedules: CronLine | None) -> Scheduler:
    return Scheduler({name.replace("_", "-"): line for name, line in schedules.items()}, jobs, UTC)


@asynccontextmanager
async def started(scheduler: Scheduler, *catch_up: str) -> AsyncIterator[None]:
    """A scheduler at work; at the end of the block its runs are cancelled."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        with scheduler.started(tasks, catch_up):
            yield
        scheduler.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for gives no event; `started` sets the deadline
        await asyncio.sleep(0.01)


async def test_a_job_waits_for_its_line() -> None:
    job = Recorder()
    scheduler = make({"daily-full": job}, daily_full=RARELY)
    async with started(scheduler):
        assert scheduler.next_run("daily-full") == RARELY.next_after(datetime.now(UTC), UTC)
        assert scheduler.running == {}
    assert job.runs == 0


async def test_a_missed_job_runs_at_once_and_then_by_its_line() -> None:
    job = Recorder()
    scheduler = make({"daily-full": job}, daily_full=RARELY)
    before = datetime.now(UTC)
    async with started(scheduler, "daily-full"):
        await job.began.wait()
        assert before <= scheduler.running["daily-full"] <= datetime.now(UTC)
        assert scheduler.next_run("daily-full") == RARELY.next_after(before, UTC)
        job.may_end.set()
        await until(lambda: not scheduler.running)
    assert job.runs == 1


async def test_a_run_due_while_the_job_still_runs_is_left_out_and_said() -> None:
    job = Recorder()
    scheduler = make({"daily-full": job}, daily_full=RARELY)
    with capture_logs() as logs:
        async with started(scheduler, "daily-full"):
            await job.began.wait()
            scheduler._timer.get_job("daily-full").modify(next_run_time=datetime.now(UTC))
            await until(lambda: any(line["log_level"] == "warning" for line in logs))
    assert job.runs == 1
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "job is still running; this run is left out"
    ]


async def test_jobs_that_are_not_built_or_disabled_are_left_out_and_said() -> None:
    scheduler = make(
        {"daily-full": Recorder(), "weekly-archive": Recorder()},
        daily_full=RARELY,
        hourly_incremental=RARELY,
        weekly_archive=None,
    )
    with capture_logs() as logs:
        async with started(scheduler):
            assert scheduler.next_run("hourly-incremental") is None
            assert scheduler.next_run("weekly-archive") is None
    assert scheduler.registered == ("daily-full",)
    assert {line["job"]: line["event"] for line in logs} == {
        "daily-full": "job is scheduled",
        "hourly-incremental": "job is not built yet and not scheduled",
        "weekly-archive": "job is disabled and not scheduled",
    }


async def test_stopping_starts_nothing_more_and_kills_nothing() -> None:
    job = Recorder()
    scheduler = make({"daily-full": job}, daily_full=RARELY)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        with scheduler.started(tasks, ["daily-full"]):
            await job.began.wait()
        assert "daily-full" in scheduler.running
        job.may_end.set()
    assert not job.cancelled
    assert scheduler.running == {}


async def test_cancel_ends_the_running_jobs() -> None:
    job = Recorder()
    async with started(make({"daily-full": job}, daily_full=RARELY), "daily-full"):
        await job.began.wait()
    assert job.cancelled


async def test_a_job_that_raises_ends_the_task_group() -> None:
    async def faulty() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        async with started(make({"daily-full": faulty}, daily_full=RARELY), "daily-full"):
            await asyncio.Event().wait()
    assert caught.group_contains(RuntimeError, match="a bug")


async def test_the_pulse_tells_that_loop_and_timer_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "_PULSE_SECONDS", 0.05)
    scheduler = make({})
    async with started(scheduler):
        first = scheduler._last_pulse
        await until(lambda: scheduler._last_pulse > first)
        assert scheduler.alive()
        scheduler._last_pulse -= 1
        assert not scheduler.alive()


def test_the_trigger_fires_as_the_line_says_over_clock_changes() -> None:
    trigger = CronTrigger(parse_cron("30 2 * * *"), BERLIN)
    first = trigger.get_next_fire_time(None, utc("2025-10-25T12:00"))
    assert first == utc("2025-10-26T00:30")
    assert trigger.get_next_fire_time(first, utc("2025-10-26T01:00")) == utc("2025-10-27T01:30")


def test_the_trigger_fires_now_if_the_line_says_now() -> None:
    now = utc("2025-06-10T02:00")
    assert CronTrigger(DAILY, UTC).get_next_fire_time(None, now) == now


def test_nothing_was_missed_after_a_success_since_the_last_fire() -> None:
    assert not missed(utc("2025-06-10T02:05"), DAILY, UTC, utc("2025-06-11T01:59"))


def test_a_fire_without_a_success_was_missed() -> None:
    assert missed(utc("2025-06-10T02:05"), DAILY, UTC, utc("2025-06-11T02:01"))
    assert missed(utc("2025-06-10T01:55"), DAILY, UTC, utc("2025-06-10T02:01"))


def test_an_empty_repository_is_a_missed_full() -> None:
    assert missed(None, DAILY, UTC, utc("2025-06-10T00:00"))


def test_only_scheduled_jobs_can_be_missed() -> None:
    scheduler = make({"daily-full": Recorder()}, daily_full=None, hourly_incremental=DAILY)
    assert not scheduler.missed("daily-full", None, utc("2025-06-10T00:00"))
    assert not scheduler.missed("hourly-incremental", None, utc("2025-06-10T00:00"))


def test_the_longest_gap_of_a_job_is_its_lines_and_of_others_none() -> None:
    scheduler = make({"daily-full": Recorder()}, daily_full=DAILY)
    assert scheduler.longest_gap("daily-full", utc("2025-06-10T00:00")) == timedelta(days=1)
    assert scheduler.longest_gap("weekly-archive", utc("2025-06-10T00:00")) is None
