"""Where a bucket is and how to reach it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how to talk to it. Without keys: the environment's, or the instance's role.

    `endpoint_url` None means AWS. `ca_file` is a PEM file to trust instead of the usual authorities. `silence_seconds`
    is how long a request may go on without a byte moving.
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

    @property
    def place(self) -> str:
        """What messages call this bucket."""
        return f"bucket {self.bucket} at {self.endpoint_url or 'AWS'}"

    @property
    def key_prefix(self) -> str:
        """What comes before every object's name: empty, or ending in `/`."""
        stripped = self.prefix.strip("/")
        return f"{stripped}/" if stripped else ""
