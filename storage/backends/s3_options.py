"""Where a bucket is and how to reach it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the store is to keep the objects that `applies` says yes to, by name.

    `storage_class` is one that can be read at once; None: the bucket's own. With `lock_mode` nobody (governance: nobody
    without a special right) can remove or replace a version of them for `lock_days`.
    """

    applies: Callable[[str], bool]
    storage_class: str | None = None
    lock_mode: Literal["governance", "compliance"] | None = None
    lock_days: int = 0

    def parameters(self, now: datetime) -> dict[str, Any]:
        """How a request that writes such an object says so."""
        found: dict[str, Any] = {"StorageClass": self.storage_class} if self.storage_class else {}
        if self.lock_mode:
            found |= {
                "ObjectLockMode": self.lock_mode.upper(),
                "ObjectLockRetainUntilDate": now + timedelta(days=self.lock_days),
            }
        return found


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how to talk to it. Without keys: the environment's, or the instance's role.

    `endpoint_url` None means AWS. `ca_file` is a PEM file to trust instead of the usual authorities. `silence_seconds`
    is how long a request may go on without a byte moving. `sse` asks the store to encrypt what it is given. Of
    `keepings` the first that applies to an object counts. `copy_bytes` is the most that one request is to copy.
    `given_by` says which settings the bucket has in the place of ROWVAULT_S3__…, for whoever is to correct one.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    ca_file: Path | None = None
    connect_seconds: float = 10.0
    silence_seconds: float = 60.0
    connections: int = 16
    sse: Literal["AES256", "aws:kms"] | None = None
    sse_kms_key_id: str | None = None
    keepings: tuple[Keeping, ...] = ()
    copy_bytes: int = 1 << 30
    given_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What messages call this bucket."""
        return f"bucket {self.bucket} at {self.endpoint_url or 'AWS'}"

    @property
    def key_prefix(self) -> str:
        """What comes before every object's name: empty, or ending in `/`."""
        stripped = self.prefix.strip("/")
        return f"{stripped}/" if stripped else ""

    def named(self, hint: str) -> str:
        """A hint with the settings that this bucket is given by."""
        for shared, own in self.given_by.items():
            hint = hint.replace(shared, own)
        return hint

    def writing(self, name: str) -> dict[str, Any]:
        """Parameters of every request by which an object of that name begins to be."""
        found: dict[str, Any] = {"ServerSideEncryption": self.sse} if self.sse else {}
        if self.sse_kms_key_id:
            found["SSEKMSKeyId"] = self.sse_kms_key_id
        keeping = next((one for one in self.keepings if one.applies(name)), None)
        return found | (keeping.parameters(datetime.now(UTC)) if keeping else {})
