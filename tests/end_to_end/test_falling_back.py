"""When changes cannot be captured, tables are compared; when comparing cannot go on, a full backup begins anew."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.full_backup import full_backup
from jobs.incrementals import begin_chain, difference_chain
from jobs.incrementals.begin_chain import begin_capture
from jobs.postgres.catalogue import Selection
from storage.errors import StorageError
from storage.increments import Difference
from storage.manifest import Manifest
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.faults.commands import settings_of, succeed
from tests.following import Follower, comparing, following
from tests.places import Planter, backups_alike
from tests.round_trip import QUICK, memory
from tests.servers import Database, Server, own_server
from tests.sessions import holding

ROLE = "comparing_role"
TABLES = """
    CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items SELECT n, 'v' FROM generate_series(1, 10) n;
    CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, v text); INSERT INTO fleeting VALUES (1, 'v');
    CREATE TABLE keyed (id int PRIMARY KEY, other int NOT NULL UNIQUE); INSERT INTO keyed VALUES (1, 1);
    ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_other_key;
"""


@pytest.fixture
async def database(create_database: CreateDatabase) -> AsyncIterator[Database]:
    """A table that can be in the log, and one that cannot; a slot that is still there is dropped before they are."""
    database = await create_database(key="falling_back", build=TABLES)
    yield database
    await database.execute(DROP_SLOTS)


DROP_SLOTS = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"


async def newest_full(follower: Follower) -> Manifest:
    [name, *_] = [one.id for one in (await follower.primary.catalogue()).entries if one.kind == "full"]
    return await follower.primary.manifest(name)


async def goes_on(follower: Follower) -> Difference:
    """The next incremental backup compares, and is what is in the database."""
    difference = await follower.compare("UPDATE items SET v = v || '!' WHERE id < 3", "DELETE FROM items WHERE id = 3")
    await follower.require_latest()
    return difference


async def begins_anew(follower: Follower, reason: str) -> Manifest:
    """The next backup is a full one that says why, and is compared with in turn."""
    result = await follower.take()
    assert result.kind == "full"
    assert reason in result.warnings[0]
    full = await newest_full(follower)
    assert full.gap is not None
    assert reason in full.gap.reason
    await goes_on(follower)
    return full


async def test_a_server_without_logical_wal_is_compared_and_says_so(tmp_path: Path) -> None:
    async with own_server(wal_level="replica") as server:
        database = await server.create()
        await database.execute(TABLES)
        settings = settings_of(database, tmp_path)
        full = await succeed("backup", "incremental", settings=settings)
        await database.execute("DELETE FROM items WHERE id = 7")
        compared = await succeed("backup", "incremental", settings=settings)
        shown = await succeed("show", full["id"], settings=settings)
    assert (full["kind"], compared["kind"]) == ("full", "incremental")
    assert "incremental backups will compare tables: wal_level is replica" in full["warnings"]
    assert shown["compared"] == "wal_level is replica"
    assert [one["rows"] for one in compared["tables"] if one["name"] == "items"] == [1]


async def test_a_role_that_may_only_read_is_enough(server: Server, database: Database, tmp_path: Path) -> None:
    async with server.role(ROLE):
        await database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
        settings = settings_of(database.as_role(ROLE, "secret"), tmp_path)
        taken = [await succeed("backup", "incremental", settings=settings) for _ in range(3)]
        shown = await succeed("show", "latest", settings=settings)
        await database.execute(f"DROP OWNED BY {ROLE}")
    assert [one["kind"] for one in taken] == ["full", "incremental", "incremental"]
    assert {(one["method"], one["reason"]) for one in shown["beside"]["tables"]} == {
        ("xmin", f"role {ROLE} has no REPLICATION")
    }


async def test_a_role_that_lost_its_privilege_goes_on_and_says_what_it_could_not_remove(
    server: Server, database: Database, tmp_path: Path
) -> None:
    async with server.role(ROLE):
        await database.execute(
            f"ALTER ROLE {ROLE} REPLICATION; GRANT CREATE ON DATABASE {database.name} TO {ROLE};"
            f"ALTER TABLE items OWNER TO {ROLE}; ALTER TABLE fleeting OWNER TO {ROLE};"
            f"ALTER TABLE keyed OWNER TO {ROLE}"
        )
        settings = settings_of(database.as_role(ROLE, "secret"), tmp_path)
        captured = [await succeed("backup", "incremental", settings=settings) for _ in range(2)]
        await database.execute(f"ALTER ROLE {ROLE} NOREPLICATION")
        after = [await succeed("backup", "incremental", settings=settings) for _ in range(2)]
        shown = await succeed("show", after[0]["id"], settings=settings)
        await database.execute(DROP_SLOTS)
        await database.execute(f"DROP OWNED BY {ROLE} CASCADE")
    assert [one["kind"] for one in captured + after] == ["full", "incremental", "full", "incremental"]
    assert shown["compared"].startswith(f"role {ROLE} has no REPLICATION; what captured changes before could not be")


async def test_a_slot_that_is_lost_twice_in_a_day_is_given_up_for_that_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = following(database)
    follower = replace(follower, capture=replace(follower.capture, method="auto"))
    await follower.begin()
    for _ in range(2):
        await database.execute(DROP_SLOTS)
        assert (await follower.take()).kind == "full"
    assert (await newest_full(follower)).compared == "2 replication slots were lost within a day"
    assert await database.fetch("SELECT FROM pg_publication") == []
    await goes_on(follower)
    place, select = follower.primary, Selection()
    again = await begin_capture(follower.source, select, place, follower.capture)
    assert again.obstacle == "2 replication slots were lost within a day"
    monkeypatch.setattr(begin_chain, "A_DAY", timedelta(0))
    assert not (await begin_capture(follower.source, select, place, follower.capture)).obstacle


async def test_to_compare_by_setting_takes_slot_and_publication_away(database: Database) -> None:
    await following(database).begin()
    follower = comparing(database)
    result = await follower.take()
    assert result.kind == "full"
    assert await database.fetch("SELECT FROM pg_publication") == []
    assert await database.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
    await goes_on(follower)


async def test_a_daily_full_backup_of_what_is_compared_is_no_gap(database: Database) -> None:
    follower = comparing(database)
    await follower.begin()
    await goes_on(follower)
    chaining = await begin_capture(follower.source, Selection(), follower.primary, follower.capture)
    await full_backup(follower.source, Selection(), follower.places, replace(QUICK, chaining=chaining))
    full = await newest_full(follower)
    assert (full.gap, full.compared) == (None, "ROWVAULT_INCREMENTAL__METHOD is xmin")
    assert (await goes_on(follower)).base == full.id


@pytest.fixture
async def compared(database: Database) -> Follower:
    """A database that is compared."""
    follower = comparing(database)
    await follower.begin()
    await goes_on(follower)
    return follower


ALTERED = {
    "a column came": ("ALTER TABLE items ADD w int", "the definition of public.items changed"),
    "values were rewritten": ("ALTER TABLE items ALTER v TYPE text USING upper(v)", "the definition of public.items"),
    "a table came": ("CREATE TABLE more (id int PRIMARY KEY)", "public.more came or went"),
    "the key went": ("ALTER TABLE items DROP CONSTRAINT items_pkey", "the definition of public.items changed"),
    "another key": (
        "ALTER TABLE fleeting REPLICA IDENTITY NOTHING, DROP CONSTRAINT fleeting_pkey, ADD PRIMARY KEY (v)",
        "the definition of public.fleeting changed",
    ),
    "another key beside the replica identity": (
        "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (other)",
        "the definition of public.keyed changed",
    ),
}


@pytest.mark.parametrize(("statement", "reason"), ALTERED.values(), ids=ALTERED)
async def test_what_tables_are_compared_no_longer_fit_begins_anew(
    compared: Follower, statement: str, reason: str
) -> None:
    await compared.database.execute(statement)
    await begins_anew(compared, reason)


async def test_rows_that_nobody_wrote_are_not_believed(compared: Follower) -> None:
    """As after a tool has swapped the files of two tables."""
    await compared.database.execute("CREATE TABLE other (LIKE items INCLUDING ALL)")
    await compared.database.execute("INSERT INTO other VALUES (1, 'v'), (50, 'never seen')")
    await compared.take()
    await compared.database.execute(
        """
        UPDATE pg_class c SET relfilenode = o.relfilenode FROM pg_class o
         WHERE (c.relname, o.relname) IN (('items', 'other'), ('other', 'items'))
        """
    )
    await begins_anew(compared, "public.items")


async def test_too_many_transactions_begin_anew(compared: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference_chain, "MOST_TRANSACTIONS", 0)
    await compared.database.execute("UPDATE items SET v = 'w'")
    result = await compared.take()
    assert result.kind == "full"
    assert "transactions ran since the last backup" in result.warnings[0]


async def test_a_backup_that_is_gone_is_made_good_by_the_next(compared: Follower) -> None:
    gone = await goes_on(compared)
    await Planter(compared.primary.backend).delete(str(gone.name()))
    await goes_on(compared)


async def test_a_backup_that_cannot_be_read_begins_anew(compared: Follower) -> None:
    await Planter(compared.primary.backend).flip(str((await goes_on(compared)).name()))
    await begins_anew(compared, "an incremental backup before cannot be read")


async def test_a_list_of_keys_that_rotted_is_an_error_and_not_believed(compared: Follower) -> None:
    [listed] = [table.keys for table in (await newest_full(compared)).tables if table.name == "items"]
    assert listed is not None
    await Planter(compared.primary.backend).flip(listed.objects[0].name)
    await compared.database.execute("UPDATE items SET v = 'w'")
    with pytest.raises(StorageError, match="keys"):
        await compared.take()


async def test_what_could_not_be_committed_is_in_the_next(compared: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Repository, __: object) -> None:
        raise StorageError("the disk is gone", "find it")

    with monkeypatch.context() as broken:
        broken.setattr(Repository, "commit", refuse)
        await compared.database.execute("DELETE FROM items WHERE id = 9")
        with pytest.raises(StorageError):
            await compared.take()
    await goes_on(compared)
    assert set(await compared.primary.begun()) == {one.id for one in (await compared.primary.catalogue()).entries}


async def test_both_places_have_what_was_compared(database: Database) -> None:
    follower = comparing(database, memory(), memory())
    await follower.begin()
    await goes_on(follower)
    assert await backups_alike(*follower.places)


async def test_a_table_that_somebody_holds_does_not_keep_the_log_from_being_read(database: Database) -> None:
    follower = following(database)
    await follower.begin()
    async with holding(database, "LOCK TABLE fleeting IN ACCESS EXCLUSIVE MODE"):
        window = await follower.change("UPDATE items SET v = 'w'")
        assert window.beside is None
        assert any("left out this time" in warning for warning in window.warnings)
    await database.execute("UPDATE fleeting SET v = 'w'")
    await follower.window()
    await follower.require_latest()
