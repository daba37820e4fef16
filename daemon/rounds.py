"""What the daemon does between jobs: asks database and places how they are, and acts on what became possible."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from daemon.app import App
from daemon.knowledge import INCREMENTAL, DaemonKnowledge
from daemon.metrics import Metrics
from daemon.recorded import prune, reconcile
from daemon.scheduler import Scheduler
from jobs.incrementals.capture_watch import watch_capture
from jobs.places.catalogue import policies
from jobs.places.standing import Deciding
from jobs.postgres.connection import ping
from jobs.postgres.errors import Held, PostgresError
from jobs.progress import no_progress
from jobs.results import TableOutcome
from jobs.status import PlaceFacts
from jobs.sync import SyncOptions, SyncResult
from storage.drill_reports import newest_record, read_scenarios
from storage.errors import Corrupt, NotFound, StorageError
from storage.names import REPOSITORY
from storage.repository import Repository

REFRESH_SECONDS = 300.0  # listing costs money on some stores; runs of our own refresh by themselves
ANSWER_SECONDS = 20.0
CATALOGUE_SECONDS = 80.0

_log = structlog.get_logger()


class Rounds:
    """Keeps the daemon's knowledge fresh, and acts on what became possible again."""

    def __init__(self, app: App, knowledge: DaemonKnowledge, metrics: Metrics, scheduler: Scheduler) -> None:
        self._app = app
        self._knowledge = knowledge
        self._metrics = metrics
        self._scheduler = scheduler
        self._recorder = app.recorder("daemon", _log.warning)
        self._deciding = Deciding(app.repositories)
        self._refreshed = 0.0
        self._was_ready = False
        self._told: tuple[str, ...] = ()
        self._shown: str | None = None
        self._sync_due = False
        self._synced = 0.0
        self._prune_due = True
        knowledge.places = {repository.place: PlaceFacts() for repository in app.repositories}

    async def go(self) -> None:
        """Go round until cancelled. Copying may take hours, and the asking goes on beside it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self._round))
            tasks.create_task(self._again_and_again(self._tidy))
            tasks.create_task(self._again_and_again(self._watch_capture))

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await work()
            await asyncio.sleep(self._app.settings.check_interval.total_seconds())

    async def _round(self) -> None:
        before = self._answering()
        await asyncio.gather(self._ask_database(), *(self._ask_place(one.place) for one in self._app.repositories))
        if self._answering() - before:
            self.tidy_soon()
        if self._answering() - before or time.monotonic() > self._refreshed + REFRESH_SECONDS:
            await self.refresh()
        self._tell_readiness()

    def _answering(self) -> set[str]:
        return {place for place, facts in self._knowledge.places.items() if facts.reachable}

    def _tell_readiness(self) -> None:
        """Say so when something stopped or began to answer; then catch up on what was missed meanwhile."""
        reasons = self._knowledge.readiness()
        primary = self._app.repositories[0].place
        ready = self._knowledge.database_error is None and primary in self._knowledge.catalogues
        if reasons and reasons != self._told:
            _log.warning("not ready", reasons=list(reasons))
        self._told = reasons
        if ready and not self._was_ready:
            _log.info("database and storage answer")
            self._catch_up(self._scheduler.registered)
        elif ready:
            # Whoever held the lock may have been killed over it.
            self._catch_up(tuple(self._knowledge.held_up))
        self._was_ready = ready

    def _catch_up(self, jobs: tuple[str, ...]) -> None:
        for job in jobs:
            if self._scheduler.missed(job, self._knowledge.last_run(job), datetime.now(UTC)):
                if job not in self._knowledge.held_up:
                    _log.info("a run was missed and is caught up now", job=job)
                self._scheduler.run_now(job)

    async def _ask_database(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await ping(self._app.source)
            self._knowledge.database_error = None
        except (PostgresError, TimeoutError) as error:
            self._knowledge.database_error = str(error) or "did not answer in time"

    async def _watch_capture(self) -> None:
        """Keep slot and publication from harming the application, and read the log before the server throws it away."""
        if self._knowledge.database_error or not self._knowledge.may_capture:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                seen = await watch_capture(self._app.source, self._app.capture_options.lag_limit)
        except (PostgresError, TimeoutError) as error:
            _log.warning("the replication slot could not be looked after", exc_info=error)
            return
        self._knowledge.slot_lag_bytes = seen.lag_bytes
        if seen.dropped:
            _log.error("changes are captured no longer; the next backup begins a new chain", reason=seen.dropped)
        for table in seen.withdrawn:
            _log.warning("a table was taken out of the publication", table=table)
        if seen.urgent:
            self._scheduler.run_now(INCREMENTAL)

    async def _ask_place(self, place: str) -> None:
        backend = self._app.impatient[place]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                free = await backend.free_bytes()
                with suppress(NotFound):  # a new repository: the store answers
                    await backend.stat(REPOSITORY)
            self._knowledge.places[place] = PlaceFacts(reachable=True, free_bytes=free)
        except (StorageError, TimeoutError) as error:
            self._give_up_on(place, error)

    def _give_up_on(self, place: str, error: Exception) -> None:
        self._knowledge.places[place] = PlaceFacts(reachable=False, error=str(error) or "did not answer in time")

    async def refresh(self) -> None:
        """Read the catalogues of the places that answer, and what the newest manifest says of tables."""
        self._refreshed = time.monotonic()
        answering = self._answering()
        usable = [repository for repository in self._app.repositories if repository.place in answering]
        await asyncio.gather(*(self._read_catalogue(repository) for repository in usable))
        await self._decide()
        await self._show_newest(usable)

    async def _decide(self) -> None:
        """What each place should hold, by what is known of all."""
        known, kept, now = self._knowledge.catalogues, policies(self._app.repositories), datetime.now(UTC)
        try:
            async with asyncio.timeout(CATALOGUE_SECONDS):
                self._knowledge.wanted = await self._deciding.wanted(known, kept, now)
        except (StorageError, TimeoutError) as error:
            _log.warning("what chains need could not be read", exc_info=error)

    async def _read_catalogue(self, repository: Repository) -> None:
        try:
            async with asyncio.timeout(CATALOGUE_SECONDS):
                self._knowledge.catalogues[repository.place] = await repository.catalogue()
                identity = await repository.identity()
                await self._read_drill(repository)
        except (StorageError, TimeoutError) as error:
            self._give_up_on(repository.place, error)
            return
        if identity is not None:
            self._knowledge.first_start = min(self._knowledge.first_start, identity.created_at)

    async def _read_drill(self, repository: Repository) -> None:
        """Learn of the newest drill and show what its report says, unless another place told of it already."""
        newest = await newest_record(repository.backend)
        if newest is None or (self._knowledge.drill and newest <= self._knowledge.drill):
            return
        self._knowledge.drill = newest
        try:
            scenarios = await read_scenarios(repository.backend, newest)
        except (Corrupt, NotFound) as error:
            _log.warning("the report of the newest drill cannot be read", exc_info=error)
            scenarios = []
        self._metrics.drills.show(scenarios, success=newest.state == "success")

    async def _show_newest(self, repositories: list[Repository]) -> None:
        """Show the tables of the newest full backup, wherever it is; a place may lag behind another."""
        catalogues = self._knowledge.catalogues
        newest = {
            one.place: [entry for entry in catalogues[one.place].entries if entry.kind == "full"][:1]
            for one in repositories
            if one.place in catalogues
        }
        backup_id = max((entry.id for entries in newest.values() for entry in entries), default=None)
        if backup_id is None or backup_id == self._shown:
            return
        for repository in repositories:
            if any(entry.id == backup_id for entry in newest.get(repository.place, ())):
                await self._show(repository, backup_id)
                return

    async def _show(self, repository: Repository, backup_id: str) -> None:
        self._shown = backup_id
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                manifest = await repository.manifest(backup_id)
        except (StorageError, TimeoutError) as error:
            _log.warning("the newest manifest cannot be shown", backup=backup_id, exc_info=error)
            return
        tables = [
            TableOutcome(table.schema_name, table.name, table.rows, table.bytes_raw, table.bytes_stored)
            for table in manifest.tables
        ]
        self._metrics.show_tables(manifest.kind, manifest.created_at, tables)
        self._knowledge.uncovered_tables = len(manifest.not_covered.tables)

    def tidy_soon(self) -> None:
        """There may be another backup: compare the places, and let old ones go, when nothing else runs."""
        self._sync_due = self._prune_due = True

    async def _tidy(self) -> None:
        """First what is missing is brought where it is wanted, for until then nothing of it goes."""
        await self._sync()
        await self._prune()

    async def _sync(self) -> None:
        """Reconcile the places when there is reason to, unless a job is running anywhere."""
        pending = bool(self._knowledge.backlog()) and time.monotonic() > self._synced + REFRESH_SECONDS
        if not (self._sync_due or pending) or self._scheduler.running or len(self._answering()) < 2:
            return
        self._sync_due = False
        self._synced = time.monotonic()
        try:
            options = SyncOptions(fill=False, give_way=self._somebody_waits)
            result = await reconcile(self._app, self._recorder, options, no_progress)
        except Held:
            self._sync_due = True  # the job that runs may change something yet
            return
        except Exception as error:  # noqa: BLE001 - it is told of, and the daemon goes on
            _log.warning("the places could not be reconciled", exc_info=error)
        else:
            self._tell_of_sync(result)
            self._sync_due = self._sync_due or result.gave_way
        await self.refresh()

    async def _prune(self) -> None:
        """Carry retention out when there is reason to, unless a job is running anywhere."""
        if not self._prune_due or self._scheduler.running or not self._answering():
            return
        self._prune_due = False
        try:
            result = await prune(self._app, self._recorder, no_progress)
        except Held:
            self._prune_due = True
            return
        except Exception as error:  # noqa: BLE001 - it is told of, and the daemon goes on
            _log.warning("retention could not be carried out", exc_info=error)
            return
        self._metrics.observe_prune(result)
        removed = result.doing("removed")
        for place in result.failed:
            _log.error("retention could not be carried out", place=place.name, error=place.error)
        if removed:
            _log.info(
                "backups were removed that no policy keeps",
                backups=[f"{row.id} in {row.place}" for row in removed],
                held_back=len(result.doing("hold back")),
            )
            await self.refresh()

    def _somebody_waits(self) -> bool:
        """Whether a job is to run: what is still to be copied can wait longer than a backup."""
        return bool(self._scheduler.running or self._knowledge.held_up)

    def _tell_of_sync(self, result: SyncResult) -> None:
        for verified in result.verified:
            self._metrics.observe_verification(verified)
        states = {(one.id, place.name): place.state for one in result.verified for place in one.places}
        for row in result.lacking:
            if row.done == "made good":
                state = "failed" if states.get((row.id, row.place)) == "failed" else "success"
                _log.info("backup made good", backup=row.id, place=row.place, found=row.found, state=state)
            elif row.error:
                _log.warning("backup not made good", backup=row.id, place=row.place, found=row.found, error=row.error)
        for backup_id in result.damaged:
            _log.error("something of this backup is whole in no place", backup=backup_id)
