"""What lies in a place after a fault: files as the file system shows them, objects as S3 does."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.places.catalogue import list_backups
from jobs.verify import verify_backup
from storage.errors import Corrupt
from storage.leases import list_leases
from storage.names import REPOSITORY, VERIFICATIONS
from storage.objects import get, put
from storage.repository import Repository
from storage.trail import Link
from tests.conftest import Bucket
from tests.faults.commands import Settings, opened

LONG_AGO = datetime.now(UTC) - timedelta(minutes=2)


def files(folder: Path) -> set[str]:
    """Every file in a folder but the trail's entries; temporary ones too."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not is_entry(name)}


def is_entry(name: str) -> bool:
    """Whether an object is an entry of the audit trail: failed runs leave one, too."""
    try:
        Link.parse(name)
    except Corrupt:
        return False
    return True


def is_absent(folder: Path) -> bool:
    """Whether there is not even the folder."""
    return not folder.exists()


def matches(folder: Path, pattern: str) -> bool:
    """Whether there is a file of such a name."""
    return any(folder.glob(pattern))


class Objects:
    """What a bucket holds, as S3 itself says."""

    def __init__(self, bucket: Bucket, client: Any) -> None:
        self._bucket = bucket.name
        self._client = client

    async def keys(self) -> set[str]:
        """Every object but the trail's entries."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        keys = {found["Key"] async for page in pages for found in page.get("Contents", [])}
        return {key for key in keys if not is_entry(key)}

    async def uploads(self) -> set[str]:
        """The key of every unfinished multipart upload."""
        found = await self._client.list_multipart_uploads(Bucket=self._bucket)
        return {upload["Key"] for upload in found.get("Uploads", [])}


@asynccontextmanager
async def looking_into(bucket: Bucket) -> AsyncIterator[Objects]:
    """A way to look into a bucket for as long as the block runs."""
    async with bucket.client() as client:
        yield Objects(bucket, client)


async def contents(settings: Settings) -> dict[str, bytes]:
    """Every object in every place, by the place and its name."""
    async with opened(settings) as app:
        return {
            f"{repository.place}/{stored.name}": await get(repository.backend, stored.name)
            for repository in app.repositories
            async for stored in repository.backend.list()
        }


async def accounted_for(repository: Repository) -> set[str]:
    """The names of all that may be in a place when nobody is at work: what makes it up, and whole backups."""
    names = {REPOSITORY}
    for entry in (await repository.catalogue()).entries:
        manifest = await repository.backup(entry.id)
        names |= {entry.manifest, f"{VERIFICATIONS}{entry.id}~success.json"}
        names |= {stored.name for stored in manifest.objects()}
    return names


async def expire_leases(repositories: Sequence[Repository]) -> None:
    """Let every lease in every place have expired already: its holder was killed, and a minute has gone by.

    One that was just being written is gone by then, and so is an entry of the trail: tests of sweeping prove that, for
    only files can be made older.
    """
    for repository in repositories:
        for prefix in ("leases/", "trail/"):
            async for unfinished in repository.backend.unfinished(prefix):
                await repository.backend.discard(unfinished)
        for lease in await list_leases(repository.backend):
            expired = {"backup": lease.backup, "expires_at": LONG_AGO.isoformat()}
            await put(repository.backend, lease.name, json.dumps(expired).encode())


async def require_whole(repositories: Sequence[Repository], known: frozenset[str] = frozenset()) -> frozenset[str]:
    """Every backup that is listed, but those `known` already, is whole wherever it is committed; return all ids."""
    listed = (await list_backups(repositories)).backups
    for backup in listed:
        if backup.id not in known:
            committed = {place.name for place in backup.places if place.state == "committed"}
            having = [repository for repository in repositories if repository.place in committed]
            result = await verify_backup(having, backup.id)
            assert result.state == "success", result
    return frozenset(backup.id for backup in listed)
