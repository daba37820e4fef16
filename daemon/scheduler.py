"""When jobs run: crontab lines on APScheduler, one missed run caught up, and a pulse for `/livez`.

APScheduler only says when. The runs themselves are tasks in the application's own task group, so an exception
or a cancellation goes where structured concurrency sends it; APScheduler's executor would swallow both.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from types import MappingProxyType

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from daemon.cron import CronLine

Run = Callable[[], Coroutine[None, None, None]]

_PULSE_SECONDS = 5
_log = structlog.get_logger()


class CronTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler publishes no types
    """Tells APScheduler when a crontab line fires; its own reads weekdays and clock changes otherwise."""

    def __init__(self, line: CronLine, zone: tzinfo) -> None:
        self._line = line
        self._zone = zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The first fire after the previous one; before there was any, from `now` on."""
        return self._line.next_after(previous_fire_time or now - timedelta(microseconds=1), self._zone)


def missed(last_success: datetime | None, line: CronLine, zone: tzinfo, now: datetime) -> bool:
    """Whether the line has fired since the last success without another one; never any is missed too."""
    return last_success is None or line.next_after(last_success, zone) <= now


class Scheduler:
    """Starts each job when its line fires, never twice at the same time.

    `schedules` has every job by id, None for one that is disabled; `jobs` has the ones that are built. A job
    that raises ends the task group it runs in: its function must turn what may fail in a run into a result.
    """

    def __init__(self, schedules: Mapping[str, CronLine | None], jobs: Mapping[str, Run], zone: tzinfo) -> None:
        self._schedules = schedules
        self._jobs = jobs
        self._zone = zone
        self._lines = {job: line for job, line in schedules.items() if line is not None and job in jobs}
        self._timer = AsyncIOScheduler(timezone=UTC)
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[str, tuple[datetime, asyncio.Task[None]]] = {}
        self._last_pulse = time.monotonic()
        self._gaps: dict[str, tuple[datetime, timedelta]] = {}

    @property
    def registered(self) -> tuple[str, ...]:
        """The ids of the jobs that are scheduled: built, and not disabled."""
        return tuple(self._lines)

    @property
    def running(self) -> Mapping[str, datetime]:
        """The jobs that are running now, and since when (UTC)."""
        return MappingProxyType({job: since for job, (since, _) in self._running.items()})

    @contextmanager
    def started(self, tasks: asyncio.TaskGroup, catch_up: Collection[str] = ()) -> Iterator[None]:
        """Schedule the jobs, and run those of `catch_up` at once; runs become tasks of `tasks`.

        At the end of the block no further run starts. Runs go on; `cancel` or the task group ends them.
        """
        self._announce()
        self._tasks = tasks
        for job, line in self._lines.items():
            trigger = CronTrigger(line, self._zone)
            at_once = {"next_run_time": datetime.now(UTC)} if job in catch_up else {}
            self._add(job, trigger, partial(self._start, job), **at_once)
        self._add("pulse", "interval", self._beat, seconds=_PULSE_SECONDS)
        self._timer.start()
        try:
            yield
        finally:
            self._tasks = None
            self._timer.shutdown(wait=False)

    def run_now(self, job: str) -> None:
        """Run a scheduled job at once, beside its schedule; does nothing while it runs already."""
        if job in self._lines and job not in self._running:
            self._begin(job)

    def unschedule(self, job: str) -> None:
        """Run a job no more; a run that is going on goes on."""
        if self._lines.pop(job, None) is not None:
            self._timer.remove_job(job)

    async def wait(self, seconds: float) -> None:
        """Wait until no job runs, but no longer than so many seconds."""
        if self._running:
            await asyncio.wait([task for _, task in self._running.values()], timeout=seconds)

    def cancel(self) -> None:
        """Ask every running job to end."""
        for _, task in self._running.values():
            task.cancel()

    def alive(self) -> bool:
        """Whether the loop and the timer have worked within the last half minute."""
        return time.monotonic() - self._last_pulse < 6 * _PULSE_SECONDS

    def next_run(self, job: str) -> datetime | None:
        """When the job runs next (UTC); None if it is not scheduled."""
        entry = self._timer.get_job(job)
        moment: datetime | None = getattr(entry, "next_run_time", None)
        return moment.astimezone(UTC) if moment else None

    def missed(self, job: str, last_success: datetime | None, now: datetime) -> bool:
        """Whether a scheduled job's run was missed, judged from its last success."""
        return job in self._lines and missed(last_success, self._lines[job], self._zone, now)

    def longest_gap(self, job: str, now: datetime) -> timedelta | None:
        """The longest time between two of the job's runs in the next 40 days, worked out anew each day."""
        if job not in self._lines:
            return None
        worked_out, gap = self._gaps.get(job, (None, timedelta()))
        if worked_out is None or abs(now - worked_out) > timedelta(days=1):
            gap = self._lines[job].longest_gap(now, self._zone)
            self._gaps[job] = now, gap
        return gap

    def _announce(self) -> None:
        for job, line in self._schedules.items():
            if job not in self._jobs:
                _log.info("job is not built yet and not scheduled", job=job)
            elif line is None:
                _log.info("job is disabled and not scheduled", job=job)
            else:
                next_run = line.next_after(datetime.now(UTC), self._zone)
                _log.info("job is scheduled", job=job, next_run=next_run.isoformat())

    def _add(self, job: str, trigger: object, start: Run, **options: object) -> None:
        self._timer.add_job(start, trigger, id=job, max_instances=1, coalesce=True, misfire_grace_time=None, **options)

    async def _start(self, job: str) -> None:
        if job in self._running:
            _log.warning("job is still running; this run is left out", job=job)
            return
        self._begin(job)

    def _begin(self, job: str) -> None:
        if self._tasks is None:
            return
        task = self._tasks.create_task(self._jobs[job](), name=job)
        self._running[job] = datetime.now(UTC), task
        task.add_done_callback(lambda _: self._running.pop(job))

    async def _beat(self) -> None:
        self._last_pulse = time.monotonic()
