"""The long-running process: starts jobs when they are due, looks around between them, answers over HTTP."""

import asyncio
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version

import structlog

from daemon.app import App, Request
from daemon.endpoints import make_endpoints, serving
from daemon.knowledge import DaemonKnowledge
from daemon.metrics import Metrics
from daemon.outcomes import FAILED, outcome_of
from daemon.rounds import Rounds
from daemon.runner import job_run
from daemon.scheduler import Scheduler
from jobs.postgres.errors import Held
from jobs.progress import Progress
from jobs.remember import Account, account_of_backup
from jobs.results import BackupResult

FULL = "daily-full"
_CANCEL_MARGIN = 3.0  # seconds of the grace that are left for a job to clean up once it is cancelled

_log = structlog.get_logger()


class Service:
    """The daemon. `request` is what `rowvault run` was told of the backups it takes."""

    def __init__(self, app: App, request: Request) -> None:
        settings = app.settings
        self._app = app
        self._request = request
        self.scheduler = Scheduler(settings.schedules, {FULL: self._full}, settings.zone)
        self.knowledge = DaemonKnowledge(self.scheduler, settings.objectives.rpo, settings.objectives.rto)
        places = [repository.place for repository in app.repositories]
        self.metrics = Metrics(version("rowvault"), self.scheduler.registered, places, self.knowledge.status)
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
        """One scheduled full backup, from lock to metrics. Raises nothing but cancellation."""
        with structlog.contextvars.bound_contextvars(job=FULL):
            began, told = time.monotonic(), FULL in self.knowledge.held_up
            self.knowledge.held_up.discard(FULL)
            try:
                result = await self._recorder.carry_out("backup", self._take(), _account, {"job": FULL})
                if result is None:
                    return
            except Held as error:
                self.knowledge.held_up.add(FULL)
                if told:
                    return
                outcome = outcome_of(error)
                _log.warning("backup has to wait for another process", exc_info=error)
            except Exception as error:  # noqa: BLE001 - a failed run is told of, and the daemon goes on
                outcome = outcome_of(error)
                _log.error("backup failed" if outcome == "failed" else "backup refused", exc_info=error)
            else:
                outcome = result.state
                self.metrics.observe_backup(result)
                _log_result(result)
            self.metrics.observe_run(FULL, outcome, time.monotonic() - began)
            self.knowledge.ended(FULL, outcome)
            await self._rounds.refresh()

    async def _take(self) -> BackupResult | None:
        """The backup, unless another replica has just taken it."""
        async with job_run(self._app.source, FULL, self._app.time_limit):
            await self._rounds.refresh()
            if not self.scheduler.missed(FULL, self.knowledge.newest("full"), datetime.now(UTC)):
                _log.info("another replica has taken this backup already")
                return None
            _log.info("backup begins")
            return await self._app.full_backup(self._request, _log_progress)


def _account(result: BackupResult | None) -> Account | None:
    return account_of_backup(result) if result else None


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
