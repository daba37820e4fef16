"""Incremental backups by comparing: what they hold, and that the newest is always what is in the database."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from jobs.as_of import opened
from jobs.chains.points import At
from jobs.copying.row_stream import AllOfThem
from jobs.copying.table_copy import CopyOptions
from jobs.errors import NotThere
from jobs.full_backup import full_backup
from jobs.incrementals import table_difference
from jobs.incrementals.key_lists import row_stream
from jobs.places.catalogue import list_backups
from jobs.postgres.catalogue import Selection
from jobs.postgres.errors import Contended
from jobs.postgres.snapshot import open_snapshot
from jobs.verify import verify_backup
from storage.increments import Difference
from storage.repository import Repository
from tests.changes import BUILD, CHANGES
from tests.conftest import CreateDatabase
from tests.following import Follower, comparing
from tests.places import ActsOn, Planter
from tests.round_trip import QUICK, memory
from tests.servers import DEFAULT_MAJOR, Servers
from tests.sessions import locked

KEYS = r"""
    CREATE TABLE texts (k text PRIMARY KEY, v int);
    INSERT INTO texts SELECT k, 1 FROM unnest(ARRAY['', 'a', 'B', 'ä', 'z', E'\\', E'\\N', E'tab\t', E'tab\t\\', E'\n',
        'aa', E'a\x01', '😀', E'\uffff', 'Z', ' ', 'long ' || repeat('x', 3000)]) k;
    CREATE TABLE pairs (a text, b boolean, c char(5), d numeric, v int, PRIMARY KEY (c, b, a, d));
    INSERT INTO pairs SELECT a, b, c, d, 1
      FROM unnest(ARRAY['', 'a', E'a\x01', E'a\tb']) a, unnest(ARRAY[true, false]) b,
        unnest(ARRAY['x', E'x\x01', 'x y']) c, unnest(ARRAY[1, 1.50, -2, 10]) d;
    CREATE TABLE moments (at timestamptz PRIMARY KEY, v int);
    INSERT INTO moments SELECT '2026-01-01'::timestamptz + n * '11 hours 11 minutes'::interval, n
      FROM generate_series(1, 50) n;
    CREATE TABLE whole_rows (v text);
    INSERT INTO whole_rows VALUES ('a'), ('a'), (NULL);
"""


@pytest.fixture(scope="module")
async def compared(servers: Servers) -> AsyncIterator[Follower]:
    """A database that is compared with its last backup. Its tests go on from each other's rows, in any order."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(BUILD + KEYS)
    follower = comparing(database)
    await follower.begin()
    yield follower
    await server.drop(database)


def changes(difference: Difference) -> dict[str, int]:
    """How much changed in each table where anything did."""
    return {table.name: table.changes for table in difference.beside.tables if table.changes}


@pytest.mark.parametrize("statements", [statements for statements, _ in CHANGES.values()], ids=CHANGES)
async def test_the_newest_backup_is_what_is_there_after(compared: Follower, statements: list[str]) -> None:
    await compared.compare(*statements)
    await compared.require_latest()


SORTED = {
    "keys of one column": ("texts", "UPDATE texts SET v = 2 WHERE k > 'a'", "DELETE FROM texts WHERE v > 1"),
    "keys of several columns": ("pairs", "UPDATE pairs SET v = 2 WHERE d > 1", "DELETE FROM pairs WHERE c = 'x'"),
    "keys that settings write differently": ("moments", "UPDATE moments SET v = 0", "DELETE FROM moments WHERE v = 0"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "written", "gone"), SORTED.values(), ids=SORTED)
async def test_keys_are_found_again_that_are(compared: Follower, table: str, written: str, gone: str) -> None:
    rows = await compared.database.value(f"SELECT count(*) FROM {table}")
    assert set(changes(await compared.compare(written))) == {table}
    await compared.require_latest()
    after = await compared.compare(gone)
    left = await compared.database.value(f"SELECT count(*) FROM {table}")
    assert changes(after) == {table: rows - left}
    await compared.require_latest()


async def test_nothing_is_stored_where_nothing_changed(compared: Follower) -> None:
    await compared.compare()
    difference = await compared.compare()
    assert (changes(difference), list(difference.objects()), difference.rows) == ({}, [], 0)


async def test_a_row_of_a_savepoint_in_a_transaction_that_was_open_is_not_lost(compared: Follower) -> None:
    async with compared.database.connect() as connection:
        await connection.execute("BEGIN; INSERT INTO parents VALUES (901)")
        await connection.execute("SAVEPOINT a; INSERT INTO parents VALUES (902); RELEASE a")
        await compared.compare("INSERT INTO parents VALUES (900)")
        await compared.require_latest()
        await connection.execute("COMMIT")
    assert changes(await compared.compare())["parents"] >= 2
    await compared.require_latest()


async def test_a_row_that_was_deleted_and_comes_back_is_there(compared: Follower) -> None:
    await compared.compare("INSERT INTO parents VALUES (910)")
    await compared.compare("DELETE FROM parents WHERE id = 910")
    await compared.require_latest()
    await compared.compare("INSERT INTO parents VALUES (910)")
    await compared.require_latest()


@pytest.mark.parametrize("upkeep", ["VACUUM FREEZE items", "VACUUM FULL items", "CLUSTER items USING items_pkey"])
async def test_upkeep_changes_nothing(compared: Follower, upkeep: str) -> None:
    await compared.compare()
    assert changes(await compared.compare(upkeep)) == {}


async def test_a_table_without_a_key_is_copied_whole_if_it_changed(compared: Follower) -> None:
    difference = await compared.compare("DELETE FROM whole_rows WHERE ctid = (SELECT min(ctid) FROM whole_rows)")
    [told] = [table for table in difference.beside.tables if table.name == "whole_rows"]
    assert (told.method, told.reason, told.changes, told.rows) == ("whole", "it has no primary key", 2, 2)
    await compared.require_latest()
    assert changes(await compared.compare("TRUNCATE whole_rows")) == {}
    await compared.require_latest()


async def test_the_list_of_keys_is_renewed_now_and_then(compared: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_difference, "RENEW_AFTER", 2)
    renewed = 0
    for number in range(4):
        difference = await compared.compare(
            f"INSERT INTO parents VALUES ({920 + number}); DELETE FROM parents WHERE id = {919 + number}"
        )
        renewed += any(table.keys for table in difference.beside.tables if table.name == "parents")
        await compared.require_latest()
    assert 1 <= renewed < 4


async def test_the_server_may_sort_keys_for_as_long_as_it_takes(compared: Follower) -> None:
    patience = CopyOptions(lost_after=0.2)
    async with (
        open_snapshot(compared.source, Selection(), QUICK.locks) as session,
        row_stream(compared.source, session.snapshot.id, "keys", memory().backend, patience) as stream,
    ):
        stored = await stream.store("SELECT 1 FROM pg_catalog.pg_sleep(0.5)", "keys", str, AllOfThem())
    assert stored.rows == 1


async def test_it_is_verified_like_any_other(compared: Follower) -> None:
    difference = await compared.compare("INSERT INTO parents VALUES (930)")
    [added] = [table.added for table in difference.beside.tables if table.added]
    stored = added.objects[0].name
    assert (await verify_backup(compared.places, difference.id)).state == "success"
    await Planter(compared.primary.backend).flip(stored)
    found = await verify_backup(compared.places, difference.id)
    assert [(problem.object, problem.kind) for problem in found.problems] == [(stored, "sha256_stored")]
    await Planter(compared.primary.backend).flip(stored)
    assert (await verify_backup(compared.places, difference.id)).state == "success"


async def test_one_that_failed_its_verification_is_not_gone_on_from(compared: Follower) -> None:
    difference = await compared.compare("UPDATE items SET note = 'lost'")
    await Planter(compared.primary.backend).truncate(next(difference.objects()).name)
    assert (await verify_backup(compared.places, difference.id)).state == "failed"
    result = await compared.take()
    assert (result.kind, difference.id in result.warnings[0]) == ("full", True)
    await compared.require_latest()


async def test_only_the_moments_of_backups_can_be_had_and_the_nearest_are_named(compared: Follower) -> None:
    before = await compared.compare("INSERT INTO parents VALUES (940)")
    then = await compared.lines()
    after = await compared.compare("DELETE FROM parents WHERE id = 940")
    assert await compared.backed_up(At(before.created_at)) == then
    [listed] = [one for one in (await list_backups(compared.places)).backups if one.id == before.id]
    assert await compared.backed_up(At(listed.created_at)) == then
    with pytest.raises(NotThere) as refused:
        await compared.backed_up(At(before.created_at + (after.created_at - before.created_at) / 2))
    assert listed.created_at.isoformat() in refused.value.hint
    with pytest.raises(NotThere):
        await compared.backed_up(At(after.created_at + timedelta(seconds=1)))


async def test_the_moment_of_the_full_backup_can_be_had_of_one_table_too(compared: Follower) -> None:
    full = await compared.primary.manifest((await compared.compare()).base or "")
    async with opened(compared.places, "", At(full.created_at), names=("parents",)) as made:
        assert (made.manifest.id, made.stale) == (full.id, ())


async def test_an_earlier_backup_is_what_was_there(compared: Follower) -> None:
    earlier = await compared.compare("INSERT INTO parents VALUES (950); UPDATE items SET note = 'then'")
    then = await compared.lines()
    await compared.compare("UPDATE items SET note = 'now'; DELETE FROM parents WHERE id = 950")
    assert await compared.backed_up(wanted=earlier.id) == then


async def test_a_full_backup_in_between_is_compared_with_in_turn(compared: Follower) -> None:
    await compared.compare("INSERT INTO parents VALUES (960)")
    full = await full_backup(compared.source, Selection(), compared.places, QUICK)
    difference = await compared.compare("DELETE FROM parents WHERE id = 960")
    assert (difference.base, difference.beside.previous) == (full.id, None)
    await compared.require_latest()


STAMPED = """
    CREATE TABLE stamped (id int PRIMARY KEY, v text, updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE unzoned (id int PRIMARY KEY, v text, updated_at timestamp NOT NULL DEFAULT now());
    INSERT INTO stamped SELECT n, 'v', now() - '1 day'::interval FROM generate_series(1, 100) n;
    INSERT INTO unzoned SELECT id, v, updated_at FROM stamped;
"""


@pytest.fixture
async def stamped(create_database: CreateDatabase) -> Follower:
    """A database that is compared by a column."""
    database = await create_database(key="stamped", build=STAMPED)
    follower = comparing(database)
    follower = replace(follower, capture=replace(follower.capture, method="timestamp"))
    await follower.begin()
    return follower


async def test_a_column_tells_of_rows_that_were_written(stamped: Follower) -> None:
    await stamped.compare(
        "UPDATE stamped SET v = 'w', updated_at = now() WHERE id < 4", "INSERT INTO stamped VALUES (200, 'new')"
    )
    await stamped.require_latest()
    difference = await stamped.compare("UPDATE stamped SET v = 'x', updated_at = now() WHERE id = 200")
    assert changes(difference)["stamped"] <= 4  # those within the overlap come again
    await stamped.require_latest()


async def test_a_transaction_that_was_open_within_the_overlap_is_not_missed(stamped: Follower) -> None:
    async with stamped.database.connect() as connection:
        await connection.execute("BEGIN; INSERT INTO stamped VALUES (201, 'late')")
        await stamped.compare("INSERT INTO stamped VALUES (202, 'soon')")
        await connection.execute("COMMIT")
    await stamped.compare()
    await stamped.require_latest()


async def test_what_a_column_cannot_tell_is_said(stamped: Follower) -> None:
    difference = await stamped.compare("UPDATE stamped SET v = 'y' WHERE id = 8")
    assert changes(difference) == {}
    assert difference.method == "timestamp"
    [warning] = [one for one in difference.warnings if "public.stamped" in one]
    assert "are not seen" in warning
    before = await stamped.backed_up()
    assert len(before["public.stamped"]) == 100
    full = await full_backup(stamped.source, Selection(), stamped.places, QUICK)
    assert full.kind == "full"
    await stamped.require_latest()


async def test_what_a_column_did_not_tell_is_found_once_it_is_no_longer_believed(stamped: Follower) -> None:
    await stamped.compare("UPDATE stamped SET v = 'y' WHERE id = 8")
    exact = replace(stamped, capture=replace(stamped.capture, method="xmin"))
    result = await exact.take()
    assert result.kind == "full"
    assert "public.stamped was followed by a column" in result.warnings[0]
    await exact.compare()
    await exact.require_latest()


async def test_rows_that_went_are_found_whatever_their_column_says(stamped: Follower) -> None:
    assert changes(await stamped.compare("DELETE FROM stamped WHERE id = 7")) == {"stamped": 1}
    await stamped.require_latest()


async def test_a_row_that_came_with_an_old_stamp_is_not_missed(stamped: Follower) -> None:
    await stamped.database.execute("DELETE FROM stamped WHERE id = 7")
    await stamped.database.execute("INSERT INTO stamped VALUES (300, 'imported', '2020-01-01')")
    result = await stamped.take()
    assert result.kind == "full"
    assert "public.stamped has a row that was not there" in result.warnings[0]
    await stamped.require_latest()


async def test_a_column_without_a_time_zone_is_not_believed(stamped: Follower) -> None:
    difference = await stamped.compare("DELETE FROM unzoned WHERE id = 7", "UPDATE unzoned SET v = 'y' WHERE id = 8")
    [told] = [table for table in difference.beside.tables if table.name == "unzoned"]
    assert (told.method, told.changes) == ("xmin", 2)
    assert "updated_at" in told.reason
    await stamped.require_latest()


async def test_somebody_who_waits_on_our_locks_gets_through_though_the_place_does_not_answer(
    create_database: CreateDatabase,
) -> None:
    may_answer = asyncio.Event()
    may_answer.set()
    database = await create_database()
    await database.execute(BUILD)
    follower = comparing(database, Repository("memory", ActsOn(".json", may_answer.wait)))
    await follower.begin()
    may_answer.clear()
    taking = asyncio.create_task(follower.take())
    await locked(database, "parents")
    async with asyncio.timeout(QUICK.locks.give_way_after + 3):
        await database.execute("BEGIN; LOCK TABLE parents IN ACCESS EXCLUSIVE MODE; ROLLBACK")
    with pytest.raises(Contended, match=r"gave way on public\.parents"):
        await taking
