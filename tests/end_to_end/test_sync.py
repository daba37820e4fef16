"""Places in step, on a real store: what checksums cost, what the command says, and a bucket that is all there is."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from jobs.sync import SyncOptions, sync
from storage.backends.local import LocalBackend
from storage.repository import Repository
from tests.conftest import Bucket, CreateDatabase
from tests.daemons import environment, running_daemon, settings_for
from tests.faults.commands import off_site, opened
from tests.manifests import ID, OTHER_ID, sound
from tests.places import Planter, backups_alike, s3_options, s3_place
from tests.programs import rowvault
from tests.proxy import FaultProxy
from tests.servers import Database
from tests.storage.helpers import MIB, payload

SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
"""
DATA = f"backups/{ID}/data/public/Orders/00000-000.copy.zst"


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="sync-shop", build=SHOP)


@pytest.fixture
async def taken(shop: Database, tmp_path: Path, bucket: Bucket) -> dict[str, str]:
    """Settings of two places that hold one backup."""
    settings = settings_for(shop, tmp_path, bucket)
    assert (await rowvault("backup", "--keep", env=environment(settings))).returncode == 0
    return settings


@pytest.fixture
async def s3(bucket: Bucket) -> AsyncIterator[Repository]:
    async with s3_place(s3_options(bucket)) as place:
        yield place


def lose_a_file(folder: Path) -> Path:
    """Remove one object of the only backup; where it was."""
    (path,) = folder.glob("backups/*/schema.sql")
    path.unlink()
    return path


async def run(*args: str, env: dict[str, str], code: int = 0) -> Any:
    done = await rowvault(*args, "--json", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_checksums_find_what_came_to_rest_differently_and_read_nothing_of_the_bucket(
    s3: Repository, tmp_path: Path
) -> None:
    """One object is so large that the store keeps the hash of its parts' hashes."""
    local = Repository("local", LocalBackend(tmp_path))
    made = sound(rows=payload(9 * MIB))
    for place in (local, s3):
        await place.bind("1", "shop")
        await made.commit(place)
    result = await sync([local, s3], SyncOptions("checksum"))
    assert (result.state, result.lacking) == ("success", ())
    at_s3 = next(cost for cost in result.costs if cost.place == "s3")
    assert at_s3.checksums == len(made.objects)
    assert at_s3.bytes_read < 10_000  # the manifest
    await Planter(s3.backend).flip(DATA)
    await Planter(s3.backend).flip(f"backups/{ID}/roles.sql")
    assert (await sync([local, s3])).lacking == ()
    result = await sync([local, s3], SyncOptions("checksum"))
    assert [(row.found, row.objects, row.done) for row in result.lacking] == [("damaged", 2, "made good")]
    assert result.state == "success"
    assert await backups_alike(local, s3)


async def test_without_another_copy_what_the_store_keeps_of_parts_is_no_use_and_it_is_read(s3: Repository) -> None:
    await s3.bind("1", "shop")
    await sound(rows=payload(9 * MIB)).commit(s3)
    result = await sync([s3], SyncOptions("checksum"))
    assert result.state == "success"
    assert result.costs[0].bytes_read > 8 * MIB
    await Planter(s3.backend).flip(DATA)
    assert (await sync([s3], SyncOptions("checksum"))).damaged == (ID,)


async def test_an_outage_in_the_middle_delays_and_loses_nothing(bucket: Bucket, tmp_path: Path) -> None:
    local = Repository("local", LocalBackend(tmp_path))
    await local.bind("1", "shop")
    for backup_id in (ID, OTHER_ID):
        await sound(backup_id, rows=payload(9 * MIB)).commit(local)
    address = urlsplit(bucket.endpoint_url)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(str(address.hostname), address.port or 80))
        options = s3_options(bucket, f"http://127.0.0.1:{proxy.port}")
        s3 = await stack.enter_async_context(s3_place(options))
        proxy.cut(after=4 * MIB)
        result = await sync([local, s3])
        assert (result.state, result.damaged) == ("failed", ())
        assert [(row.place, row.found, row.done) for row in result.lacking] == [("s3", "missing", "failed")] * 2
        assert [place.name for place in result.unreachable] == ["s3"]
        await proxy.heal()
        assert (await s3.catalogue()).entries == ()
        assert (await sync([local, s3])).state == "success"
        assert await backups_alike(local, s3)


async def test_the_command_says_what_it_found_and_did(taken: dict[str, str], tmp_path: Path) -> None:
    env = environment(taken)
    done = await rowvault("sync", env=env)
    assert (done.returncode, done.stderr) == (0, "comparing places 0 %\n")
    assert "places compared by size: success" in done.stdout
    sql = lose_a_file(tmp_path)
    planned = await run("sync", "--dry-run", env=env)
    assert [(row["place"], row["found"], row["done"]) for row in planned["backups"]] == [
        ("local", "partial", "to do"),
        ("s3", "whole", "nothing"),
    ]
    assert not sql.exists()
    mended = await run("sync", "--check", "checksum", env=env)
    assert [(row["found"], row["objects"], row["done"]) for row in mended["backups"]] == [
        ("partial", 1, "made good"),
        ("whole", 0, "nothing"),
    ]
    assert (mended["state"], mended["damaged"], sql.exists()) == ("success", [], True)
    entries = (await run("trail", env=env))["entries"]
    made_good = [one["details"]["made_good"] for one in entries if one["what"] == "sync"]
    assert made_good == [[f"{planned['backups'][0]['id']} in local: partial"]]


async def test_a_backup_that_is_damaged_in_both_places_is_exit_code_3(taken: dict[str, str], tmp_path: Path) -> None:
    async with opened(environment(taken)) as app:
        (entry,) = (await app.repositories[0].catalogue()).entries
        for repository in app.repositories:
            await repository.backend.delete([f"backups/{entry.id}/schema.sql"])
    document = await run("sync", env=environment(taken), code=3)
    assert document["damaged"] == [entry.id]
    assert entry.id in document["error"]["message"]
    done = await rowvault("sync", "--dry-run", env=environment(taken))
    assert done.returncode == 3
    assert f"{entry.id}: something of it is whole in no place" in done.stdout


async def test_the_source_may_be_away(taken: dict[str, str], tmp_path: Path) -> None:
    sql = lose_a_file(tmp_path)
    gone = environment(taken) | {"ROWVAULT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/gone"}
    assert (await run("sync", env=gone))["state"] == "success"
    assert sql.exists()


async def test_a_place_that_is_away_is_exit_code_1(taken: dict[str, str]) -> None:
    away = {"ROWVAULT_S3__ENDPOINT_URL": "http://127.0.0.1:1", "ROWVAULT_S3__RETRY_FOR": "1s"}
    document = await run("sync", env=environment(taken) | away, code=1)
    assert [place["name"] for place in document["unreachable"]] == ["s3"]


async def test_the_daemon_mends_by_itself(taken: dict[str, str], tmp_path: Path) -> None:
    sql = lose_a_file(tmp_path)
    async with running_daemon(taken) as daemon:
        line = await daemon.logged("backup made good")
        assert (line["place"], line["found"], line["state"]) == ("local", "partial", "success")
        assert sql.exists()


async def test_the_bucket_alone_brings_everything_back_on_a_new_machine(
    taken: dict[str, str], shop: Database, bucket: Bucket, create_database: CreateDatabase, tmp_path: Path
) -> None:
    env = off_site(bucket)
    (listed,) = await run("list", env=env)
    assert (listed["state"], [place["name"] for place in listed["places"]]) == ("success", ["s3"])
    assert (await run("verify", "latest", env=env))["state"] == "success"
    target = await create_database()
    await run("restore", "--to", target.dsn, "--yes", env=env)
    rows = "SELECT * FROM customers ORDER BY id"
    assert await target.fetch(rows) == await shop.fetch(rows)
    assert (await run("drill", env=env))["state"] == "success"
    folder = {"ROWVAULT_LOCAL_PATH": str(tmp_path / "new")}
    filled = await run("sync", env=env | folder)
    assert [(row["place"], row["found"], row["done"]) for row in filled["backups"]] == [
        ("local", "missing", "made good"),
        ("s3", "whole", "nothing"),
    ]
    async with opened(env | folder) as app:
        local, s3 = app.repositories
        assert await backups_alike(local, s3)
        assert await local.kept(listed["id"]) is not None
        drills = [[one.name async for one in place.backend.list("drills/")] for place in (local, s3)]
        assert len(drills[0]) == 1
        assert drills[0] == drills[1]
    assert (await run("trail", "--verify", env=env | folder))["problems"] == []
