"""The long-running process: starts jobs when they are due, looks around between them, answers over HTTP."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TypeVar

import structlog

from daemon.app import App, Request
from daemon.endpoints import make_endpoints, serving
from daemon.knowledge import ARCHIVE, DRILL, INCREMENTAL, DaemonKnowledge
from daemon.metrics import Metrics
from daemon.outcomes import FAILED, Outcome, outcome_of
from daemon.rounds import Rounds
from daemon.runner import job_in_places, job_run
from daemon.scheduler import Scheduler
from jobs.postgres.errors import CannotCapture, Contended, Held
from jobs.postgres.lock import Among
from jobs.progress import Progress
from jobs.remember import Account, account_of_backup, account_of_drill
from jobs.results import BackupResult, DrillResult

FULL = "daily-full"
_CANCEL_MARGIN = 3.0  # seconds of the grace that are left for a job to clean up once it is cancelled

R = TypeVar("R")
_log = structlog.get_logger()


class Service:
    """The daemon. `request` is what `rowvault run` was told of the backups it takes."""

    def __init__(self, app: App, request: Request) -> None:
        settings = app.settings
        self._app = app
        self._request = request
        self.scheduler = Scheduler(
            settings.schedules,
            {FULL: self._full, INCREMENTAL: self._incremental, ARCHIVE: self._archive, DRILL: self._drill},
            settings.zone,
        )
        self.knowledge = DaemonKnowledge(self.scheduler, settings.objectives.rpo, settings.objectives.rto)
        places = [repository.place for repository in app.repositories]
        self.metrics = Metrics(version("rowvault"), self.scheduler.registered, places, self.knowledge.status)
        # Jobs of this process that fall due together wait for each other; those of others are refused.
        self._turns: dict[Among, asyncio.Lock] = {"jobs": asyncio.Lock(), "drills": asyncio.Lock()}
        self._recorder = app.recorder("daemon", _log.warning)
        self._rounds = Rounds(app, self.knowledge, self.metrics, self.scheduler)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; then running jobs have the grace to end. Raises `EndpointsError`."""
        http = self._app.settings.http
        endpoints = make_endpoints(self.knowledge, self.metrics)
        grace = float(self._app.settings.stop_grace_seconds)
        async with serving(endpoints, http.host, http.port) as port:
            _log.info("serving health and metrics", host=http.host, port=port)
            with ExitStack() as stopped_in_time:
                async with asyncio.TaskGroup() as tasks:
                    with self.scheduler.started(tasks):
                        rounds = tasks.create_task(self._rounds.go())
                        await stop.wait()
                    # The orchestrator kills us soon after. What a job then leaves is swept by the next run.
                    last_resort = asyncio.get_running_loop().call_later(grace, os._exit, FAILED)
                    stopped_in_time.callback(last_resort.cancel)
                    rounds.cancel()
                    await self._wind_down(grace)
        _log.info("stopped")

    async def _wind_down(self, grace: float) -> None:
        """Let running jobs finish if they can in time; else cancel them and let them clean up."""
        _log.info("stopping", running=sorted(self.scheduler.running), grace_seconds=grace)
        await self.scheduler.wait(max(0.0, grace - _CANCEL_MARGIN))
        self.scheduler.cancel()

    async def _full(self) -> None:
        work = self._alone(FULL, "backup", "jobs", self._take_full)
        recorded = self._recorder.carry_out("backup", work, _if_any(account_of_backup), {"job": FULL})
        await self._run(FULL, "backup", recorded, self._tell_of_backup)

    async def _take_full(self) -> BackupResult:
        """A full backup; where incremental ones are to follow, one that they can continue."""
        chaining = None
        if INCREMENTAL in self.scheduler.registered:
            try:
                chaining = await self._app.begin_capture()
            except (CannotCapture, Contended) as error:
                _log.info("no incremental backup will continue this one", exc_info=error)
        if chaining is not None and chaining.obstacle:
            _log.info("incremental backups will find what changes by comparing", reason=chaining.obstacle)
        return await self._app.full_backup(self._request, _log_progress, chaining)

    async def _incremental(self) -> None:
        work = self._alone(INCREMENTAL, "incremental backup", "jobs", self._take_incremental)
        recorded = self._recorder.carry_out("backup", work, _if_any(account_of_backup), {"job": INCREMENTAL})
        await self._run(INCREMENTAL, "incremental backup", recorded, self._tell_of_backup)

    async def _take_incremental(self) -> BackupResult | None:
        """An incremental backup, where the database allows it; else the job is no longer scheduled."""
        try:
            return await self._app.incremental_backup(self._request, _log_progress)
        except CannotCapture as error:
            self.scheduler.unschedule(INCREMENTAL)
            _log.warning("incremental backups are off until the next start", exc_info=error)
            return None

    async def _archive(self) -> None:
        recorded = self._recorder.carry_out(
            "backup", self._take_archive(), _if_any(account_of_backup), {"job": ARCHIVE}
        )
        await self._run(ARCHIVE, "archive", recorded, self._tell_of_backup)

    async def _take_archive(self) -> BackupResult | None:
        """A long-term copy of the newest state, unless it was taken already; the source may be away."""
        app = self._app
        locked = job_in_places(app.source_if_any, app.impatient_places, ARCHIVE, app.time_limit)
        async with self._turns["jobs"], locked:
            await self._rounds.refresh()
            if not self._is_due(ARCHIVE, "archive"):
                return None
            _log.info("archive begins")
            result = await app.archive(self._request, _log_progress, only_newer=True)
            if result is None:
                _log.info("there is an archive of the newest state already")
            return result

    async def _drill(self) -> None:
        work = self._alone(DRILL, "drill", "drills", lambda: self._app.drill(_log_progress))
        recorded = self._recorder.carry_out("drill", work, _if_any(account_of_drill), {"job": DRILL})
        await self._run(DRILL, "drill", recorded, self._tell_of_drill)

    async def _run(
        self, job: str, word: str, work: Coroutine[None, None, R | None], tell: Callable[[R], Outcome]
    ) -> None:
        """One scheduled run, from lock to metrics. Raises nothing but cancellation."""
        with structlog.contextvars.bound_contextvars(job=job):
            began, told, result = time.monotonic(), job in self.knowledge.held_up, None
            self.knowledge.held_up.discard(job)
            try:
                result = await work
                if result is None:
                    return
            except Held as error:
                self.knowledge.held_up.add(job)
                if told:
                    return
                outcome = outcome_of(error)
                _log.warning(f"{word} has to wait for another process", exc_info=error)
            except Exception as error:  # noqa: BLE001 - a failed run is told of, and the daemon goes on
                outcome = outcome_of(error)
                _say_failed(word, outcome, error)
                if job == DRILL:
                    self.metrics.drills.show((), success=False)
            else:
                outcome = tell(result)
            self.metrics.observe_run(job, outcome, time.monotonic() - began)
            self.knowledge.ended(job, outcome, achieved=result is not None)
            self._rounds.tidy_soon()
            await self._rounds.refresh()

    async def _alone(self, job: str, word: str, among: Among, work: Callable[[], Awaitable[R | None]]) -> R | None:
        """The work under its lock, unless another replica has just done it."""
        async with self._turns[among], job_run(self._app.source, job, self._app.time_limit, among):
            await self._rounds.refresh()
            if not self._is_due(job, word):
                return None
            _log.info(f"{word} begins")
            return await work()

    def _is_due(self, job: str, word: str) -> bool:
        """Whether no other replica has just done it."""
        due = self.scheduler.missed(job, self.knowledge.last_run(job), datetime.now(UTC))
        if not due:
            _log.info(f"another replica has taken this {word} already")
        return due

    def _tell_of_backup(self, result: BackupResult) -> Outcome:
        self.metrics.observe_backup(result)
        _log_result(result)
        return result.state

    def _tell_of_drill(self, result: DrillResult) -> Outcome:
        self.metrics.drills.show(
            ((one.name, one.seconds, one.objective_seconds) for one in result.scenarios), success=not result.failures
        )
        _log_drill(result)
        return result.state


def _say_failed(word: str, outcome: Outcome, error: Exception) -> None:
    if outcome == "warning":
        _log.warning(f"{word} could not be done", exc_info=error)
    else:
        _log.error(f"{word} {outcome}", exc_info=error)


def _if_any(account_of: Callable[[R], Account]) -> Callable[[R | None], Account | None]:
    return lambda result: None if result is None else account_of(result)


def _log_progress(progress: Progress) -> None:
    if progress.phase.startswith("beginning again"):
        _log.warning(progress.phase)
    else:
        _log.debug(
            progress.phase, backup=progress.backup, table=progress.table, part=progress.part,
            done=progress.done, total=progress.total,
        )  # fmt: skip


def _log_result(result: BackupResult) -> None:
    say = {"success": _log.info, "warning": _log.warning, "failed": _log.error}[result.state]
    say(
        "backup committed" if result.state != "failed" else "backup failed its verification",
        backup=result.id,
        state=result.state,
        places={place.name: place.error or place.state for place in result.places},
        tables=len(result.tables),
        rows=sum(table.rows for table in result.tables),
        bytes_stored=sum(table.bytes_stored for table in result.tables),
        duration_seconds=round(result.duration_seconds, 3),
        verify_seconds=round(result.verify_seconds, 3),
    )
    for warning in result.warnings:
        _log.warning(warning, backup=result.id)


def _log_drill(result: DrillResult) -> None:
    say = {"success": _log.info, "warning": _log.warning, "failed": _log.error}[result.state]
    say(
        "drill failed" if result.failures else "drill passed",
        backup=result.id,
        server=result.server,
        failures=[f"{check.name}: {check.message}" for check in result.failures],
        not_proved=list(result.not_proved),
        seconds={one.name: round(one.seconds, 3) for one in result.scenarios},
        duration_seconds=round(result.duration_seconds, 3),
    )
    for place in result.places:
        if place.error:
            _log.warning("the report of the drill was not stored", place=place.name, error=place.error)
