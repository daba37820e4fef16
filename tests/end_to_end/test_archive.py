"""The long-term copy: of the newest verified state, in objects of its own, needing neither a source nor a chain."""

import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import zstandard

from jobs.archive import ArchiveOptions, archive
from jobs.chains.chain import chain_to
from jobs.chains.points import Through
from jobs.errors import NoPlace, NotThere
from jobs.results import BackupResult
from jobs.sync import sync
from jobs.verify import verify_backup
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject
from storage.errors import Unavailable
from storage.leases import list_leases
from storage.names import ARCHIVES, BACKUPS, MANIFESTS, is_of_an_archive
from storage.objects import get
from storage.repository import OtherSource, Repository
from storage.retention import Policy
from tests.conftest import Bucket, CreateDatabase, new_bucket
from tests.daemons import environment, running_daemon, settings_for
from tests.erasing import erased
from tests.faults.commands import opened as opened_app
from tests.following import Follower, comparing, following
from tests.keys import new_key
from tests.manifests import DUMP_FILES
from tests.places import Planter, backups_alike, contents, date_ahead
from tests.programs import rowvault
from tests.round_trip import SMALL_PIECES
from tests.seaweed import S3Server
from tests.servers import Database
from tests.storage.helpers import names

SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
    CREATE TABLE orders (id int PRIMARY KEY, total numeric);
    INSERT INTO orders SELECT n, n / 4.0 FROM generate_series(1, 3000) n;
    CREATE TABLE no_key (word text);
    INSERT INTO no_key VALUES ('first');
    CREATE TABLE nothing_yet (id int);
"""
TABLES = ("customers", "no_key", "nothing_yet", "orders")
CHANGES = (
    "UPDATE customers SET name = upper(name) WHERE id % 7 = 0",
    "DELETE FROM orders WHERE id BETWEEN 10 AND 20",
    "INSERT INTO no_key VALUES ('second')",
)


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="archive-shop", build=SHOP)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Repository, Repository]:
    return Repository("local", LocalBackend(tmp_path / "local")), Repository("s3", MemoryBackend())


@pytest.fixture
async def locked_bucket(s3_server: S3Server) -> AsyncIterator[Bucket]:
    """One that keeps versions and may lock them."""
    async with new_bucket(s3_server, ObjectLockEnabledForBucket=True) as made:
        yield made


@pytest.fixture
async def chain(shop: Database, places: tuple[Repository, Repository]) -> Follower:
    """A full backup in small parts, and an incremental one after it."""
    follower = following(shop, *places)
    follower = replace(follower, options=replace(follower.options, copying=replace(SMALL_PIECES, pages_per_part=8)))
    await follower.begin()
    await follower.change(*CHANGES)
    return follower


async def archived(places: Sequence[Repository], **options: Any) -> BackupResult:
    result = await archive(places, ArchiveOptions(**options))
    assert result is not None
    assert [await list_leases(one.backend) for one in places] == [[] for _ in places]
    return result


async def forget_all_but(result: BackupResult, places: Sequence[Repository]) -> None:
    """Lose every other backup."""
    for place in places:
        await place.backend.delete(await names(place.backend, BACKUPS))
        others = [name for name in await names(place.backend, MANIFESTS) if result.id not in name]
        await place.backend.delete(others)


async def test_it_holds_the_newest_state_and_needs_no_other_backup(chain: Follower) -> None:
    result = await archived(chain.places, label="of the week", keep=True)
    assert (result.kind, result.state) == ("archive", "success")
    assert [place.state for place in result.places] == ["committed", "committed"]
    assert await backups_alike(*chain.places)
    assert (await chain.primary.kept(result.id)) is not None
    await forget_all_but(result, chain.places)
    assert (await verify_backup(chain.places, result.id)).state == "success"
    assert await chain.backed_up() == await chain.lines()


async def test_what_did_not_change_shares_its_bytes_with_the_backup_it_comes_of(
    chain: Follower, tmp_path: Path
) -> None:
    result = await archived(chain.places)
    manifest = await chain.primary.manifest(result.id)
    shared = {
        stored.name
        for table in manifest.tables
        for part in table.parts
        for stored in part.objects
        if (tmp_path / "local" / stored.name).stat().st_nlink == 2
    }
    orders = [
        one.name for table in manifest.tables for part in table.parts for one in part.objects if "orders" in one.name
    ]
    assert 1 < len(shared.intersection(orders)) < len(orders)
    assert not [name for name in shared if "no_key" in name]
    assert all(stored.name.startswith(f"{ARCHIVES}{result.id}/") for stored in manifest.objects())


async def test_where_all_is_compared_it_holds_the_newest_state_too(
    shop: Database, places: tuple[Repository, Repository]
) -> None:
    follower = comparing(shop, *places)
    await follower.begin()
    await follower.compare(*CHANGES)
    result = await archived(places)
    await forget_all_but(result, places)
    assert await follower.backed_up() == await follower.lines()


async def test_chains_go_on_as_if_it_were_not_there(chain: Follower) -> None:
    result = await archived(chain.places)
    manifest = await chain.primary.manifest(result.id)
    assert (manifest.base, manifest.capture, manifest.gap) == (None, None, None)
    window = await chain.change("DELETE FROM orders WHERE id = 100")
    assert window.base != result.id
    found = await chain_to(chain.places, Through(window))
    assert found.base.kind == "full"
    await chain.require_latest()


async def test_of_one_state_the_schedule_makes_one_archive(chain: Follower) -> None:
    first = await archived(chain.places)
    assert await archive(chain.places, ArchiveOptions(only_newer=True)) is None
    assert (await archived(chain.places)).id != first.id
    await chain.change("DELETE FROM orders WHERE id = 100")
    newer = await archive(chain.places, ArchiveOptions(only_newer=True))
    assert newer is not None
    assert newer.created_at > first.created_at


async def test_a_state_that_a_wrong_clock_dated_years_ahead_keeps_no_later_one_from_being_archived(
    chain: Follower,
) -> None:
    await date_ahead(chain.primary, await chain.full())
    later = await chain.full()
    result = await archived(chain.places[:1], only_newer=True)
    assert result.created_at == later.created_at


async def test_a_newest_state_that_is_not_whole_gives_way_to_the_full_backup_before_it(chain: Follower) -> None:
    window = (await chain.primary.catalogue()).entries[0].id
    for place in chain.places:
        for name in await names(place.backend, f"{BACKUPS}{window}/"):
            await Planter(place.backend).flip(name)
    result = await archived(chain.places)
    (full,) = [entry for entry in (await chain.primary.catalogue()).entries if entry.kind == "full"]
    assert result.created_at == (await chain.primary.manifest(full.id)).created_at
    assert "older state" in result.warnings[-1]
    assert (await chain.primary.manifest(result.id)).archived == full.id


async def test_a_damaged_copy_is_found_at_once_and_mended_from_the_other_place(chain: Follower) -> None:
    full = (await chain.primary.catalogue()).entries[-1].id
    data = max(await names(chain.primary.backend, f"{BACKUPS}{full}/data/public/orders/"))
    await Planter(chain.primary.backend).flip(data)
    result = await archived(chain.places)
    assert result.state == "failed"
    assert (await sync(chain.places)).state == "success"
    assert (await verify_backup(chain.places, result.id)).state == "success"


async def test_what_is_known_to_be_damaged_where_it_goes_comes_from_the_other_place(chain: Follower) -> None:
    """Else every archive would be of the damaged copy, for as long as that is not mended."""
    local, s3 = chain.places
    s3.policy = Policy(weekly=0, monthly=0)
    full = (await local.catalogue()).entries[-1].id
    await Planter(local.backend).flip(max(await names(local.backend, f"{BACKUPS}{full}/data/public/orders/")))
    assert (await verify_backup(chain.places, full)).state == "failed"
    assert (await archived(chain.places)).state == "success"


class Away(MemoryBackend):
    """A store that answers no more once it is away."""

    away = False

    async def begin(self, name: str, *, sha256: str | None = None) -> Any:
        if self.away:
            raise Unavailable("nobody answers there")
        return await super().begin(name, sha256=sha256)

    async def stat(self, name: str) -> StoredObject:
        if self.away:
            raise Unavailable("nobody answers there")
        return await super().stat(name)


async def test_a_place_that_is_away_gets_it_later(shop: Database, tmp_path: Path) -> None:
    store = Away()
    places = (Repository("local", LocalBackend(tmp_path)), Repository("s3", store))
    await following(shop, *places).begin()
    store.away = True
    result = await archived(places)
    assert (result.state, [place.state for place in result.places]) == ("warning", ["committed", "pending"])
    store.away = False
    assert (await sync(places)).state == "success"
    assert await backups_alike(*places)


async def test_an_empty_folder_beside_a_filled_bucket_is_said_loudly(chain: Follower, tmp_path: Path) -> None:
    """It is most likely a volume that is not mounted."""
    elsewhere = Repository("local", LocalBackend(tmp_path / "elsewhere"))
    result = await archived((elsewhere, chain.places[1]))
    assert "local held no backup, and s3 some: is a volume not mounted?" in result.warnings
    assert not any("mounted" in warning for warning in (await archived(chain.places)).warnings)


async def test_it_goes_where_archives_are_kept_and_nowhere_else(chain: Follower) -> None:
    _, s3 = chain.places
    apart = Repository("archive", MemoryBackend(), policy=Policy(kinds=frozenset({"archive"})))
    s3.policy = Policy(kinds=frozenset({"full", "incremental"}))
    places = (*chain.places, apart)
    result = await archived(places)
    assert [(place.name, place.state) for place in result.places] == [("local", "committed"), ("archive", "committed")]
    assert await names(s3.backend, ARCHIVES) == []
    assert (await sync(places)).lacking == ()
    assert [entry.kind for entry in (await apart.catalogue()).entries] == ["archive"]
    without_folder = (s3, apart)
    assert (await archived(without_folder)).state == "success"
    s3.policy = apart.policy = Policy(weekly=0, monthly=0)
    with pytest.raises(NoPlace):
        await archive(without_folder, ArchiveOptions())


async def test_without_a_verified_backup_there_is_nothing_to_archive(places: tuple[Repository, Repository]) -> None:
    with pytest.raises(NotThere, match="passed its verification"):
        await archive(places, ArchiveOptions())


async def test_a_place_of_another_database_is_refused(chain: Follower) -> None:
    apart = Repository("archive", MemoryBackend())
    await apart.bind("1", "another")
    with pytest.raises(OtherSource):
        await archive((*chain.places[:1], apart), ArchiveOptions())
    assert not [one for one in (await chain.primary.catalogue()).entries if one.kind == "archive"]


async def test_an_encrypted_state_is_archived_encrypted_and_a_full_one_without_an_identity(
    shop: Database, tmp_path: Path
) -> None:
    key = new_key()
    backend = LocalBackend(tmp_path)
    knowing, blind = Repository("local", backend, key.keyring), Repository("local", backend)
    follower = following(shop, knowing)
    copying = replace(follower.options.copying, recipients=key.recipients)
    follower = replace(
        follower,
        options=replace(follower.options, copying=copying),
        capture=replace(follower.capture, copying=copying),
    )
    full = await follower.begin()
    assert (await archived([blind])).created_at == full.created_at
    await follower.change(*CHANGES)
    older = await archived([blind])
    assert older.created_at == full.created_at
    assert "older state" in older.warnings[-1]
    unreadable = await archived([blind], formats=("csv",))
    assert unreadable.state == "warning"
    assert "it has no export as csv" in unreadable.warnings[-1]
    newest = await archived([knowing], formats=("csv",))
    assert newest.state == "success"
    plain = [name for name in await names(backend, ARCHIVES) if not name.endswith((".age", "RESTORE.txt"))]
    assert plain == []
    await forget_all_but(newest, [knowing])
    assert await follower.backed_up() == await follower.lines()


async def test_exports_of_the_state_lie_under_it_and_are_verified_with_it(chain: Follower) -> None:
    result = await archived(chain.places, formats=("csv", "parquet"))
    assert (result.state, await backups_alike(*chain.places)) == ("success", True)
    found = await contents(chain.places[1].backend, f"{ARCHIVES}{result.id}/exports/")
    files = sorted(name.split("/exports/")[1] for name in found)
    assert files == [
        *(f"csv/{name}" for name in ("export.json", *(f"public/{table}.csv.zst" for table in TABLES))),
        *(f"parquet/{name}" for name in ("export.json", *(f"public/{table}.parquet" for table in TABLES))),
    ]
    [csv] = [data for name, data in found.items() if name.endswith("public/orders.csv.zst")]
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(csv).splitlines()
    assert len(lines) == 1 + len((await chain.lines())["public.orders"])
    [parquet] = [data for name, data in found.items() if name.endswith("public/orders.parquet")]
    assert pyarrow.parquet.read_table(io.BytesIO(parquet)).num_rows == len(lines) - 1
    await Planter(chain.primary.backend).flip(f"{ARCHIVES}{result.id}/exports/csv/public/orders.csv.zst")
    assert (await verify_backup(chain.places, result.id)).problems[0].kind == "sha256_stored"


async def test_an_erasure_makes_the_exports_of_what_it_rewrites_again(chain: Follower) -> None:
    result = await archived(chain.places, formats=("csv", "sql"))
    before = await exported(chain.primary, result.id)
    await chain.database.execute("DELETE FROM customers WHERE id = 8")
    erasure = await erased(chain, "id", "8", "customers")
    assert (result.id, 1) in {(one.backup, one.revision) for one in erasure.revisions}
    for place in chain.places:
        assert await names(place.backend, f"{ARCHIVES}{result.id}/exports/") == []
        after = await exported(place, result.id)
        assert after.keys() == before.keys()
        gone = {name: set(before[name]) - set(after[name]) for name in before if name.endswith("customers.csv.zst")}
        assert [len(lines) for lines in gone.values()] == [1]
        assert (await verify_backup([place], result.id)).state == "success"


async def exported(place: Repository, archive_id: str) -> dict[str, list[bytes]]:
    """The lines of an archive's exports that are compressed, by name."""
    manifest = await place.manifest(archive_id)
    found = {stored.name.split("/exports/")[1]: await get(place.backend, stored.name) for stored in manifest.exports}
    return {
        name: zstandard.ZstdDecompressor().decompressobj().decompress(data).splitlines()
        for name, data in found.items()
        if name.endswith(".zst")
    }


async def test_a_state_from_before_an_erasure_that_went_through_it_may_be_archived(chain: Follower) -> None:
    await chain.database.execute("DELETE FROM customers WHERE id = 8")
    erasure = await erased(chain, "id", "8", "customers")
    result = await archived(chain.places)
    assert (await chain.primary.manifest(result.id)).erasures == (erasure.id,)
    assert await chain.backed_up(wanted=result.id) == await chain.backed_up()


async def test_rows_that_are_encrypted_for_others_than_the_full_backup_are_not_archived_with_it(
    shop: Database,
) -> None:
    key = new_key()
    follower = following(shop, Repository("memory", MemoryBackend(), key.keyring))
    full = await follower.begin()
    sealed = replace(follower.capture, copying=replace(follower.capture.copying, recipients=key.recipients))
    await replace(follower, capture=sealed).change(*CHANGES)
    made = await archived(follower.places)
    assert made.created_at == full.created_at
    assert "encrypted for different recipients" in made.warnings[-1]


async def run(*args: str, env: dict[str, str], code: int = 0) -> Any:
    done = await rowvault(*args, "--json", env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_by_command_it_needs_no_source(shop: Database, tmp_path: Path, create_database: CreateDatabase) -> None:
    env = environment(settings_for(shop, tmp_path))
    await run("backup", env=env)
    env |= {"ROWVAULT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/gone"}
    made = await run("backup", "archive", "--label", "by hand", env=env)
    assert (made["kind"], made["state"], made["problems"]) == ("archive", "success", [])
    listed = await run("list", env=env)
    assert [(one["kind"], one["label"]) for one in listed] == [("full", ""), ("archive", "by hand")]
    assert (await run("show", made["id"], env=env))["archived"] == listed[0]["id"]
    target = await create_database()
    await run("restore", made["id"], "--to", target.dsn, "--yes", env=env)
    assert await target.value("SELECT count(*) FROM orders") == 3000
    entries = (await run("trail", env=env))["entries"]
    assert entries[-2]["details"]["kind"] == "archive"


async def test_one_that_no_policy_keeps_says_how_it_would_stay(shop: Database, tmp_path: Path) -> None:
    env = environment(settings_for(shop, tmp_path))
    await run("backup", env=env)
    filling, said = "~", list[str]()
    while not said:  # of one moment that with the least id fills the slot, and ids are made by chance
        made = await run("backup", "archive", env=env)
        said = [one for one in made["warnings"] if "fills no slot" in one]
        assert bool(said) == (made["id"] > filling)
        filling = min(filling, made["id"])
    assert f"rowvault keep {made['id']}" in said[0]
    kept = await run("backup", "archive", "--keep", env=env)
    assert not [one for one in kept["warnings"] if "fills no slot" in one]


async def test_in_a_bucket_of_its_own_all_of_it_is_locked_and_nothing_else(
    shop: Database, tmp_path: Path, bucket: Bucket, locked_bucket: Bucket
) -> None:
    env = environment(settings_for(shop, tmp_path, bucket))
    env |= {"ROWVAULT_ARCHIVE__BUCKET": locked_bucket.name, "ROWVAULT_ARCHIVE__STORAGE_CLASS": "STANDARD_IA"}
    env |= {"ROWVAULT_ARCHIVE__LOCK_MODE": "compliance", "ROWVAULT_ARCHIVE__LOCK_DAYS": "30"}
    full = await run("backup", env=env)
    assert [place["name"] for place in full["places"]] == ["local", "s3"]
    made = await run("backup", "archive", env=env)
    assert [(one["name"], one["state"]) for one in made["places"]] == [("local", "committed"), ("archive", "committed")]
    kinds = {one["kind"]: [place["name"] for place in one["places"]] for one in await run("list", env=env)}
    assert kinds == {"full": ["local", "s3"], "archive": ["local", "archive"]}
    assert (await run("sync", "--check", "checksum", env=env))["state"] == "success"
    assert (await run("verify", "--all", env=env))[0]["state"] == "success"
    async with opened_app(env) as app:
        apart = app.repositories[2]
        every = await names(apart.backend)
        of_it = [name for name in every if is_of_an_archive(name)]
        held = {one.name: one.until for one in await apart.backend.purge(every)}
        assert sorted(held) == sorted(of_it)
        for until in held.values():
            assert until is not None
            assert timedelta(days=29) < until - datetime.now(UTC) < timedelta(days=31)
        assert len(of_it) == len(made["tables"]) + len(DUMP_FILES) + 1
    await run("backup", "archive", env=env)
    none = {"ROWVAULT_RETENTION__WEEKLY": "0", "ROWVAULT_RETENTION__MONTHLY": "0"}
    for command in (("prune", "--dry-run"), ("prune",)):
        rows = (await run(*command, env=env | none))["backups"]
        [older] = [row for row in rows if row["place"] == "archive" and row["action"] != "keep"]
        assert (older["action"], older["held_by"][:21]) == ("hold back", "it is locked until 20")
    kept = {one["id"]: one["places"] for one in await run("list", env=env)}[older["id"]]
    assert [place["name"] for place in kept if place["state"] == "committed"] == ["archive"]


async def test_the_bucket_of_its_own_may_not_be_the_off_site_place(shop: Database, bucket: Bucket) -> None:
    env = environment(settings_for(shop, bucket=bucket)) | {"ROWVAULT_ARCHIVE__BUCKET": bucket.name}
    document = await run("list", env=env, code=2)
    assert "ROWVAULT_ARCHIVE__BUCKET" in document["error"]["message"]


async def test_what_is_wrong_with_the_bucket_of_its_own_is_told_by_the_settings_of_that(
    shop: Database, tmp_path: Path, bucket: Bucket
) -> None:
    env = environment(settings_for(shop, tmp_path, bucket)) | {"ROWVAULT_ARCHIVE__BUCKET": "there-is-none"}
    findings = (await run("doctor", env=env, code=1))["findings"]
    hints = {one["hint"] for one in findings if one["place"] == "archive" and one["state"] == "problem"}
    assert hints == {"Create it, or correct ROWVAULT_ARCHIVE__BUCKET and ROWVAULT_S3__ENDPOINT_URL."}


async def test_the_daemon_catches_up_a_missed_archive_once(shop: Database, tmp_path: Path) -> None:
    settings = settings_for(shop, tmp_path) | {"SCHEDULE__ARCHIVE": "0 3 * * 0"}
    async with running_daemon(settings) as daemon:
        await daemon.logged("archive begins")
        await daemon.metric_becomes("rowvault_job_runs_total job=weekly-archive outcome=success", 1)
        metrics = await daemon.metrics()
        assert metrics["rowvault_table_backup_rows kind=archive schema=public table=orders"] == 3000
        assert metrics["rowvault_job_last_success_timestamp_seconds job=weekly-archive"] > 1.7e9
    async with running_daemon(settings) as daemon:
        await daemon.logged("database and storage answer")
        assert (await daemon.terminate())[0] == 0
        await daemon.read_out()
        assert not daemon.all_logged("archive begins")
