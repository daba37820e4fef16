"""Every setting of the process, and what follows from some of them together."""

from dataclasses import replace
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.cron import CronLine, parse_cron
from daemon.settings.environment import NESTED, PREFIX
from daemon.settings.errors import SettingsError
from daemon.settings.groups import (
    ArchiveSettings,
    DrillSettings,
    EncryptionSettings,
    ExportSettings,
    HttpSettings,
    IncrementalSettings,
    ObjectiveSettings,
    RetentionSettings,
    S3Settings,
    ScheduleSettings,
)
from daemon.settings.types import (
    DatabaseUrl,
    Duration,
    Patterns,
    QualityChecks,
    RoleChecks,
    Size,
    ZoneName,
    whole,
)
from storage.retention import Policy

ARCHIVES = frozenset({"archive"})


class Settings(BaseSettings):
    """Every setting of the process, checked. Frozen; secrets are typed as such."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTED, frozen=True, extra="forbid")

    database_url: DatabaseUrl | None = Field(
        None, description="The database to back up: postgresql://user:password@host:5432/name."
    )
    tables: Patterns = Field(
        (),
        description="Tables to back up: globs on schema.name, comma-separated. Unset: every table of public.",
    )
    exclude_tables: Patterns = Field((), description="Tables to leave out of these, written likewise.")
    local_path: Path | None = Field(None, description="Folder for local backups. Unset: none are kept.")
    s3: S3Settings = S3Settings()
    archive: ArchiveSettings = ArchiveSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    retention: RetentionSettings = RetentionSettings()
    incremental: IncrementalSettings = IncrementalSettings()
    drill: DrillSettings = DrillSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    export: ExportSettings = ExportSettings()
    timezone: ZoneName = Field(
        "UTC", description="Time zone in which schedules and days are meant, such as Europe/Berlin."
    )
    copy_jobs: Annotated[int, whole(1, 64)] = Field(
        2, description="How many tables or parts are copied at the same time."
    )
    compression_level: Annotated[int, whole(1, 19)] = Field(
        1, description="Level of zstd compression, 1 (fast) to 19 (small)."
    )
    rate_limit: Size | None = Field(
        None, description="Most bytes a second to read from the database, such as 50MB. Unset: no limit."
    )
    lock_timeout: Duration = Field(
        timedelta(seconds=5),
        description="How long to wait for a table's lock before trying again from the start.",
    )
    give_way_after: Duration = Field(
        timedelta(seconds=3),
        description="How long others may wait on a backup's locks before it gives way to them.",
    )
    give_way_attempts: Annotated[int, whole(1, 1000)] = Field(
        10, description="How often a backup begins again before it gives up."
    )
    job_time_limit: Duration = Field(timedelta(hours=6), description="Longest a job may run before it is ended.")
    connect_timeout: Duration = Field(timedelta(seconds=10), description="Longest to wait for a connection.")
    check_interval: Duration = Field(
        timedelta(seconds=15), description="How often the daemon asks whether database and places answer."
    )
    http: HttpSettings = HttpSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()
    stop_grace_seconds: Annotated[int, whole(1, 3600)] = Field(
        8,
        description="How long jobs may take to end after SIGTERM; stay under the container's own.",
    )
    quality_checks: QualityChecks = Field(
        (),
        description="JSON list of SQL statements to run after a restore; one fails if it raises or returns false.",
    )
    role_checks: RoleChecks = Field(
        (),
        description='The same as roles of the application: a JSON list of {"role": "…", "sql": "…"}.',
    )
    verification_log: bool = Field(
        True, description="Keep a verification log in the source database: rowvault.backup_verification_log."
    )
    pg_bin: Path | None = Field(
        None, description="Folder of PostgreSQL's programs. Unset: those found on this machine; for a dump, the newest."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged: debug, info, warning or error."
    )
    log_format: Literal["json", "console"] | None = Field(
        None, description="How logs are written, json or console. Unset: console on a terminal, else json."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what is passed in: `load_settings` has read the environment, and more strictly."""
        return (init_settings,)

    @property
    def zone(self) -> tzinfo:
        """The time zone in which schedules are meant."""
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)

    @property
    def policy(self) -> Policy:
        """What stays in a place that has no figures of its own."""
        return Policy(**self.retention.model_dump(), zone=self.zone)

    @property
    def s3_policy(self) -> Policy:
        """What stays in the off-site place: no archives, where these have a bucket of their own."""
        policy = replace(self.policy, **self.s3.retention.model_dump(exclude_none=True))
        return policy if self.archive.bucket is None else replace(policy, kinds=policy.kinds - ARCHIVES)

    @property
    def archive_policy(self) -> Policy:
        """What stays in the bucket for archives."""
        return replace(self.s3_policy, kinds=ARCHIVES)

    @property
    def schedules(self) -> dict[str, CronLine | None]:
        """When each job runs, by the id it has everywhere; None: disabled."""
        lines = {
            "daily-full": self.schedule.full,
            "hourly-incremental": self.schedule.incremental,
            "weekly-archive": self.schedule.archive,
            "monthly-drill": self.schedule.drill,
        }
        return {job: parse_cron(line) if line else None for job, line in lines.items()}

    def require_database_url(self) -> SecretStr:
        """The database's address. Raises `SettingsError` if there is none."""
        if self.database_url is None:
            raise SettingsError([f"{PREFIX}DATABASE_URL: must be set to the database to back up"])
        return self.database_url

    def require_places(self) -> None:
        """Raise `SettingsError` if there is no place at all for backups to rest."""
        if self.local_path is None and self.s3.bucket is None:
            raise SettingsError([f"{PREFIX}LOCAL_PATH or {PREFIX}S3__BUCKET: at least one must be set"])
        s3, archive = self.s3, self.archive
        same_server = archive.endpoint_url in (None, s3.endpoint_url)
        if archive.bucket and same_server and (archive.bucket, archive.prefix) == (s3.bucket, s3.prefix):
            problem = "is the off-site place itself; unset it, or give it a bucket or a prefix of its own"
            raise SettingsError([f"{PREFIX}ARCHIVE__BUCKET: {problem}"])
