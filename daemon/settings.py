"""What the process is told: settings from the environment, a `.env` file, and files that hold secrets.

`daemon.environment` gathers the values, pydantic checks them, and `load_settings` says what is wrong in its
own words, for pydantic's errors print the values, passwords included.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.cron import CronLine, parse_cron
from daemon.durations import format_duration, format_size
from daemon.environment import NESTED, PREFIX, full_name, gather
from daemon.setting_types import (
    AS_SIZE,
    AgeRecipients,
    Count,
    DatabaseUrl,
    Duration,
    EndpointUrl,
    ExportFormats,
    Names,
    Patterns,
    Prefix,
    QualityChecks,
    RoleChecks,
    Schedule,
    Size,
    StorageClass,
    ZoneName,
    whole,
)
from storage.age import BadKey, Keyring
from storage.retention import Policy

ARCHIVES = frozenset({"archive"})


class SettingsError(Exception):
    """Settings that cannot be used: a line for each problem, with the setting's name, never its value."""

    hint = "`rowvault settings` lists every setting, with what it means"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        self.message = "\n".join(self.problems)
        super().__init__(self.message)


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting as people read about it: full name, default as written (empty: unset), meaning."""

    name: str
    default: str
    meaning: str


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetentionSettings(_Group):
    """How long backups stay, in every place that has no figures of its own."""

    daily: Count = Field(7, description="Full backups that stay: the newest of each of so many days that have any.")
    weekly: Count = Field(4, description="Archives that stay: the first of each of so many weeks that have any.")
    monthly: Count = Field(12, description="Archives that stay: the first of each of so many months that have any.")
    incremental_days: Count = Field(
        7, description="Days for which incremental backups stay, with the full backups they build on."
    )


class S3RetentionSettings(_Group):
    """Where the off-site place keeps more, or less, than the rest."""

    daily: Count | None = Field(None, description="Full backups that stay in the bucket. Unset: as RETENTION__DAILY.")
    weekly: Count | None = Field(
        None, description="Weekly archives that stay in the bucket. Unset: as RETENTION__WEEKLY."
    )
    monthly: Count | None = Field(
        None, description="Monthly archives that stay in the bucket. Unset: as RETENTION__MONTHLY."
    )
    incremental_days: Count | None = Field(
        None,
        description="Days for which incremental backups stay in the bucket. Unset: as RETENTION__INCREMENTAL_DAYS.",
    )


class S3Settings(_Group):
    """The off-site place: a bucket in anything that speaks S3."""

    bucket: str | None = Field(None, description="Bucket for off-site backups; it must exist. Unset: none are made.")
    prefix: Prefix = Field("", description="Folder inside the bucket, for a bucket shared with others.")
    endpoint_url: EndpointUrl | None = Field(
        None, description="Address of an S3-compatible server. Unset: Amazon's, by region."
    )
    region: str | None = Field(None, description="The bucket's region, where the server asks for one.")
    access_key_id: SecretStr | None = Field(
        None,
        description="Access key. Unset: the credentials the machine has by itself, such as a role.",
    )
    secret_access_key: SecretStr | None = Field(None, description="Secret that belongs to the access key.")
    session_token: SecretStr | None = Field(None, description="Session token, with temporary credentials.")
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Bucket in the path, in the host name (virtual), or as the endpoint suggests (auto).",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the certificate authority that signed the server's certificate."
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        None, description="Encryption at rest to ask the store for. Unset: the bucket's own."
    )
    sse_kms_key_id: str | None = Field(None, description="Key to encrypt with, for aws:kms. Unset: the account's own.")
    storage_class: StorageClass | None = Field(
        None, description="Storage class of backups, one that can be read at once. Unset: the bucket's own."
    )
    timeout: Duration = Field(
        timedelta(minutes=1), description="How long the store may be silent in the middle of a request."
    )
    retry_for: Duration = Field(
        timedelta(minutes=2), description="How long a request is tried again that the store does not answer."
    )
    retention: S3RetentionSettings = S3RetentionSettings()

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        own = {full_name("s3", "retention", name) for name in self.retention.model_fields_set}
        given = sorted(own | {full_name("s3", name) for name in self.model_fields_set - {"bucket", "retention"}})
        if given and self.bucket is None:
            raise ValueError(f"{PREFIX}S3__BUCKET: must be set, since {given[0]} is")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(f"{PREFIX}S3__ACCESS_KEY_ID: goes together with {PREFIX}S3__SECRET_ACCESS_KEY")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError(f"{PREFIX}S3__SESSION_TOKEN: goes together with {PREFIX}S3__ACCESS_KEY_ID")
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError(f"{PREFIX}S3__SSE_KMS_KEY_ID: goes together with {PREFIX}S3__SSE=aws:kms")
        return self


class ArchiveSettings(_Group):
    """How archives are kept, and the bucket of their own that they may have."""

    bucket: str | None = Field(
        None, description="Bucket of its own for archives; it must exist. Unset: they are kept beside other backups."
    )
    prefix: Prefix = Field("", description="Folder inside that bucket.")
    endpoint_url: EndpointUrl | None = Field(None, description="Address of its server. Unset: as S3__ENDPOINT_URL.")
    region: str | None = Field(None, description="Its region. Unset: as S3__REGION.")
    access_key_id: SecretStr | None = Field(None, description="Access key for it. Unset: as S3__ACCESS_KEY_ID.")
    secret_access_key: SecretStr | None = Field(None, description="Secret that belongs to this access key.")
    storage_class: StorageClass | None = Field(
        None, description="Storage class of archives, one that can be read at once. Unset: as S3__STORAGE_CLASS."
    )
    lock_mode: Literal["governance", "compliance"] | None = Field(
        None,
        description="Object lock on all objects of archives, so that nobody removes them; the bucket must allow it.",
    )
    lock_days: Annotated[int, whole(1, 36_500)] | None = Field(None, description="Days for which they are locked.")
    exports: ExportFormats = Field(
        (), description="Exports in each archive: csv, json, parquet, sql, comma-separated. Unset: none."
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        own = sorted(self.model_fields_set & {"prefix", "endpoint_url", "region", "access_key_id", "secret_access_key"})
        if own and self.bucket is None:
            raise ValueError(f"{PREFIX}ARCHIVE__BUCKET: must be set, since {full_name('archive', own[0])} is")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(f"{PREFIX}ARCHIVE__ACCESS_KEY_ID: goes together with {PREFIX}ARCHIVE__SECRET_ACCESS_KEY")
        if (self.lock_mode is None) != (self.lock_days is None):
            raise ValueError(f"{PREFIX}ARCHIVE__LOCK_MODE: goes together with {PREFIX}ARCHIVE__LOCK_DAYS")
        return self


class ScheduleSettings(_Group):
    """When each job runs; an empty line means never."""

    full: Schedule = Field("0 2 * * *", description="When to take a full backup (crontab line; empty or off: never).")
    incremental: Schedule = Field("0 * * * *", description="When to take an incremental backup, likewise.")
    archive: Schedule = Field("0 3 * * 0", description="When to take a long-term archive, likewise.")
    drill: Schedule = Field("0 4 1 * *", description="When to prove recovery in a drill, likewise.")


class IncrementalSettings(_Group):
    """How changes are captured for incremental backups."""

    method: Literal["auto", "wal", "xmin", "timestamp"] = Field(
        "auto",
        description="How changes are found: wal (the change log), xmin (tables are compared), timestamp (likewise, by a"
        " column, which misses rows changed without it); auto: wal where it can be, else xmin.",
    )
    timestamp_columns: Names = Field(
        ("updated_at",),
        description="For timestamp: columns that say when a row was written, comma-separated; the first one counts.",
    )
    overlap: Duration = Field(
        timedelta(hours=1),
        description="For timestamp: how long a transaction may be open whose rows must not be missed.",
    )
    patience: Duration = Field(
        timedelta(minutes=1),
        description="How long to wait for transactions that are at work when changes begin to be captured.",
    )
    slot_lag_limit: Size = Field(
        10 * 1000**3,
        description="Most WAL that the replication slot may hold back; past it, it is dropped and a new chain begins.",
    )


class DrillSettings(_Group):
    """Where recovery is drilled."""

    database_url: DatabaseUrl | None = Field(
        None,
        description="Server for drills: a database is made there and dropped again. Unset: one is started for each.",
    )
    identity_file: Path | None = Field(
        None, description="File of age identities for drills alone. Unset: those of ENCRYPTION__IDENTITY_FILE."
    )


class EncryptionSettings(_Group):
    """For whom backups are encrypted, and what opens them."""

    recipients: AgeRecipients | None = Field(
        None,
        description="Public age keys (age1…) to encrypt backups for, comma-separated. Unset: they are stored plain.",
    )
    identity_file: Path | None = Field(
        None,
        description="File of age identities (AGE-SECRET-KEY-1…) that open backups. Unset: encrypted ones stay closed.",
    )


class ExportSettings(_Group):
    """How exports hide what is not to be seen."""

    mask_key: SecretStr | None = Field(
        None,
        description="Secret key of `export --mask TABLE.COL=hash`, 16 characters or more; the same key gives the same.",
    )


class HttpSettings(_Group):
    """Where health and metrics are served."""

    host: str = Field("127.0.0.1", description="Address on which health and metrics are served; 0.0.0.0 for all.")
    port: Annotated[int, whole(0, 65535)] = Field(8080, description="Port on which health and metrics are served.")


class ObjectiveSettings(_Group):
    """What the person asked for expects; unset follows the jobs that run."""

    rpo: Duration | None = Field(
        None, description="Oldest the newest recovery point may get. Unset: follows the backup schedule."
    )
    rto: Duration | None = Field(
        None,
        description="Longest the recovery of everything may take. Unset: 1 h, and 2 h with a new server.",
    )


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
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "console"] | None = Field(
        None, description="How logs are written. Unset: console on a terminal, else json."
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


def read_keyring(path: Path | None, named_by: str) -> Keyring:
    """The identities in the file that a setting or an option names, none without one. Raises `SettingsError`."""
    if path is None:
        return Keyring()
    try:
        return Keyring.read(path)
    except BadKey as error:
        raise SettingsError([f"{named_by}: {path}: {error.message}: {error.hint}"]) from None
    except OSError as error:
        raise SettingsError([f"{named_by}: cannot read {path}: {error.strerror or 'I/O error'}"]) from None


def load_settings(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """Read settings from the environment (by default the process's own) and, after it, from a `.env` file.

    Raises `SettingsError` with every problem found: unknown names, unreadable files, unusable values.
    """
    names = {full_name(*path): path for path, _ in _walk(Settings)}
    gathered = gather(names, os.environ if environ is None else environ, dotenv)
    # An empty schedule disables its job; anything else that is empty is unset.
    values = {name: v for name, v in gathered.values.items() if v.strip() or names[name][0] == "schedule"}
    try:
        settings = Settings(**_nested(values, names))
    except ValidationError as error:
        raise SettingsError([*gathered.problems, *_lines(error)]) from None
    if gathered.problems:
        raise SettingsError(gathered.problems)
    return settings


def describe_settings() -> tuple[SettingDescription, ...]:
    """Every setting with its default and meaning, in the order to read them."""
    return tuple(
        SettingDescription(full_name(*path), _written(field), field.description or "")
        for path, field in _walk(Settings)
    )


def _walk(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, (*above, name))
        else:
            yield (*above, name), field


def _written(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, int) and AS_SIZE in field.metadata:
        return format_size(default)
    if isinstance(default, timedelta):
        return format_duration(default)
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else str(default)


def _nested(values: Mapping[str, str], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = names[name]
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def _lines(error: ValidationError) -> Iterator[str]:
    """One line for each problem, made anew: pydantic's own text repeats the values."""
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        # A group's own check names its settings itself.
        yield message if message.startswith(PREFIX) else f"{full_name(*map(str, problem['loc']))}: {message}"
