"""What `kill -9` leaves of an archive, in a folder and in a bucket: all of it or nothing, and the next run sweeps."""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from jobs.places.sweep import sweep
from tests.conftest import Bucket
from tests.daemons import until
from tests.faults.commands import off_site, opened, settings_of, succeed
from tests.faults.gate import Gate, Kind, is_manifest
from tests.faults.places import Objects, accounted_for, expire_leases, files, require_whole
from tests.programs import running_rowvault, started_rowvault
from tests.servers import Database
from tests.storage.meddler import Request

MOMENTS = 3


def is_copy(request: Request) -> bool:
    """Whether it asks the store to copy an object."""
    return "x-amz-copy-source" in {name.lower() for name in request.headers}


@pytest.fixture
async def settings(bulky: Database, tmp_path: Path, bucket: Bucket) -> dict[str, str]:
    """Two places with a backup. Nothing here needs the source."""
    folder = tmp_path / "backups"
    await succeed("backup", settings=settings_of(bulky, folder) | off_site(bucket))
    return settings_of(None, folder) | off_site(bucket)


async def reached(gate: Gate) -> bool:
    return gate.reached.is_set()


async def finished(settings: dict[str, str], folder: Path, objects: Objects) -> None:
    """The next run succeeds, and leaves nothing that belongs to nobody."""
    async with opened(settings) as app:
        await expire_leases(app.repositories)
        assert (await succeed("backup", "archive", settings=settings))["state"] == "success"
        await succeed("sync", settings=settings)
        for repository in app.repositories:
            await sweep(repository)
        local, s3 = app.repositories
        assert files(folder) == await accounted_for(local)
        assert await objects.keys() == await accounted_for(s3)
        assert await objects.uploads() == set()


@pytest.mark.parametrize(
    ("kind", "after", "whole"), [(is_copy, True, 1), (is_manifest, False, 1), (is_manifest, True, 2)]
)
async def test_killed_while_the_bucket_is_at_it_there_is_all_of_it_or_nothing(
    settings: dict[str, str],
    tmp_path: Path,
    bucket: Bucket,
    objects: Objects,
    gate: Gate,
    kind: Kind,
    whole: int,
    *,
    after: bool,
) -> None:
    gate.hold(kind, after=after)
    async with running_rowvault("backup", "archive", env=settings | off_site(bucket, gate.url)) as process:
        await until(lambda: reached(gate))
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    async with opened(settings) as app:
        assert len((await app.repositories[0].catalogue()).entries) == 2
        assert len((await app.repositories[1].catalogue()).entries) == whole
        await require_whole(app.repositories)
    await finished(settings, tmp_path / "backups", objects)


async def test_killed_at_any_moment_there_is_all_of_it_or_nothing(
    settings: dict[str, str], tmp_path: Path, objects: Objects
) -> None:
    for number in range(MOMENTS):
        with started_rowvault("backup", "archive", env=settings) as command:
            try:
                await asyncio.to_thread(command.ended, (number + random.random()) / MOMENTS)
            except TimeoutError:
                await asyncio.to_thread(command.kill)
        async with opened(settings) as app:
            await require_whole(app.repositories)
            await expire_leases(app.repositories)
    await finished(settings, tmp_path / "backups", objects)
