"""Retention under fire: killed at any step nothing is lost; an outage delays it; readers and writers are respected."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.places.sweep import sweep
from storage.names import BACKUPS
from storage.repository import Repository
from tests.conftest import Bucket, CreateDatabase
from tests.daemons import until
from tests.faults.commands import DONE, IMPATIENT, REFUSED, document, off_site, opened, refuse, settings_of, succeed
from tests.faults.gate import Gate
from tests.faults.places import expire_leases
from tests.manifests import ID, SYSTEM, MadeUp, made_up_full
from tests.places import contents
from tests.programs import Process, rowvault, running_rowvault
from tests.proxy import FaultProxy
from tests.storage.meddler import Request

DAY = 86_400
POLICY = {"ROWVAULT_RETENTION__DAILY": "2", "ROWVAULT_RETENTION__INCREMENTAL_DAYS": "1"}


def fulls(count: int) -> list[MadeUp]:
    """Full backups of as many days, the newest of which is long ago."""
    return [made_up_full(day * DAY, since=day * 1000, lsn=day * 1000 + 10) for day in range(count)]


async def committed(backups: Sequence[MadeUp], *places: Repository) -> None:
    for place in places:
        await place.bind(SYSTEM, "shop")
        for one in backups:
            await one.commit(place)
            await place.record_verification(one.manifest.id, "success", {})


def ids(backups: Sequence[MadeUp]) -> set[str]:
    return {one.manifest.id for one in backups}


async def left(place: Repository) -> set[str]:
    return {entry.id for entry in (await place.catalogue()).entries}


def deleting(number: int) -> Callable[[Request], bool]:
    """The so-manieth request that deletes what is no lease."""
    seen = 0

    def is_it(request: Request) -> bool:
        nonlocal seen
        if not (request.method == "POST" and "delete" in request.query and b"leases/" not in request.body):
            return False
        seen += 1
        return seen == number

    return is_it


async def at_the_gate(gate: Gate, process: Process) -> None:
    async def reached() -> bool:
        assert process.returncode is None, (await process.communicate())[1].decode()
        return gate.reached.is_set()

    await until(reached)


async def require_listed_ones_whole(place: Repository) -> set[str]:
    """Each listed backup has all its objects; which are listed."""
    listed = await left(place)
    for backup_id in listed:
        there = {stored.name async for stored in place.objects(backup_id)}
        assert {stored.name for stored in (await place.backup(backup_id)).objects()} <= there
    return listed


@pytest.mark.parametrize(("step", "after"), [(1, False), (1, True), (2, False), (3, True), (4, False)])
async def test_killed_at_any_step_nothing_is_lost_and_the_next_run_goes_on(
    tmp_path: Path, bucket: Bucket, gate: Gate, step: int, after: bool
) -> None:
    """Step 1 deletes manifests, 2 records, the rest objects."""
    backups = fulls(4)
    places = POLICY | {"ROWVAULT_LOCAL_PATH": str(tmp_path)}
    settings = places | off_site(bucket)
    async with opened(settings) as app:
        await committed(backups, *app.repositories)
        gate.hold(deleting(step), after=after)
        async with running_rowvault("prune", env=places | off_site(bucket, gate.url)) as process:
            await at_the_gate(gate, process)
            process.kill()
            assert await process.wait() == -signal.SIGKILL
        for place in app.repositories:
            assert await require_listed_ones_whole(place) >= ids(backups[2:])
        await expire_leases(app.repositories)
        assert (await succeed("prune", settings=settings))["state"] == "success"
        for place in app.repositories:
            await sweep(place)
            names = await contents(place.backend)
            assert {name.split("/")[1] for name in names if name.startswith(BACKUPS)} == ids(backups[2:])
            assert await require_listed_ones_whole(place) == ids(backups[2:])


async def test_an_outage_keeps_what_the_other_place_may_lack_and_loses_nothing(
    tmp_path: Path, bucket: Bucket, proxy: FaultProxy
) -> None:
    backups = fulls(5)
    places = POLICY | IMPATIENT | {"ROWVAULT_LOCAL_PATH": str(tmp_path), "ROWVAULT_S3__RETENTION__DAILY": "4"}
    settings = places | off_site(bucket, f"http://127.0.0.1:{proxy.port}")
    async with opened(places | off_site(bucket)) as app:
        local, s3 = app.repositories
        await committed(backups, local)
        await committed(backups[3:], s3)
        await proxy.refuse()
        result = await succeed("prune", settings=settings)
        assert (result["state"], [place["name"] for place in result["unreachable"]]) == ("warning", ["s3"])
        assert await left(local) == ids(backups[1:])
        assert (await succeed("prune", settings=places | off_site(bucket)))["state"] == "warning"
        assert await left(local) == ids(backups[1:])
        await committed(backups[1:3], s3)
        assert (await succeed("prune", settings=places | off_site(bucket)))["state"] == "success"
        assert (await left(local), await left(s3)) == (ids(backups[3:]), ids(backups[1:]))


async def test_who_prunes_and_who_writes_keep_out_of_each_others_way(tmp_path: Path) -> None:
    settings = POLICY | {"ROWVAULT_LOCAL_PATH": str(tmp_path)}
    async with opened(settings) as app:
        (place,) = app.repositories
        await committed(fulls(3), place)
        for leased in ("jobs", ID):
            lease = await place.lease(leased, "full backup")
            error = await refuse("prune", settings=settings, code=REFUSED, together=False)
            assert error["message"].startswith("another job is running: full backup on ")
            await lease.release()
        assert len(await left(place)) == 3
        assert (await rowvault("prune", env=settings)).returncode == DONE
        assert len(await left(place)) == 2


async def test_no_backup_is_written_beside_a_job_that_has_no_source(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    notes = await create_database(key="few notes", build="CREATE TABLE notes AS SELECT 1 AS n")
    settings = settings_of(notes, tmp_path)
    async with opened(settings) as app:
        (place,) = app.repositories
        lease = await place.lease("jobs", "prune")
        error = await refuse("backup", settings=settings, code=REFUSED)
        assert error["message"].startswith("another job is running: prune on ")
        assert not await left(place)
        await lease.release()
        assert (await succeed("backup", settings=settings))["state"] == "success"


async def test_a_command_whose_backup_is_pruned_under_it_ends_as_if_there_were_none(
    tmp_path: Path, bucket: Bucket, gate: Gate
) -> None:
    backups = fulls(3)
    gone = backups[0].manifest.id
    settings = POLICY | off_site(bucket)
    async with opened(settings) as app:
        await committed(backups, *app.repositories)
        gate.hold(lambda request: request.method == "GET" and f"{BACKUPS}{gone}/" in request.path)
        arguments = ("export", gone, "--format", "csv", "--out", str(tmp_path / "out"), "--json")
        reading = asyncio.create_task(rowvault(*arguments, env=POLICY | off_site(bucket, gate.url)))
        await asyncio.wait_for(gate.reached.wait(), 30)
        await expire_leases(app.repositories)
        assert len((await succeed("prune", settings=settings))["backups"]) == 3
        gate.open()
        answer = await reading
        assert answer.returncode == 4, answer.stdout + answer.stderr
        assert document(answer)["error"]["message"] == f"backup {gone} was removed while it was being read"
