"""The history of a row whose table is compared: each version with the backup that found it, and since when."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime

import pytest

from jobs.full_backup import full_backup
from jobs.history import History, Row, history
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.catalogue import Selection
from storage.errors import Corrupt
from storage.increments import TableDifference
from tests.conftest import CreateDatabase
from tests.following import Follower, comparing, following
from tests.places import Planter
from tests.round_trip import QUICK
from tests.servers import Database

BUILD = r"""
    CREATE TABLE items (id int PRIMARY KEY, v text);
    INSERT INTO items SELECT n, 'v' FROM generate_series(1, 100) n;
    CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (7);
    CREATE TABLE pairs (v int, a text, b text, PRIMARY KEY (b, a));
    INSERT INTO pairs VALUES (1, 'x', 'y'), (2, 'y', 'x'), (3, E'tab\t', E'\\N');
    CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, v text); INSERT INTO fleeting VALUES (7, 'v');
    CREATE TABLE stamped (id int PRIMARY KEY, v text, updated_at timestamptz NOT NULL);
    INSERT INTO stamped SELECT n, 'v', now() - '1 day'::interval FROM generate_series(1, 10) n;
"""


@pytest.fixture
async def database(create_database: CreateDatabase) -> AsyncIterator[Database]:
    """Tables of every kind; a slot that is still there is dropped before they are."""
    database = await create_database(key="history_compared", build=BUILD)
    yield database
    await database.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
    )


@pytest.fixture
async def compared(database: Database) -> Follower:
    """The database is compared with its last backup, a full one."""
    follower = comparing(database)
    await follower.begin()
    return follower


async def told(follower: Follower, table: str = "items", **key: str) -> History:
    """The history of a row, of number 7 unless said otherwise."""
    return await history(follower.places, table, key or {"id": "7"}, follower.source)


async def versions(follower: Follower, table: str = "items", **key: str) -> list[tuple[str, Row | None]]:
    return [(version.kind, version.row) for version in (await told(follower, table, **key)).versions]


def row(v: str | None, **more: str) -> Row:
    return {"id": "7", "v": v, **more}


async def full(follower: Follower) -> datetime:
    """A full backup; its moment."""
    return (await full_backup(follower.source, Selection(), follower.places, QUICK)).created_at


async def test_each_backup_that_found_the_row_otherwise_tells_a_version(compared: Follower) -> None:
    taken = [
        await compared.compare("UPDATE items SET v = 'w' WHERE id = 7"),
        await compared.compare("DELETE FROM items WHERE id = 7"),
        await compared.compare("UPDATE items SET v = 'w' WHERE id = 8"),
        await compared.compare("INSERT INTO items VALUES (7, NULL)"),
    ]
    first, *found = (await told(compared)).versions
    assert (first.kind, first.row) == ("first seen", row("v"))
    assert [(one.kind, one.row, one.changed) for one in found] == [
        ("found in a backup", row("w"), ("v",)),
        ("found in a backup", None, ()),
        ("found in a backup", row(None), ("id", "v")),
    ]
    assert [one.backup for one in found] == [taken[0].id, taken[1].id, taken[3].id]
    moments = [one.beside.moment for one in taken]
    assert [(one.after, one.at) for one in found] == [
        (first.at, moments[0]),
        (moments[0], moments[1]),
        (moments[2], moments[3]),
    ]
    assert (await told(compared)).reaches == moments[3]


async def test_each_version_comes_back_by_its_backup(compared: Follower) -> None:
    for v in ("w", "x"):
        await compared.compare(f"UPDATE items SET v = '{v}' WHERE id = 7")
    found = (await told(compared)).versions
    assert len(found) == 3
    for version in found:
        assert version.row is not None
        lines = (await compared.backed_up(wanted=version.backup))["public.items"]
        assert f"7\t{version.row['v']}".encode() in lines


async def test_a_row_that_was_written_again_as_it_was_is_no_version(compared: Follower) -> None:
    difference = await compared.compare("UPDATE items SET v = v")
    assert difference.rows == 100
    await compared.compare("DELETE FROM items WHERE id = 7", "INSERT INTO items VALUES (7, 'v')")
    assert await versions(compared) == [("first seen", row("v"))]


async def test_a_full_backup_in_between_tells_what_no_other_did(compared: Follower) -> None:
    before = await compared.compare("UPDATE items SET v = 'w' WHERE id = 7")
    await compared.database.execute("UPDATE items SET v = 'x' WHERE id = 7")
    moment = await full(compared)
    await compared.compare("UPDATE items SET v = 'y' WHERE id = 7")
    found = (await told(compared)).versions
    assert [one.row and one.row["v"] for one in found] == ["v", "w", "x", "y"]
    assert (found[2].after, found[2].at, found[3].after) == (before.created_at, moment, moment)


async def test_the_columns_of_a_key_are_found_in_its_own_order(compared: Follower) -> None:
    await compared.compare("UPDATE pairs SET v = 10 WHERE a = 'x'", "DELETE FROM pairs WHERE a LIKE 'tab%'")
    assert [one[1] and one[1]["v"] for one in await versions(compared, "pairs", a="x", b="y")] == ["1", "10"]
    assert [one[1] and one[1]["v"] for one in await versions(compared, "pairs", a="y", b="x")] == ["2"]
    assert [one[1] and one[1]["v"] for one in await versions(compared, "pairs", a="tab\t", b="\\N")] == ["3", None]


async def test_beside_the_log_a_table_is_told_by_the_moments_at_which_it_was_compared(database: Database) -> None:
    follower = following(database)
    base = await follower.begin()
    window = await follower.change("UPDATE fleeting SET v = 'w'; UPDATE items SET v = 'w' WHERE id = 7")
    assert window.beside is not None
    *_, found = (await told(follower, "fleeting")).versions
    assert (found.row, found.after, found.at) == (row("w"), base.created_at, window.beside.moment)
    assert [one[0] for one in await versions(follower)] == ["first seen", "update"]


async def test_a_row_is_told_through_a_log_that_is_given_up_and_begun_again(database: Database) -> None:
    log = following(database)
    by_comparing = replace(log, capture=CaptureOptions(method="xmin"))
    await log.begin()
    await log.change("UPDATE items SET v = 'a' WHERE id = 7")
    await database.execute("UPDATE items SET v = 'b' WHERE id = 7")
    await by_comparing.begin()
    await by_comparing.compare("UPDATE items SET v = 'c' WHERE id = 7")
    await log.begin()
    await log.change("UPDATE items SET v = 'd' WHERE id = 7")
    found = "found in a backup"
    assert [(kind, one and one["v"]) for kind, one in await versions(log)] == [
        ("first seen", "v"), ("update", "a"), (found, "b"), (found, "c"), ("update", "d"),
    ]  # fmt: skip


async def test_what_a_column_did_not_tell_may_have_been_at_any_time_since_the_full_backup(database: Database) -> None:
    follower = replace(comparing(database), capture=CaptureOptions(method="timestamp"))
    base = await follower.begin()
    await follower.compare("UPDATE stamped SET v = 'w', updated_at = '2100-01-01' WHERE id = 7")
    await follower.compare("UPDATE stamped SET v = 'x' WHERE id = 8")
    moment = await full(follower)
    seven, eight = await told(follower, "stamped"), await told(follower, "stamped", id="8")
    assert [one.row and one.row["v"] for one in seven.versions] == ["v", "w"]
    assert [one.row and one.row["v"] for one in eight.versions] == ["v", "x"]
    assert (eight.versions[-1].after, eight.versions[-1].at) == (base.created_at, moment)
    [note] = eight.notes
    assert "public.stamped was followed by a column" in note
    assert (await told(follower, "others")).notes == ()


async def test_only_what_became_of_its_table_is_read(compared: Follower) -> None:
    difference = await compared.compare("UPDATE others SET id = 8; UPDATE items SET v = 'w' WHERE id = 7")
    for part in part_names(difference.beside.tables, "others"):
        await Planter(compared.primary.backend).delete(part)
    assert [one[1] for one in await versions(compared)] == [row("v"), row("w")]


async def test_what_is_stored_of_its_table_is_said_to_be_damaged_and_not_skipped(compared: Follower) -> None:
    difference = await compared.compare("DELETE FROM items WHERE id = 8")
    [part] = part_names(difference.beside.tables, "items")
    await Planter(compared.primary.backend).flip(part)
    with pytest.raises(Corrupt):
        await told(compared)


async def test_a_backup_in_between_whose_manifest_is_damaged_ends_it_until_the_next_full_one(
    compared: Follower,
) -> None:
    before = await compared.compare("UPDATE items SET v = 'a' WHERE id = 7")
    damaged = await compared.compare("UPDATE items SET v = 'b' WHERE id = 7")
    await compared.compare("UPDATE items SET v = 'c' WHERE id = 7")
    await compared.database.execute("UPDATE items SET v = 'd' WHERE id = 7")
    [manifest] = [one.manifest for one in (await compared.primary.catalogue()).entries if one.id == damaged.id]
    await Planter(compared.primary.backend).flip(manifest)
    assert (await told(compared)).reaches == before.created_at
    await full(compared)
    found = await told(compared)
    assert [one.row and one.row["v"] for one in found.versions] == ["v", "a", "d"]
    assert found.versions[-1].after == before.created_at
    assert any(damaged.id in note for note in found.notes)


def part_names(tables: tuple[TableDifference, ...], name: str) -> list[str]:
    """The objects that hold what became of a table."""
    return [stored.name for table in tables if table.name == name for part in table.stored() for stored in part.objects]
