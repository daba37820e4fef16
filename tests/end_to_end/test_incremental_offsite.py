"""Incremental backups in two places: what is committed where, and what is made up later."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobs.sync import sync
from jobs.verify import verify_backup
from storage.backends.local import LocalBackend
from storage.repository import Repository
from tests.conftest import Bucket
from tests.following import Follower, following
from tests.places import backups_alike, s3_options, s3_place
from tests.proxy import FaultProxy
from tests.servers import Database


@pytest.fixture
async def proxy(bucket: Bucket) -> AsyncIterator[FaultProxy]:
    """What stands between us and S3."""
    target = urlsplit(bucket.endpoint_url)
    async with FaultProxy(str(target.hostname), target.port or 80) as between:
        yield between


@pytest.fixture
async def followed(database: Database, bucket: Bucket, proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[Follower]:
    """A chain that was begun on disk and in S3."""
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    async with s3_place(s3_options(bucket, f"http://127.0.0.1:{proxy.port}")) as s3:
        follower = following(database, Repository("local", LocalBackend(tmp_path)), s3)
        await follower.begin()
        yield follower


async def test_an_incremental_backup_goes_to_both_places(followed: Follower) -> None:
    await followed.change("INSERT INTO items VALUES (1)")
    local, s3 = followed.places
    assert await backups_alike(local, s3)
    for place in followed.places:
        assert await Follower(followed.database, (place,), followed.source).backed_up() == await followed.lines()


async def test_without_the_second_place_it_is_committed_with_a_warning_and_made_up_later(
    followed: Follower, proxy: FaultProxy
) -> None:
    local, s3 = followed.places
    await proxy.refuse()
    await followed.database.execute("INSERT INTO items VALUES (1)")
    result = await followed.take()
    assert (result.kind, result.state) == ("incremental", "warning")
    assert {place.name: place.state for place in result.places} == {"local": "committed", "s3": "pending"}
    await followed.change("INSERT INTO items VALUES (2)")
    await followed.require_latest()
    await proxy.heal()
    synced = await sync([local, s3])
    missing = [row.id for row in synced.lacking]
    assert len(missing) == 2
    assert await backups_alike(local, s3)
    assert (await verify_backup(followed.places, missing[-1])).state == "success"


async def test_a_window_that_is_damaged_in_one_place_is_read_from_the_other(followed: Follower) -> None:
    window = await followed.change("INSERT INTO items VALUES (1)")
    await followed.primary.backend.delete([stored.name for stored in window.objects()])
    await followed.require_latest()
