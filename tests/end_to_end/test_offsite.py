"""The off-site copy: beside the backup if the store answers, made up later if not, and never a burden to anybody."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobs.full_backup import full_backup
from jobs.postgres.connection import Source
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import BackupResult
from jobs.sync import sync
from jobs.verify import verify_backup
from storage.backends.local import LocalBackend
from storage.backends.protocol import Upload
from storage.errors import NotFound, OutOfSpace
from storage.leases import list_leases
from storage.names import BACKUPS, MANIFESTS, REPOSITORY
from storage.repository import OtherSource, Repository
from tests.conftest import Bucket, CreateDatabase, new_bucket
from tests.places import Planter, backups_alike, contents, s3_options, s3_place
from tests.proxy import FaultProxy
from tests.round_trip import QUICK, selection
from tests.seaweed import S3Server
from tests.servers import Database
from tests.storage.helpers import names

BUILD = """
    CREATE TABLE small (id int PRIMARY KEY);
    INSERT INTO small SELECT generate_series(1, 100);
    CREATE TABLE large (id int PRIMARY KEY, noise text);
    INSERT INTO large SELECT n, (SELECT string_agg(md5(n::text || k), '') FROM generate_series(1, 30) AS k)
      FROM generate_series(1, 3000) AS n;
"""
MIB = 1 << 20


@pytest.fixture
async def source(create_database: CreateDatabase) -> Database:
    """About 1.5 MB once compressed."""
    return await create_database(key="offsite", build=BUILD)


@pytest.fixture
def local(tmp_path: Path) -> Repository:
    return Repository("local", LocalBackend(tmp_path))


@pytest.fixture(scope="module")
async def bucket(s3_server: S3Server) -> AsyncIterator[Bucket]:
    """One for all tests: SeaweedFS takes its time for a new bucket's first write."""
    async with new_bucket(s3_server) as made:
        yield made


@pytest.fixture
async def proxy(bucket: Bucket) -> AsyncIterator[FaultProxy]:
    """What stands between us and S3."""
    target = urlsplit(bucket.endpoint_url)
    assert target.hostname is not None
    assert target.port is not None
    async with FaultProxy(target.hostname, target.port) as between:
        yield between


@pytest.fixture
async def s3(bucket: Bucket, proxy: FaultProxy) -> AsyncIterator[Repository]:
    """The off-site place, by way of the proxy."""
    async with s3_place(s3_options(bucket, f"http://127.0.0.1:{proxy.port}")) as place:
        yield place


async def back_up(source: Database, *places: Repository, on_progress: OnProgress = no_progress) -> BackupResult:
    return await full_backup(Source(source.dsn), selection(), places, QUICK, on_progress)


def states(result: BackupResult) -> dict[str, str]:
    return {place.name: place.state for place in result.places}


async def lacking(local: Repository, s3: Repository) -> list[str]:
    """What the first place has and the other has not."""
    here, there = [{entry.id for entry in (await one.catalogue()).entries} for one in (local, s3)]
    return sorted(here - there)


async def made_up(local: Repository, s3: Repository, backup_id: str) -> None:
    """The place comes to have what it lacked, and it is whole."""
    assert await lacking(local, s3) == [backup_id]
    assert (await sync([local, s3])).state == "success"
    assert await lacking(local, s3) == []
    result = await verify_backup([local, s3], backup_id)
    assert (result.state, result.problems) == ("success", ())
    assert await backups_alike(local, s3)


async def test_both_places_hold_the_same_at_once(source: Database, local: Repository, s3: Repository) -> None:
    result = await back_up(source, local, s3)
    assert (result.state, states(result)) == ("success", {"local": "committed", "s3": "committed"})
    assert await backups_alike(local, s3)
    for place in (local, s3):
        assert await list_leases(place.backend) == []


async def test_an_empty_local_place_beside_a_filled_bucket_is_said(
    source: Database, local: Repository, s3: Repository, tmp_path: Path
) -> None:
    await back_up(source, local, s3)
    unmounted = Repository("local", LocalBackend(tmp_path / "elsewhere"))
    result = await back_up(source, unmounted, s3)
    assert "local held no backup, and s3 some: is a volume not mounted?" in result.warnings


async def test_a_store_that_is_away_makes_the_place_pending_and_is_made_up_later(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    await proxy.refuse()
    result = await back_up(source, local, s3)
    assert (result.state, states(result)) == ("warning", {"local": "committed", "s3": "pending"})
    assert "cannot read repository.json" in str(result.places[1].error)
    result_of_sync = await sync([local, s3])
    assert [place.name for place in result_of_sync.unreachable] == ["s3"]
    assert result_of_sync.state == "failed"
    await proxy.heal()
    await made_up(local, s3, result.id)


async def test_a_store_that_dies_in_mid_upload_shows_nothing_and_is_made_up_later(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    def die(progress: Progress) -> None:
        if progress.phase.startswith("copied"):
            proxy.cut(after=MIB // 2)

    result = await back_up(source, local, s3, on_progress=die)
    assert (result.state, states(result)) == ("warning", {"local": "committed", "s3": "pending"})
    await proxy.heal()
    assert await names(s3.backend, MANIFESTS) == []
    await made_up(local, s3, result.id)


async def test_the_next_backup_goes_off_site_though_an_earlier_one_is_pending(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    await proxy.refuse()
    first = await back_up(source, local, s3)
    await proxy.heal()
    second = await back_up(source, local, s3)
    assert second.state == "success"
    await made_up(local, s3, first.id)


async def test_a_store_that_stalls_holds_no_lock_and_no_snapshot(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    copied = asyncio.Event()

    def stall(progress: Progress) -> None:
        if progress.phase.startswith("copied"):
            proxy.stall()
            copied.set()

    backup = asyncio.create_task(back_up(source, local, s3, on_progress=stall))
    await copied.wait()
    async with asyncio.timeout(15):
        while await sessions(source):  # noqa: ASYNC110 - what is waited for gives no event
            await asyncio.sleep(0.02)
        while not (await local.catalogue()).entries:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.02)
    assert not backup.done()
    await source.execute("ALTER TABLE large ADD COLUMN added int")
    await proxy.heal()
    result = await backup
    assert (result.state, states(result)) == ("success", {"local": "committed", "s3": "committed"})


async def sessions(database: Database) -> list[tuple[str, ...]]:
    """Rowvault's own that are in a transaction, or hold a lock on a table."""
    return await database.fetch(
        """
        SELECT application_name FROM pg_stat_activity AS a WHERE application_name LIKE 'rowvault:%'
           AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL
                OR EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND locktype = 'relation'))
        """
    )


async def test_a_damaged_local_object_is_not_made_up_and_the_place_stays_pending(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    await proxy.refuse()
    result = await back_up(source, local, s3)
    await proxy.heal()
    manifest = await local.manifest(result.id)
    damaged = max(manifest.objects(), key=lambda stored: stored.bytes).name
    await Planter(local.backend).flip(damaged)
    synced = await sync([local, s3])
    assert (synced.state, synced.damaged) == ("failed", (result.id,))
    assert all(damaged in str(row.error) for row in synced.lacking)
    assert damaged not in await names(s3.backend)
    assert await lacking(local, s3) == [result.id]
    await Planter(local.backend).flip(damaged)
    await made_up(local, s3, result.id)


class Rotting(LocalBackend):
    """A disk that gives back other bytes of one table than it was given."""

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        async with aclosing(super().read(name, offset)) as blocks:
            async for block in blocks:
                yield block[::-1] if "/large/" in name else block


async def test_a_disk_that_damages_what_it_is_given_damages_nothing_off_site(
    source: Database, tmp_path: Path, s3: Repository
) -> None:
    local = Repository("local", Rotting(tmp_path))
    result = await back_up(source, local, s3)
    assert (result.state, states(result)) == ("failed", {"local": "committed", "s3": "pending"})
    assert "another SHA-256 than was promised" in str(result.places[1].error)
    assert result.verification is not None
    assert {problem.table for problem in result.verification.problems} == {"public.large"}
    assert await lacking(local, s3) == [result.id]
    assert [name for name in await names(s3.backend, BACKUPS) if "/large/" in name] == []


class Full(LocalBackend):
    """A disk that fills up."""

    full = False

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        if self.full:
            raise OutOfSpace("no space left on device")
        return await super().begin(name, sha256=sha256)


async def test_a_full_local_disk_prevents_no_off_site_copy(
    source: Database, tmp_path: Path, s3: Repository, proxy: FaultProxy
) -> None:
    disk = Full(tmp_path)
    local = Repository("local", disk)
    await proxy.refuse()
    await back_up(source, local, s3)
    await proxy.heal()
    disk.full = True
    await sync([local, s3])
    assert await backups_alike(local, s3)


async def test_what_is_there_already_is_not_sent_again(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    result = await back_up(source, local, s3)
    manifest = await local.manifest(result.id)
    await s3.backend.delete([str(manifest.name()), manifest.dump.sql.name])
    before = {stored.name: stored.modified async for stored in s3.objects(result.id)}
    await made_up(local, s3, result.id)
    after = {stored.name: stored.modified async for stored in s3.objects(result.id)}
    assert after.keys() - before.keys() == {manifest.dump.sql.name}
    assert {name: after[name] for name in before} == before


async def test_a_keep_mark_and_the_binding_are_made_up_too(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    await proxy.refuse()
    result = await back_up(source, local, s3)
    await local.keep(result.id, "the auditors want it")
    await proxy.heal()
    with pytest.raises(NotFound):
        await s3.backend.stat(REPOSITORY)
    await sync([local, s3])
    assert await s3.kept(result.id) == "the auditors want it"
    here, there = await local.identity(), await s3.identity()
    assert here is not None
    assert there is not None
    assert here.same_database(there)


async def test_nothing_is_made_up_in_a_place_of_another_database(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    await proxy.refuse()
    await back_up(source, local, s3)
    await proxy.heal()
    await s3.bind("7400000000000000001", "somebody_elses")
    with pytest.raises(OtherSource):
        await sync([local, s3])
    assert await contents(s3.backend, BACKUPS) == {}


async def test_two_who_make_up_the_same_backup_at_once_agree(
    source: Database, local: Repository, s3: Repository, proxy: FaultProxy
) -> None:
    await proxy.refuse()
    await back_up(source, local, s3)
    await proxy.heal()
    await asyncio.gather(sync([local, s3]), sync([local, s3]))
    assert await backups_alike(local, s3)
