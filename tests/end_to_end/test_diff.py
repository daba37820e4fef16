"""What differs between a backup and the database now, or another backup, table by table."""

import pytest

from jobs.as_of import AsOf
from jobs.diff import KEYS_SHOWN, DiffOptions, diff_backups
from jobs.errors import NotThere
from storage.errors import NotFound
from tests import hostile
from tests.conftest import CreateDatabase
from tests.diffing import ODD, by_name, counts, diff, diff_shop
from tests.round_trip import SMALL_PIECES, Taken, back_up
from tests.servers import Database, Server, quoted
from tests.sessions import holding


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await diff_shop(create_database)


@pytest.fixture
async def taken(shop: Database) -> Taken:
    """A backup of the shop, in several pieces, before anything is done to it."""
    return await back_up(shop, copying=SMALL_PIECES)


async def test_what_was_not_touched_is_equal(shop: Database, taken: Taken) -> None:
    result = await diff(taken, shop)
    assert result.equal
    assert [(table.name, table.rows_backup, table.rows_other) for table in result.tables] == [
        (ODD, 20, 20), ("customers", 500, 500), ("events_1", 62, 62), ("events_2", 38, 38), ("notes", 50, 50),
        ("nothing", 0, 0),
    ]  # fmt: skip


async def test_a_hard_database_is_equal_to_its_backup(any_server: Server, create_database: CreateDatabase) -> None:
    database = await create_database(any_server, key="hostile", build=hostile.hard_schema(any_server.major))
    result = await diff(await back_up(database), database, keys=True)
    assert result.equal
    assert len(result.tables) > 20


async def test_rows_that_lie_elsewhere_are_equal(shop: Database, taken: Taken) -> None:
    await shop.execute("UPDATE customers SET name = name; CREATE TABLE n AS SELECT body FROM notes ORDER BY body DESC")
    await shop.execute("DROP TABLE notes; ALTER TABLE n RENAME TO notes")
    assert (await diff(taken, shop)).equal


async def test_a_part_that_is_as_it_was_is_not_read_from_storage(shop: Database, taken: Taken) -> None:
    (customers,) = (table for table in taken.manifest.tables if table.name == "customers")
    first, *others = (part.objects[0].name for part in customers.parts)
    await taken.repository.backend.delete(others)
    await shop.execute("DELETE FROM customers WHERE id = 1")
    found = by_name(await diff(taken, shop))["customers"]
    assert (counts(found), found.rows_backup, found.rows_other) == ((1, 0, 0), 500, 499)
    await taken.repository.backend.delete([first])
    with pytest.raises(NotFound):
        await diff(taken, shop)


async def test_rows_deleted_changed_and_added_are_counted_and_named(shop: Database, taken: Taken) -> None:
    await shop.execute(
        """
        DELETE FROM customers WHERE id IN (7, 70, 9); UPDATE customers SET name = NULL WHERE id = 10;
        UPDATE customers SET score = score + 0.0 WHERE id = 11; UPDATE customers SET name = name WHERE id = 12;
        INSERT INTO customers VALUES (1000), (999);
        """
    )
    customers = by_name(await diff(taken, shop, keys=True))["customers"]
    assert counts(customers) == (3, 1, 2)
    assert (customers.rows_backup, customers.rows_other, customers.equal) == (500, 499, False)
    assert customers.keys is not None
    assert customers.keys.missing == ({"id": "7"}, {"id": "9"}, {"id": "70"})
    assert customers.keys.changed == ({"id": "10"},)
    assert customers.keys.extra == ({"id": "999"}, {"id": "1000"})
    assert not customers.keys.more


async def test_composite_and_hostile_keys_are_named_as_they_are(shop: Database, taken: Taken) -> None:
    odd_table = quoted(ODD)
    await shop.execute(f"DELETE FROM {odd_table} WHERE b = 3; UPDATE {odd_table} SET \"v\tv\" = '' WHERE b = 4")
    odd = by_name(await diff(taken, shop, keys=True))[ODD]
    assert odd.keys is not None
    assert odd.keys.missing == ({"b": "3", "the=key": "tab\t, line\n, back\\slash 3"},)
    assert odd.keys.changed == ({"b": "4", "the=key": "tab\t, line\n, back\\slash 4"},)


async def test_a_table_without_a_key_is_compared_as_a_bag_of_lines(shop: Database, taken: Taken) -> None:
    await shop.execute(
        "DELETE FROM notes WHERE ctid = '(0,1)'; UPDATE notes SET body = 'other' WHERE ctid = '(0,3)';"
        "UPDATE notes SET body = body"
    )
    notes = by_name(await diff(taken, shop, keys=True))["notes"]
    assert counts(notes) == (2, 0, 1)
    assert notes.note.startswith("no primary key")
    assert notes.keys is None


async def test_a_table_that_was_dropped_is_said_though_settings_name_it(shop: Database, taken: Taken) -> None:
    await shop.execute("DROP TABLE customers")
    customers = by_name(await diff(taken, shop, patterns=("customers", "events")))["customers"]
    assert counts(customers) == (500, 0, 0)
    assert (customers.rows_backup, customers.rows_other) == (500, None)
    assert customers.note == "exists only in the backup, not live"


async def test_everything_dropped_is_no_error(shop: Database, taken: Taken) -> None:
    await shop.execute("DROP SCHEMA public CASCADE")
    result = await diff(taken, shop, patterns=())
    assert [table.rows_other for table in result.tables] == [None] * 6


async def test_a_table_that_is_new_is_said_if_settings_choose_it(shop: Database, taken: Taken) -> None:
    await shop.execute("CREATE TABLE fresh AS SELECT generate_series(1, 3); CREATE SCHEMA s; CREATE TABLE s.other ()")
    fresh = by_name(await diff(taken, shop, patterns=("*",)))["fresh"]
    assert counts(fresh) == (0, 0, 3)
    assert (fresh.rows_backup, fresh.rows_other, fresh.note) == (None, 3, "exists only live")
    assert "other" not in by_name(await diff(taken, shop, patterns=()))
    assert "other" in by_name(await diff(taken, shop))


async def test_columns_that_came_went_and_changed_are_said_and_the_rest_compared(shop: Database, taken: Taken) -> None:
    await shop.execute(
        """
        ALTER TABLE customers DROP score, ADD since date DEFAULT now(), ALTER id TYPE bigint;
        UPDATE customers SET name = 'other' WHERE id = 5;
        """
    )
    customers = by_name(await diff(taken, shop, keys=True))["customers"]
    assert counts(customers) == (0, 1, 0)
    assert customers.note == (
        "columns differ: score is only in the backup, since is only live, id is integer in the backup and bigint live;"
        " rows are compared by the columns that both have, as text"
    )
    assert customers.keys is not None
    assert customers.keys.changed == ({"id": "5"},)


async def test_a_table_with_other_columns_is_not_equal_even_if_its_rows_are(shop: Database, taken: Taken) -> None:
    await shop.execute("ALTER TABLE notes ADD since date")
    notes = by_name(await diff(taken, shop))["notes"]
    assert counts(notes) == (0, 0, 0)
    assert not notes.equal


async def test_columns_in_another_order_are_the_same(shop: Database, taken: Taken) -> None:
    await shop.execute("CREATE TABLE c AS SELECT score, name, id FROM customers; DROP TABLE customers")
    await shop.execute("ALTER TABLE c RENAME TO customers")
    assert by_name(await diff(taken, shop))["customers"].equal


async def test_a_key_column_that_is_gone_leaves_whole_lines_to_compare(shop: Database, taken: Taken) -> None:
    await shop.execute("ALTER TABLE customers RENAME id TO number; DELETE FROM customers WHERE number = 1")
    customers = by_name(await diff(taken, shop, keys=True))["customers"]
    assert counts(customers) == (1, 0, 0)
    assert "the primary key's columns are not on both sides" in customers.note


async def test_tables_can_be_chosen_and_a_partitioned_one_stands_for_its_leaves(shop: Database, taken: Taken) -> None:
    await shop.execute("DELETE FROM events WHERE id = 1; CREATE TABLE events_3 PARTITION OF events DEFAULT")
    result = await diff(taken, shop, "events", "customers")
    assert {table.name: counts(table) for table in result.tables} == {
        "customers": (0, 0, 0), "events_1": (1, 0, 0), "events_2": (0, 0, 0), "events_3": (0, 0, 0),
    }  # fmt: skip


async def test_a_chosen_table_that_is_nowhere_is_said(shop: Database, taken: Taken) -> None:
    with pytest.raises(NotThere, match="there is no table nope on either side"):
        await diff(taken, shop, "nope")


async def test_keys_are_bounded_and_it_is_said_that_there_are_more(shop: Database, taken: Taken) -> None:
    await shop.execute("TRUNCATE customers")
    customers = by_name(await diff(taken, shop, keys=True))["customers"]
    assert customers.keys is not None
    assert (customers.missing, len(customers.keys.missing), customers.keys.more) == (500, KEYS_SHOWN, True)


async def test_two_backups_are_compared(shop: Database, taken: Taken) -> None:
    await shop.execute("DELETE FROM customers WHERE id = 1; DROP TABLE notes; CREATE TABLE fresh AS SELECT 1 AS one")
    later = await back_up(shop, repository=taken.repository)
    both = (taken.manifest, later.manifest)
    one, other = (AsOf((taken.repository,), manifest, (), manifest.created_at) for manifest in both)
    result = await diff_backups(one, other, DiffOptions(keys=True))
    found = by_name(result)
    assert counts(found["customers"]) == (1, 0, 0)
    assert found["notes"].note == f"exists only in the backup, not in {later.manifest.id}"
    assert counts(found["fresh"]) == (0, 0, 1)
    assert {name for name, table in found.items() if table.equal} == {ODD, "events_1", "events_2", "nothing"}


async def test_the_live_side_is_read_at_one_moment(shop: Database, taken: Taken) -> None:
    async with holding(shop, "DELETE FROM customers; DELETE FROM notes"):
        assert (await diff(taken, shop)).equal
