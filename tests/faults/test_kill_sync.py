"""What `kill -9` leaves while places are reconciled: whole backups or none, and the next run goes on."""

import asyncio
import random
import shutil
import signal
from pathlib import Path

import pytest

from jobs.places.sweep import sweep
from tests.conftest import Bucket
from tests.daemons import until
from tests.faults.commands import off_site, opened, settings_of, succeed
from tests.faults.gate import Gate, Kind, is_manifest, is_part
from tests.faults.places import expire_leases, require_whole
from tests.places import backups_alike
from tests.programs import running_rowvault, started_rowvault
from tests.servers import Database

MOMENTS = 3


@pytest.fixture
async def settings(bulky: Database, tmp_path: Path, bucket: Bucket) -> dict[str, str]:
    """Two places, of which the first has a backup. Nothing here needs the source."""
    folder = tmp_path / "backups"
    await succeed("backup", settings=settings_of(bulky, folder))
    return settings_of(None, folder) | off_site(bucket)


async def finished(settings: dict[str, str]) -> None:
    """The next run makes everything good, and a sweep finds nothing that belongs to nobody."""
    async with opened(settings) as app:
        await expire_leases(app.repositories)
        assert (await succeed("sync", settings=settings))["state"] == "success"
        local, s3 = app.repositories
        assert await backups_alike(local, s3)
        for repository in app.repositories:
            await sweep(repository)
            assert [one async for one in repository.backend.unfinished("backups/")] == []


@pytest.mark.parametrize(
    ("kind", "after", "committed"), [(is_part, False, 0), (is_manifest, False, 0), (is_manifest, True, 1)]
)
async def test_killed_while_it_copies_it_leaves_whole_backups_and_the_next_run_goes_on(
    settings: dict[str, str], bucket: Bucket, gate: Gate, kind: Kind, committed: int, *, after: bool
) -> None:
    gate.hold(kind, after=after)
    async with running_rowvault("sync", env=settings | off_site(bucket, gate.url)) as process:
        await until(lambda: reached(gate))
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    async with opened(settings) as app:
        assert len((await app.repositories[1].catalogue()).entries) == committed
        await require_whole(app.repositories)
    await finished(settings)


async def reached(gate: Gate) -> bool:
    return gate.reached.is_set()


@pytest.mark.parametrize("emptied", ["local", "s3"])
async def test_killed_at_any_moment_it_leaves_whole_backups_and_the_next_run_goes_on(
    settings: dict[str, str], tmp_path: Path, emptied: str
) -> None:
    if emptied == "local":
        await succeed("sync", settings=settings)
        await asyncio.to_thread(shutil.rmtree, tmp_path / "backups")
    for number in range(MOMENTS):
        with started_rowvault("sync", env=settings) as command:
            try:
                await asyncio.to_thread(command.ended, (number + random.random()) * 1.2 / MOMENTS)
            except TimeoutError:
                await asyncio.to_thread(command.kill)
        async with opened(settings) as app:
            await require_whole(app.repositories)
            await expire_leases(app.repositories)
    await finished(settings)
