"""Settings that belong together, named with a prefix of their own: `ROWVAULT_S3__BUCKET`."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from daemon.settings.environment import PREFIX, full_name
from daemon.settings.types import (
    AgeRecipients,
    Count,
    DatabaseUrl,
    Duration,
    EndpointUrl,
    ExportFormats,
    Names,
    Prefix,
    Schedule,
    Size,
    StorageClass,
    whole,
)


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

    daily: Count | None = Field(
        None, description="Full backups that stay in the bucket. Unset: as ROWVAULT_RETENTION__DAILY."
    )
    weekly: Count | None = Field(
        None, description="Weekly archives that stay in the bucket. Unset: as ROWVAULT_RETENTION__WEEKLY."
    )
    monthly: Count | None = Field(
        None, description="Monthly archives that stay in the bucket. Unset: as ROWVAULT_RETENTION__MONTHLY."
    )
    incremental_days: Count | None = Field(
        None,
        description="Days for which incremental backups stay in the bucket. "
        "Unset: as ROWVAULT_RETENTION__INCREMENTAL_DAYS.",
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
        description="Bucket in the path (path), in the host name (virtual), or as the endpoint suggests (auto).",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the certificate authority that signed the server's certificate."
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        None, description="Encryption at rest to ask the store for, AES256 or aws:kms. Unset: the bucket's own."
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
    endpoint_url: EndpointUrl | None = Field(
        None, description="Address of its server. Unset: as ROWVAULT_S3__ENDPOINT_URL."
    )
    region: str | None = Field(None, description="Its region. Unset: as ROWVAULT_S3__REGION.")
    access_key_id: SecretStr | None = Field(
        None, description="Access key for it. Unset: as ROWVAULT_S3__ACCESS_KEY_ID."
    )
    secret_access_key: SecretStr | None = Field(None, description="Secret that belongs to this access key.")
    storage_class: StorageClass | None = Field(
        None,
        description="Storage class of archives, one that can be read at once. Unset: as ROWVAULT_S3__STORAGE_CLASS.",
    )
    lock_mode: Literal["governance", "compliance"] | None = Field(
        None,
        description="Object lock on all objects of archives: governance or compliance; the bucket must be made for it.",
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
        None, description="File of age identities for drills alone. Unset: those of ROWVAULT_ENCRYPTION__IDENTITY_FILE."
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
