"""The composition root: settings in, the objects that jobs work with out. Nothing else reads settings for them."""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from daemon.places import open_places
from daemon.recording import Recorder
from daemon.settings.environment import full_name
from daemon.settings.load import read_keyring
from daemon.settings.model import Settings
from jobs.archive import ArchiveOptions, archive
from jobs.copying.table_copy import CopyOptions
from jobs.diff import DiffOptions
from jobs.drill import DrillOptions, drill, objectives
from jobs.erase import EraseOptions, EraseResult, erase, resume
from jobs.erasing.plan import ErasePlan, check_subject, drained, newest, plan_erasure
from jobs.erasing.subject import Children, Predicate
from jobs.exporting.plan import ExportOptions
from jobs.full_backup import full_backup
from jobs.incremental import incremental_backup
from jobs.incrementals.begin_chain import begin_capture
from jobs.incrementals.comparison import Stamps
from jobs.incrementals.taking import CaptureOptions
from jobs.places.one_database import answering, require_of
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source, session
from jobs.postgres.identifiers import parse_pattern
from jobs.postgres.snapshot import LockLimits
from jobs.preparing import BackupOptions, Chaining, require_mounted
from jobs.progress import OnProgress, no_progress
from jobs.restore import RestoreOptions
from jobs.restoring.aftercare import Statement
from jobs.results import BackupResult, DrillResult
from storage.age import NO_KEYS, Keyring
from storage.backends.protocol import Backend
from storage.repository import Repository

Kind = Literal["full", "incremental", "archive"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a person says of one backup, beside the settings."""

    label: str = ""
    reason: str = ""
    keep: bool = False
    adopt: bool = False


class App:
    """Everything that a command or the daemon needs, made of the settings."""

    def __init__(
        self,
        settings: Settings,
        repositories: list[Repository],
        impatient: Mapping[str, Backend],
        drill_keyring: Keyring = NO_KEYS,
    ) -> None:
        """`impatient` has each place's backend for questions that are not worth trying again; `drill_keyring` the
        identities that are for drills alone.
        """
        self.settings = settings
        self.repositories = repositories
        self.impatient = impatient
        self.drill_keyring = drill_keyring

    @property
    def source(self) -> Source:
        """The database to back up; raises `SettingsError` if none is set."""
        return self.database(self.settings.require_database_url().get_secret_value(), full_name("database_url"))

    @property
    def source_if_any(self) -> Source | None:
        """The database to back up; None if none is set."""
        return None if self.settings.database_url is None else self.source

    @property
    def backup_places(self) -> list[Repository]:
        """The places for all backups: not those that are for archives alone."""
        return [one for one in self.repositories if one.policy is None or one.policy.keeps("full")]

    @property
    def impatient_places(self) -> list[Repository]:
        """The places, for what is not worth trying again."""
        return [Repository(one.place, self.impatient[one.place], one.keyring, one.policy) for one in self.repositories]

    @property
    def selection(self) -> Selection:
        """The tables to back up; raises `BadName`."""
        return Selection(
            tuple(parse_pattern(pattern) for pattern in self.settings.tables),
            tuple(parse_pattern(pattern) for pattern in self.settings.exclude_tables),
        )

    @property
    def time_limit(self) -> float:
        """Seconds that a job may run."""
        return self.settings.job_time_limit.total_seconds()

    @property
    def lock_limits(self) -> LockLimits:
        """How long locks are waited for, and how long anybody may wait on ours."""
        return LockLimits(self.settings.lock_timeout.total_seconds(), self.settings.give_way_after.total_seconds())

    def database(self, dsn: str, named_by: str) -> Source:
        """A database, which a setting or an option names, reached with the same patience as any."""
        return Source(dsn, self.settings.connect_timeout.total_seconds(), named_by)

    def backup_options(self, request: Request) -> BackupOptions:
        """How a backup is taken."""
        settings = self.settings
        return BackupOptions(
            copying=CopyOptions(
                streams=settings.copy_jobs,
                level=settings.compression_level,
                rate_limit=settings.rate_limit,
                recipients=settings.encryption.recipients,
            ),
            locks=self.lock_limits,
            attempts=settings.give_way_attempts,
            pg_bin=settings.pg_bin,
            label=request.label,
            reason=request.reason,
            keep=request.keep,
            adopt=request.adopt,
        )

    @property
    def capture_options(self) -> CaptureOptions:
        """How changes are captured."""
        settings = self.settings
        return CaptureOptions(
            copying=CopyOptions(level=settings.compression_level, recipients=settings.encryption.recipients),
            method=settings.incremental.method,
            stamps=Stamps(settings.incremental.timestamp_columns, settings.incremental.overlap),
            patience=settings.incremental.patience.total_seconds(),
            lag_limit=settings.incremental.slot_lag_limit,
        )

    @property
    def restore_options(self) -> RestoreOptions:
        """How a restore is carried out."""
        settings = self.settings
        return RestoreOptions(
            streams=settings.copy_jobs,
            pg_bin=settings.pg_bin,
            lock_timeout=settings.lock_timeout.total_seconds(),
            statements=(
                *(Statement(sql) for sql in settings.quality_checks),
                *(Statement(sql, role) for role, sql in settings.role_checks),
            ),
        )

    def recorder(self, who: str, warn: Callable[[str], object]) -> Recorder:
        """What remembers jobs. A place that does not answer at once is given the entry later."""
        return Recorder(self.impatient_places, self.log, who, warn)

    @property
    def log(self) -> Source | None:
        """The database that keeps the verification log, if any does."""
        wanted = self.settings.verification_log and self.settings.database_url is not None
        return self.source if wanted else None

    def diff_options(self, tables: Sequence[str], *, keys: bool) -> DiffOptions:
        """How a comparison is made."""
        return DiffOptions(tuple(tables), keys=keys, scratch=self.scratch, attempts=self.settings.give_way_attempts)

    def export_options(self, *, replace: bool) -> ExportOptions:
        """How an export is carried out."""
        key = self.settings.export.mask_key
        secret = key.get_secret_value().encode() if key else b""
        return ExportOptions(self.settings.copy_jobs, self.settings.pg_bin, secret, replace)

    @property
    def scratch(self) -> Path | None:
        """Where large temporary files go, None for the system's choice: where backups rest, for /tmp may be memory.

        They are plain text, and have no place among encrypted backups.
        """
        encryption = self.settings.encryption
        if encryption.recipients is not None or encryption.identity_file is not None:
            return None
        folder = self.settings.local_path
        usable = folder is not None and os.access(folder, os.W_OK) and "TMPDIR" not in os.environ
        return folder if usable else None

    @property
    def drill_options(self) -> DrillOptions:
        """How a drill is held."""
        given, rto = self.settings.drill.database_url, self.settings.objectives.rto
        return DrillOptions(
            restore=self.restore_options,
            given=self.database(given.get_secret_value(), full_name("drill", "database_url")) if given else None,
            objectives=objectives(rto.total_seconds() if rto else None),
        )

    async def drill(self, on_progress: OnProgress = no_progress) -> DrillResult:
        """Hold a drill, with the identities that drills have; the caller holds the drills' lock."""
        keyring = self.drill_keyring
        repositories = [
            Repository(one.place, one.backend, keyring or one.keyring, one.policy) for one in self.repositories
        ]
        return await drill(repositories, self.drill_options, on_progress)

    async def full_backup(
        self, request: Request, on_progress: OnProgress = no_progress, chaining: Chaining | None = None
    ) -> BackupResult:
        """Take a full backup; the caller holds the job lock (`daemon.runner.job_run`)."""
        options = replace(self.backup_options(request), chaining=chaining)
        return await full_backup(self.source, self.selection, self.backup_places, options, on_progress)

    async def archive(
        self, request: Request, on_progress: OnProgress = no_progress, *, only_newer: bool = False
    ) -> BackupResult | None:
        """Take a long-term copy; the caller holds the lock of jobs that need no source."""
        options = ArchiveOptions(
            copying=self.capture_options.copying,
            label=request.label,
            reason=request.reason,
            keep=request.keep,
            only_newer=only_newer,
            scratch=self.scratch,
            formats=self.settings.archive.exports,
            exporting=self.export_options(replace=False),
        )
        return await archive(self.repositories, options, on_progress)

    async def begin_capture(self) -> Chaining:
        """Let the next full backup be one that incremental ones can continue; the caller holds the job lock."""
        return await begin_capture(self.source, self.selection, self.backup_places[0], self.capture_options)

    async def incremental_backup(self, request: Request, on_progress: OnProgress = no_progress) -> BackupResult:
        """Store what changed since the last backup; the caller holds the job lock."""
        return await incremental_backup(
            self.source,
            self.selection,
            self.backup_places,
            self.capture_options,
            self.backup_options(request),
            on_progress,
        )

    async def check_subject(self, predicate: Predicate, children: Children | None) -> None:
        """Raise what stands in the way of an erasure, as far as it can be known without looking through backups."""
        there = await answering(self.repositories)
        await require_of(self.source, there)
        await require_mounted(there)
        async with session(self.source, "erase") as connection:
            await check_subject(connection, there, predicate, children)

    async def plan_erasure(
        self, predicate: Predicate, children: Children | None, taken: str | None, on_progress: OnProgress
    ) -> ErasePlan:
        """Find out what an erasure would do: up to a backup just `taken`, so that it reaches all that was committed
        until now; None: up to the newest that there is.
        """
        there = await answering(self.repositories)
        await require_of(self.source, there)
        if taken is not None:
            until = await drained(self.source, await self.backup_places[0].backup(taken))
        else:
            until = await newest(there)
        async with session(self.source, "erase") as connection:
            return await plan_erasure(connection, there, predicate, children, until, on_progress)

    @property
    def erase_options(self) -> EraseOptions:
        """How erasures are carried out."""
        return EraseOptions(self.capture_options.copying, self.export_options(replace=False), self.scratch)

    async def erase(self, plan: ErasePlan, on_progress: OnProgress) -> EraseResult:
        """Carry out a plan; the caller holds the job lock, since before it was made."""
        return await erase(plan, self.repositories, self.erase_options, on_progress)

    async def resume_erasures(self, on_progress: OnProgress) -> list[EraseResult]:
        """Finish erasures that were interrupted or did not reach a place; the caller holds the job lock."""
        return await resume(self.repositories, self.erase_options, on_progress)


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[App]:
    """Open the places for as long as the block runs; raises `SettingsError` if there is none."""
    drill_keyring = read_keyring(settings.drill.identity_file, full_name("drill", "identity_file"))
    async with AsyncExitStack() as stack:
        places = await open_places(settings, stack)
        yield App(settings, places.repositories, places.impatient, drill_keyring)
