"""Objects in a bucket that keeps versions: gone for good, and what cannot go because it is locked.

API: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from os.path import commonprefix
from typing import Any

from botocore.exceptions import ClientError

from storage.backends.protocol import Locked
from storage.backends.s3_client import S3Client
from storage.backends.s3_errors import explain
from storage.errors import NotFound

DELETE_BATCH = 1000
_JUST_ENDED = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Version:
    name: str
    id: str
    marker: bool


async def purge(client: S3Client, names: Sequence[str]) -> tuple[Locked, ...]:
    """Delete every version of these objects; return those that are locked. Raises `Unsupported` where none are known.

    Markers that hide an object go last, and stay where a version is locked: without them it would show again.
    """
    versions = [version async for version in _versions(client, names)]
    locked = await _delete(client, [one for one in versions if not one.marker])
    held = {one.name for one in locked}
    return (*locked, *await _delete(client, [one for one in versions if one.marker and one.name not in held]))


async def _versions(client: S3Client, names: Iterable[str]) -> AsyncIterator[_Version]:
    """All versions of these objects, by a listing for each folder, of what their names have in common there."""
    for _, group in groupby(sorted(set(names)), key=_folder):
        wanted = set(group)
        prefix = client.key(commonprefix([*wanted]))  # noqa: RUF071 - a listing begins with any characters
        async for page in client.pages("list_object_versions", Prefix=prefix):
            for found, marker in ((page.get("Versions", []), False), (page.get("DeleteMarkers", []), True)):
                for one in found:
                    if (name := client.name(one["Key"])) in wanted:
                        yield _Version(name, one["VersionId"], marker)


def _folder(name: str) -> str:
    return "/".join(name.split("/")[:-1][:2])


async def _delete(client: S3Client, versions: Iterable[_Version]) -> tuple[Locked, ...]:
    rest = iter(versions)
    locked: list[Locked] = []
    while batch := [*islice(rest, DELETE_BATCH)]:
        for version, error in await _delete_batch(client, batch):
            locked.append(await _locked(client, version, error))
    return tuple(locked)


async def _delete_batch(client: S3Client, batch: Sequence[_Version]) -> Iterator[tuple[_Version, dict[str, Any]]]:
    """Delete at most 1,000 versions; those that could not be deleted, with what the store says of each."""
    wanted = {"Objects": [{"Key": client.key(one.name), "VersionId": one.id} for one in batch], "Quiet": True}
    doing = f"delete {len(batch)} versions of objects"
    reply = await client.call(doing, "delete_objects", Delete=wanted, ChecksumAlgorithm="SHA256")
    by_key = {(client.key(one.name), one.id): one for one in batch}
    errors = [one for one in reply.get("Errors", []) if one.get("Code") not in ("NoSuchKey", "NoSuchVersion")]
    return ((by_key[error["Key"], error["VersionId"]], error) for error in errors)


async def _locked(client: S3Client, version: _Version, error: dict[str, Any]) -> Locked:
    """Until when a version is locked that could not be deleted. Raises what the store said of one that is not."""
    try:
        head = await client.head(version.name, VersionId=version.id) if not version.marker else {}
    except NotFound:
        head = {}
    # When the store said no is a moment ago, by a clock of its own: the lock may just have ended.
    if (locked := lock_of(version.name, head, datetime.now(UTC) - _JUST_ENDED)) is not None:
        return replace(locked, version=version.id)
    doing = f"delete version {version.id} of {version.name}"
    raise explain(ClientError({"Error": error}, "DeleteObjects"), doing, client.options)


def lock_of(name: str, head: Mapping[str, Any], at: datetime | None = None) -> Locked | None:
    """What a store's answer about one version says of locks, now or as of a moment."""
    version, until = str(head.get("VersionId", "")), head.get("ObjectLockRetainUntilDate")
    if head.get("ObjectLockLegalHoldStatus") == "ON":
        return Locked(name, version, None)
    if until is not None and until > (at or datetime.now(UTC)):
        return Locked(name, version, until.astimezone(UTC))
    return None
