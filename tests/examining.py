"""Having `doctor` look at something, and finding what it found."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.checks.encryption import Encrypting
from jobs.doctor import Finding, Report, examine
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.postgres.identifiers import parse_pattern
from storage.backends.s3 import S3Options
from storage.repository import Repository
from tests.conftest import Bucket
from tests.servers import Database, quoted

PASSWORD = "pass-word-of-the-reader"
_roles = itertools.count(1)


@dataclass(frozen=True)
class Reader:
    """A role that may read nothing yet, and how it connects."""

    name: str
    source: Source


@asynccontextmanager
async def reader_of(database: Database) -> AsyncIterator[Reader]:
    """A role without any right in a database."""
    name = f'the "reader" {next(_roles)}'
    await database.execute(f"CREATE ROLE {quoted(name)} LOGIN PASSWORD '{PASSWORD}'")
    yield Reader(name, Source(database.as_role(name, PASSWORD)))
    await database.execute(f"DROP OWNED BY {quoted(name)} CASCADE; DROP ROLE {quoted(name)}")


def chosen(*patterns: str, exclude: Sequence[str] = ()) -> Selection:
    return Selection(tuple(map(parse_pattern, patterns)), tuple(map(parse_pattern, exclude)))


async def look(
    source: Source | Database,
    *places: Repository,
    selection: Selection | None = None,
    pg_bin: Path | None = None,
    capture: CaptureOptions | None = None,
    encrypting: Encrypting | None = None,
) -> Report:
    at = source if isinstance(source, Source) else Source(source.dsn)
    return await examine(
        at, selection or Selection(), places, pg_bin, patience=3, capture=capture, encrypting=encrypting
    )


def found(report: Report, check: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.check == check]


def only(report: Report, check: str) -> Finding:
    (finding,) = found(report, check)
    return finding


def worse_than_ok(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.state != "ok"]


def problems(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.state == "problem"]


def s3_options(bucket: Bucket) -> S3Options:
    return S3Options(
        bucket.name,
        endpoint_url=bucket.endpoint_url,
        region=bucket.region,
        access_key_id=bucket.access_key,
        secret_access_key=bucket.secret_key,
    )
