"""What differs between a backup and the database now, or another backup, table by table."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.app import open_app
from daemon.settings.load import load_settings
from jobs.as_of import AsOf
from jobs.diff import KEYS_SHOWN, DiffOptions, DiffResult, TableDiff, diff_backups, diff_live
from jobs.errors import NotThere
from jobs.postgres.connection import Source
from jobs.postgres.errors import ConnectionLost, Contended, MissingPrivilege
from jobs.postgres.snapshot import LockLimits
from jobs.progress import Progress
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.errors import Corrupt, NotFound
from storage.manifest import Manifest
from storage.repository import Repository
from tests import hostile
from tests.conftest import CreateDatabase
from tests.daemons import environment, settings_for
from tests.faults.commands import refuse
from tests.places import DAMAGES, Planter, contents
from tests.programs import rowvault
from tests.round_trip import EVERYTHING, SMALL_PIECES, Taken, back_up, memory, selection
from tests.servers import Database, Server, quoted
from tests.sessions import end_session, holding, sessions, until

LIMITS = LockLimits(lock_timeout=1.0, give_way_after=0.4, lost_after=3)
SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text, score numeric);
    INSERT INTO customers SELECT n, 'customer ' || n, n / 7.0 FROM generate_series(1, 500) n;
    CREATE TABLE "Odd. ""table"" here" ("the=key" text, b int, "v\tv" text, PRIMARY KEY (b, "the=key"));
    INSERT INTO "Odd. ""table"" here" SELECT E'tab\\t, line\\n, back\\\\slash ' || n, n, md5(n::text)
      FROM generate_series(1, 20) n;
    CREATE TABLE notes (body text);
    INSERT INTO notes SELECT 'note ' || n % 5 FROM generate_series(1, 50) n;
    CREATE TABLE events (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    INSERT INTO events SELECT n, date '2026-01-01' + n % 50 FROM generate_series(1, 100) n;
    CREATE TABLE nothing (id int PRIMARY KEY);
"""
ODD = 'Odd. "table" here'


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="diff_shop", build=SHOP)


@pytest.fixture
async def taken(shop: Database) -> Taken:
    """A backup of the shop, in several pieces, before anything is done to it."""
    return await back_up(shop, copying=SMALL_PIECES)


async def diff(
    taken: Taken, live: Database, *tables: str, keys: bool = False, patterns: tuple[str, ...] = EVERYTHING
) -> DiffResult:
    return await diff_live(
        [taken.repository], taken.manifest, Source(live.dsn), selection(patterns), LIMITS, DiffOptions(tables, keys)
    )


def by_name(result: DiffResult) -> dict[str, TableDiff]:
    return {table.name: table for table in result.tables}


def counts(table: TableDiff) -> tuple[int, int, int]:
    return table.missing, table.changed, table.extra


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


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_object_is_never_compared(shop: Database, taken: Taken, damage: str) -> None:
    await plant(taken.manifest, taken.repository, damage)
    await shop.execute(TOUCHED)
    with pytest.raises(NotFound if damage == "deleted" else Corrupt):
        await diff(taken, shop)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_table_that_is_damaged_in_one_place_is_read_from_the_other(
    shop: Database, taken: Taken, damage: str
) -> None:
    other = memory()
    for name, data in (await contents(taken.repository.backend)).items():
        await Planter(other.backend).put(name, data)
    await plant(taken.manifest, taken.repository, damage)
    await shop.execute(TOUCHED)
    result = await diff_live(
        [taken.repository, other], taken.manifest, Source(shop.dsn), selection(EVERYTHING), LIMITS, DiffOptions()
    )
    assert result.equal


async def test_a_place_that_lacks_the_backup_is_passed_over(shop: Database, taken: Taken) -> None:
    await shop.execute("DELETE FROM customers WHERE id = 7")
    places = [memory(), taken.repository]
    live = Source(shop.dsn)
    result = await diff_live(places, taken.manifest, live, selection(EVERYTHING), LIMITS, DiffOptions())
    assert counts(by_name(result)["customers"]) == (1, 0, 0)
    with pytest.raises(NotFound):
        await diff_live(places[:1], taken.manifest, live, selection(EVERYTHING), LIMITS, DiffOptions())


TOUCHED = "UPDATE customers SET name = name"  # the rows are as before, and lie elsewhere, so all parts have to be read


async def plant(manifest: Manifest, place: Repository, damage: str) -> None:
    """Damage the last object of a table, so that others of it were read already."""
    (customers,) = (table for table in manifest.tables if table.name == "customers")
    await DAMAGES[damage][0](Planter(place.backend), customers.parts[-1].objects[-1].name)


class Silent(MemoryBackend):
    """A place that begins to send a table's rows, and then sends no more."""

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        first = await anext(aiter(super().read(name, offset)))
        yield first[:20]
        await asyncio.Event().wait()


@pytest.fixture
async def unfinished(shop: Database, taken: Taken, tmp_path: Path) -> AsyncIterator[asyncio.Task[DiffResult]]:
    """A comparison that has read the live side, and waits for the backup; temporary files in a folder of its own."""
    place = Repository("silent", Silent())
    for name, data in (await contents(taken.repository.backend)).items():
        await Planter(place.backend).put(name, data)
    await shop.execute(TOUCHED)
    options = DiffOptions(("customers",), scratch=tmp_path)
    comparing = asyncio.create_task(
        diff_live([place], taken.manifest, Source(shop.dsn), selection(), LIMITS, options)
    )  # fmt: skip
    await until(lambda: reading(tmp_path, comparing))
    quiet = "state = 'idle in transaction' AND clock_timestamp() - state_change > interval '300 ms'"
    await until(lambda: sessions(shop, "diff", quiet))
    yield comparing
    assert comparing.done()


def open_in(folder: Path) -> list[str]:
    """Files of a folder that this process has open, with names or without."""
    links = (str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return [target for target in links if target.startswith(f"{folder}/")]


async def reading(folder: Path, comparing: asyncio.Task[DiffResult]) -> bool:
    """Whether rows are being spread over temporary files."""
    assert not comparing.done()
    return len(open_in(folder)) == 2


async def our_sessions_are_gone(database: Database) -> None:
    async def none_left() -> bool:
        return not await sessions(database, "%")

    await until(none_left)


async def test_a_cancelled_comparison_leaves_no_file_and_no_session(
    shop: Database, unfinished: asyncio.Task[DiffResult], tmp_path: Path
) -> None:
    assert len(open_in(tmp_path)) == 2
    unfinished.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unfinished
    assert open_in(tmp_path) == []
    await our_sessions_are_gone(shop)


async def test_whoever_waits_on_the_locks_goes_first(
    shop: Database, unfinished: asyncio.Task[DiffResult], tmp_path: Path
) -> None:
    async with asyncio.timeout(LIMITS.give_way_after + 3):
        await shop.execute("ALTER TABLE customers ADD later int")
    with pytest.raises(Contended, match=r"gave way on public\.customers"):
        await unfinished
    assert open_in(tmp_path) == []


async def test_it_begins_again_after_it_gave_way(shop: Database, taken: Taken) -> None:
    again = asyncio.Event()

    def hear(progress: Progress) -> None:
        if "beginning again after attempt 1" in progress.phase:
            again.set()

    async with holding(shop, "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE") as session:
        source, options = Source(shop.dsn), DiffOptions(attempts=2)
        comparing = asyncio.create_task(
            diff_live([taken.repository], taken.manifest, source, selection(), LIMITS, options, hear)
        )
        await again.wait()
        await session.execute("COMMIT")
    assert (await comparing).equal


async def test_a_session_that_ends_ends_the_comparison(shop: Database, unfinished: asyncio.Task[DiffResult]) -> None:
    """Without its locks, a table could have been emptied just before it was read."""
    await end_session(shop, "snapshot")
    with pytest.raises(ConnectionLost):
        await unfinished


async def test_rows_that_a_policy_hides_are_an_error_not_missing(shop: Database, taken: Taken) -> None:
    await shop.execute(
        """
        DO $$ BEGIN CREATE ROLE diff_reader LOGIN PASSWORD 'secret'; EXCEPTION WHEN duplicate_object THEN END $$;
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO diff_reader;
        ALTER TABLE customers ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON customers USING (id = 1);
        """
    )
    reader = replace(shop, dsn=shop.as_role("diff_reader", "secret"))
    with pytest.raises(MissingPrivilege, match="row-level security"):
        await diff(taken, reader)


async def test_the_command_says_a_line_for_each_table_and_exits_with_3_if_any_differs(
    shop: Database, tmp_path: Path
) -> None:
    settings = environment(settings_for(shop, tmp_path))
    await rowvault("backup", env=settings)
    equal = await rowvault("diff", "latest", env=settings)
    assert (equal.returncode, equal.stdout.splitlines()[-1]) == (0, "no differences")
    assert re.fullmatch(r"comparing \d+ %\n", equal.stderr)
    await shop.execute(f"DELETE FROM customers WHERE id = 7; DELETE FROM {quoted(ODD)} WHERE b = 5")
    differing = await rowvault("diff", "latest", "--keys", env=settings)
    assert differing.returncode == 3
    shown = [" ".join(line.split()) for line in differing.stdout.splitlines()]
    assert shown[1] == "table rows in the backup rows live missing changed extra state note"
    assert "public.customers 500 499 1 0 0 differs" in shown
    assert "public.events_1 62 62 0 0 0 ok" in shown
    assert "public.customers missing: id=7" in shown
    assert f'public.{quoted(ODD)} missing: b=5 "the=key"="tab\\t, line\\n, back\\\\slash 5"' in shown
    assert shown[-1] == "differences in 2 of 6 tables"


async def test_the_command_prints_one_json_document(shop: Database, tmp_path: Path) -> None:
    settings = environment(settings_for(shop, tmp_path))
    first = json.loads((await rowvault("backup", "--json", env=settings)).stdout)["id"]
    await shop.execute("UPDATE customers SET name = '' WHERE id = 7")
    second = json.loads((await rowvault("backup", "--json", env=settings)).stdout)["id"]
    live, two, narrow = await asyncio.gather(
        rowvault("diff", "latest", "--json", env=settings),
        rowvault("diff", first, "--against", second, "--keys", "--json", env=settings),
        rowvault("diff", first, "--table", "events", "--json", env=settings),
    )
    assert [(done.returncode, done.stderr) for done in (live, two, narrow)] == [(0, ""), (3, ""), (0, "")]
    document = json.loads(live.stdout)
    assert set(document) == {"backup", "against", "tables", "equal", "warnings"}
    assert (document["backup"], document["against"], document["equal"]) == (second, "live", True)
    document = json.loads(two.stdout)
    assert (document["backup"], document["against"], document["equal"]) == (first, second, False)
    (customers,) = (table for table in document["tables"] if table["name"] == "customers")
    assert customers == {
        "schema": "public", "name": "customers", "missing": 0, "changed": 1, "extra": 0, "rows_backup": 500,
        "rows_other": 500, "note": "", "keys": {"missing": [], "changed": [{"id": "7"}], "extra": [], "more": False},
    }  # fmt: skip
    assert [table["name"] for table in json.loads(narrow.stdout)["tables"]] == ["events_1", "events_2"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("diff", "latest", "--table", "nope"), 4),
        (("diff", "20260101T020000.000Z-full-0a1b2c"), 4),
        (("diff", "latest", "--against", "20260101T020000.000Z-full-0a1b2c"), 4),
        (("diff", "latest", "--table", "no.such.name"), 2),
        (("diff",), 2),
    ],
)
async def test_what_cannot_be_compared_has_its_exit_code(
    shop: Database, tmp_path: Path, args: tuple[str, ...], code: int
) -> None:
    settings = environment(settings_for(shop, tmp_path))
    await rowvault("backup", env=settings)
    await refuse(*args, settings=settings, code=code)


async def test_a_damaged_backup_exits_with_3_and_an_error(shop: Database, tmp_path: Path) -> None:
    settings = environment(settings_for(shop, tmp_path))
    await rowvault("backup", env=settings)
    place = Repository("local", LocalBackend(tmp_path))
    (entry,) = (await place.catalogue()).entries
    await plant(await place.manifest(entry.id), place, "byte flipped")
    await shop.execute("DELETE FROM customers WHERE id = 7")
    error = await refuse("diff", "latest", settings=settings, code=3)
    assert "customers" in error["message"]


async def test_temporary_files_are_beside_the_backups_unless_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, /tmp may be memory."""
    async with open_app(load_settings({"ROWVAULT_LOCAL_PATH": str(tmp_path)}, dotenv=None)) as app:
        monkeypatch.delenv("TMPDIR", raising=False)
        assert app.diff_options([], keys=False).scratch == tmp_path
        monkeypatch.setenv("TMPDIR", "/tmp")
        assert app.diff_options([], keys=False).scratch is None
