"""What `kill -9` leaves, whenever it comes: whole backups or none, and nothing that the next run does not sweep."""

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from daemon.places import LOCAL
from jobs.places.sweep import sweep
from storage.repository import Repository
from tests.conftest import Bucket
from tests.daemons import PATIENCE, until
from tests.faults.commands import off_site, opened, settings_of, succeed
from tests.faults.gate import Gate, is_manifest, is_part
from tests.faults.places import Objects, accounted_for, expire_leases, files, matches, require_whole
from tests.programs import Process, running_rowvault, started_rowvault
from tests.servers import Database

MOMENTS = 20
SLOWLY = "20MB"

Places = Literal["disk", "bucket", "both"]


@dataclass(frozen=True)
class Scene:
    """A source, a folder, a bucket, and the gate before it."""

    source: Database
    folder: Path
    bucket: Bucket
    objects: Objects
    gate: Gate

    def settings(self, places: Places, *, gated: bool = False) -> dict[str, str]:
        """What a run is told."""
        made = settings_of(self.source, None if places == "bucket" else self.folder)
        if places != "disk":
            made |= off_site(self.bucket, self.gate.url if gated else None)
        return made

    async def locked_sessions(self, pattern: str) -> int:
        """How many of our sessions of that name hold or wait for a lock on a table, or the job lock."""
        return int(
            await self.source.value(
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE locktype IN ('relation', 'advisory') AND application_name LIKE $1 AND datname = $2",
                pattern,
                self.source.name,
            )
        )

    async def leftovers(self, repositories: Sequence[Repository]) -> set[str]:
        """All that lies in the places and belongs to no whole backup."""
        found: set[str] = set()
        for repository in repositories:
            known = await accounted_for(repository)
            if repository.place == LOCAL:
                found |= files(self.folder) - known
            else:
                found |= await self.objects.uploads() | (await self.objects.keys() - known)
        return found


@pytest.fixture
def scene(bulky: Database, tmp_path: Path, bucket: Bucket, objects: Objects, gate: Gate) -> Scene:
    return Scene(bulky, tmp_path / "backups", bucket, objects, gate)


async def waits_for_a_lock(scene: Scene, process: Process) -> None:
    async with scene.source.connect() as application, application.transaction():
        await application.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        ours = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass)"

        async def waits() -> bool:
            return bool(await application.fetchval(ours))

        await until(waits)
        process.kill()


async def copies_to_disk(scene: Scene, process: Process) -> None:
    await _appears(scene.folder, "backups/*/data/public/orders/*.tmp-*")
    process.kill()


async def uploads_a_part(scene: Scene, process: Process) -> None:
    scene.gate.hold(is_part)
    await _at_the_gate(scene, process)
    assert await scene.objects.uploads()
    process.kill()


async def has_copied_everything_to_disk(scene: Scene, process: Process) -> None:
    await _appears(scene.folder, "backups/*/data/public/orders/*.zst")
    await asyncio.to_thread(_kill_once_there, process.pid, scene.folder, "backups/*/RESTORE.txt")


async def has_written_the_manifest_to_disk(scene: Scene, process: Process) -> None:
    await _appears(scene.folder, "manifests/*.json")
    process.kill()


async def writes_the_manifest_to_s3(scene: Scene, process: Process) -> None:
    scene.gate.hold(is_manifest)
    await _at_the_gate(scene, process)
    process.kill()


async def has_written_the_manifest_to_s3(scene: Scene, process: Process) -> None:
    scene.gate.hold(is_manifest, after=True)
    await _at_the_gate(scene, process)
    process.kill()


async def _at_the_gate(scene: Scene, process: Process) -> None:
    async def reached() -> bool:
        assert process.returncode is None, (await process.communicate())[1].decode()
        return scene.gate.reached.is_set()

    await until(reached)


async def _appears(folder: Path, pattern: str) -> None:
    async def there() -> bool:
        return matches(folder, pattern)

    await until(there)


def _kill_once_there(pid: int, folder: Path, pattern: str) -> None:
    """Kill at the very moment a file is there; the manifest follows it within some thousandths of a second."""
    deadline = time.monotonic() + 30
    while not matches(folder, pattern) and time.monotonic() < deadline:
        pass
    os.kill(pid, signal.SIGKILL)


Phase = Callable[[Scene, Process], Awaitable[None]]
PHASES: list[tuple[Phase, Places, set[int]]] = [
    (waits_for_a_lock, "disk", {0}),
    (copies_to_disk, "disk", {0}),
    (uploads_a_part, "bucket", {0}),
    (uploads_a_part, "both", {0, 1}),
    (has_copied_everything_to_disk, "disk", {0, 1}),
    (has_written_the_manifest_to_disk, "disk", {1}),
    (writes_the_manifest_to_s3, "bucket", {0}),
    (has_written_the_manifest_to_s3, "bucket", {1}),
    (writes_the_manifest_to_s3, "both", {1}),
]
"""In which phase a run is killed, where its backups go, and how many backups there may be then."""


@pytest.mark.parametrize(
    ("phase", "places", "committed"), PHASES, ids=[f"{phase.__name__}-{places}" for phase, places, _ in PHASES]
)
async def test_killed_in_any_phase_it_leaves_no_partial_backup_and_the_next_run_sweeps(
    scene: Scene, phase: Phase, places: Places, committed: set[int]
) -> None:
    settings = scene.settings(places)
    slowly = scene.settings(places, gated=True) | {"ROWVAULT_RATE_LIMIT": SLOWLY}
    async with running_rowvault("backup", env=slowly) as process:
        await phase(scene, process)
        assert await process.wait() == -signal.SIGKILL
    async with opened(settings) as app:
        assert len(await require_whole(app.repositories)) in committed
        await expire_leases(app.repositories)
        assert (await succeed("backup", settings=settings))["state"] == "success"
        assert await scene.leftovers(app.repositories) == set()


@pytest.mark.timeout(600)
async def test_killed_at_twenty_moments_it_leaves_no_partial_backup_and_the_next_run_sweeps(scene: Scene) -> None:
    settings = scene.settings("both")
    duration = await _duration(scene, settings)
    async with opened(settings) as app:
        whole = await require_whole(app.repositories)
        for number in range(MOMENTS):
            await _kill_after(scene, settings, duration * (number + random.random()) / MOMENTS)
            whole = await require_whole(app.repositories, whole)
            await expire_leases(app.repositories)
        assert (await succeed("backup", settings=settings))["state"] == "success"
        assert await scene.leftovers(app.repositories) == set()
    listed, verified = await asyncio.gather(
        succeed("list", settings=settings), succeed("verify", "--all", settings=settings)
    )
    assert len(listed) == len(verified) == len(whole) + 1


async def _kill_after(scene: Scene, settings: dict[str, str], seconds: float) -> None:
    """Kill a run so many seconds after it took the job lock, if it has not ended by then."""
    with started_rowvault("backup", env=settings) as command:
        await _begins(scene)
        try:
            await asyncio.to_thread(command.ended, seconds)
        except TimeoutError:
            await asyncio.to_thread(command.kill)
    await _released(scene)


async def _begins(scene: Scene) -> None:
    async def locked() -> bool:
        return await scene.locked_sessions("rowvault: full backup% lock") > 0

    await until(locked)


async def _released(scene: Scene) -> None:
    """Wait until the server has noticed that a run is no more."""

    async def released() -> bool:
        return await scene.locked_sessions("rowvault: %") == 0

    await until(released)


async def _duration(scene: Scene, settings: dict[str, str]) -> float:
    """How long a run takes from the job lock to its end."""
    with started_rowvault("backup", env=settings) as command:
        await _begins(scene)
        began = time.monotonic()
        assert (await asyncio.to_thread(command.ended, PATIENCE)).returncode == 0
        return time.monotonic() - began


async def test_what_another_replica_is_uploading_is_not_swept(scene: Scene) -> None:
    settings = scene.settings("bucket")
    scene.gate.hold(is_part)
    async with running_rowvault("backup", env=scene.settings("bucket", gated=True)) as other:
        await _at_the_gate(scene, other)
        await _suspend(scene, other)
        begun, there = await scene.objects.uploads(), await scene.objects.keys()
        await succeed("backup", settings=settings)
        assert begun
        assert begun <= await scene.objects.uploads()
        assert there <= await scene.objects.keys()
        other.send_signal(signal.SIGCONT)
        _, errors = await other.communicate()
        assert other.returncode == 1
        assert re.search(b"the session that holds the (job lock|snapshot) was lost", errors)  # whichever is seen first
    async with opened(settings) as app:
        assert await scene.leftovers(app.repositories) == set()


async def _suspend(scene: Scene, process: Process) -> None:
    """Stop a process as a machine that sleeps does, until its connections are given up for dead."""
    process.send_signal(signal.SIGSTOP)
    ours = "FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'rowvault: %'"
    await scene.source.execute(f"SELECT pg_terminate_backend(pid) {ours}", scene.source.name)
    await _released(scene)


async def test_a_minute_after_its_lease_was_renewed_last_a_killed_upload_is_swept(scene: Scene) -> None:
    async with running_rowvault("backup", env=scene.settings("bucket", gated=True)) as process:
        await uploads_a_part(scene, process)
    async with opened(scene.settings("bucket")) as app:
        (repository,) = app.repositories
        assert (await sweep(repository)).removed == 0
        assert (await sweep(repository, datetime.now(UTC) + timedelta(seconds=61))).removed > 0
        assert await scene.leftovers(app.repositories) == set()
