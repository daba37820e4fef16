"""Having `doctor` look at something, and finding what it found."""

from collections.abc import Sequence
from pathlib import Path

from jobs.doctor import Finding, Report, examine
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.postgres.identifiers import parse_pattern
from storage.backends.s3 import S3Options
from storage.repository import Repository
from tests.conftest import Bucket
from tests.servers import Database


def chosen(*patterns: str, exclude: Sequence[str] = ()) -> Selection:
    return Selection(tuple(map(parse_pattern, patterns)), tuple(map(parse_pattern, exclude)))


async def look(
    source: Source | Database, *places: Repository, selection: Selection | None = None, pg_bin: Path | None = None
) -> Report:
    at = source if isinstance(source, Source) else Source(source.dsn)
    return await examine(at, selection or Selection(), places, pg_bin, patience=3)


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
