"""Where the change log cannot go on, a full backup begins a new chain by itself and says why: never a silent gap."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from jobs.chains.points import At
from jobs.errors import NotThere
from jobs.places.catalogue import list_backups
from jobs.verify import verify_backup
from tests.conftest import CreateDatabase
from tests.following import Follower, following
from tests.places import date_ahead
from tests.servers import DEFAULT_MAJOR, Servers, own_server

BUILD = """
    CREATE TABLE items (id int PRIMARY KEY, note text);
    INSERT INTO items SELECT n, n::text FROM generate_series(1, 10) n;
    CREATE TABLE one (id int PRIMARY KEY, v text); INSERT INTO one VALUES (1, 'one');
    CREATE TABLE two (id int PRIMARY KEY, v text); INSERT INTO two VALUES (1, 'two');
    CREATE TABLE going (id int PRIMARY KEY);
    CREATE TABLE days (day date PRIMARY KEY) PARTITION BY RANGE (day);
    CREATE TABLE days_rest PARTITION OF days DEFAULT; INSERT INTO days VALUES ('2026-01-01');
    CREATE TABLE passing (id int PRIMARY KEY, n int); INSERT INTO passing VALUES (1, 0);
    CREATE TABLE keyed (id int PRIMARY KEY, other int NOT NULL UNIQUE); INSERT INTO keyed VALUES (1, 2);
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE DOMAIN small AS int CONSTRAINT below_ten CHECK (VALUE < 10);
    CREATE TYPE pair AS (a small, b text);
    CREATE TABLE held (id int PRIMARY KEY, moods mood[], pair pair, n int CONSTRAINT low CHECK (n < 10),
        email text, other int CONSTRAINT is_there REFERENCES keyed);
    CREATE UNIQUE INDEX one_each ON held (lower(email)) WHERE n > 1;
"""
SLOT = "SELECT slot FROM rowvault.capture"


@pytest.fixture(scope="module")
async def following_on(servers: Servers) -> AsyncIterator[Follower]:
    """A database whose chain was begun; its tests begin others, in any order."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(BUILD)
    yield following(database)
    await server.drop(database)


@pytest.fixture
async def followed(following_on: Follower) -> Follower:
    """The same with a chain that can be continued."""
    if (await following_on.take()).kind == "full":
        await following_on.window()
    return following_on


async def begins_anew(follower: Follower, because: str) -> None:
    """The next backup must be a full one that says why; what is taken after it continues it without a gap."""
    before = await follower.now()
    await follower.database.execute("UPDATE passing SET n = n + 1")
    result = await follower.take()
    assert result.kind == "full"
    assert result.warnings[0].startswith("a full backup was taken: ")
    assert because in result.warnings[0]
    with pytest.raises(NotThere):
        await follower.backed_up(At(before))
    await follower.change("UPDATE passing SET n = n + 1")
    await follower.require_latest()


CHANGED_TABLES = {
    "a table came": ("CREATE TABLE new (id int PRIMARY KEY)", "public.new came or went"),
    "a table went": ("DROP TABLE going", "public.going came or went"),
    "a partition came": (
        "CREATE TABLE days_2027 PARTITION OF days FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
        "public.days_2027 came or went",
    ),
    "a partition was taken out": ("ALTER TABLE days DETACH PARTITION days_rest", "definition of public.days_rest"),
    "a column came": ("ALTER TABLE items ADD COLUMN more int DEFAULT 7", "definition of public.items"),
    "a column was named anew": ("ALTER TABLE items RENAME note TO noted", "definition of public.items"),
    "values were rewritten": (
        "ALTER TABLE items ALTER id TYPE int USING id + 1000", "definition of public.items",
    ),
    "another key tells rows apart": (
        "ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_other_key", "definition of public.keyed",
    ),
    "two tables swapped their names": (
        "BEGIN; ALTER TABLE one RENAME TO t; ALTER TABLE two RENAME TO one; ALTER TABLE t RENAME TO two; COMMIT",
        "definition of public.",
    ),
    "a type took another value": ("ALTER TYPE mood ADD VALUE 'fair'", "definition of public.held"),
    "a type took another attribute": ("ALTER TYPE pair ADD ATTRIBUTE c int", "definition of public.held"),
    "a domain takes what it did not": ("ALTER DOMAIN small DROP CONSTRAINT below_ten", "definition of public.held"),
    "a column takes what it did not": ("ALTER TABLE held DROP CONSTRAINT low", "definition of public.held"),
    "values need no longer be there": ("ALTER TABLE held DROP CONSTRAINT is_there", "definition of public.held"),
    "values may come twice": ("DROP INDEX one_each", "definition of public.held"),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "because"), CHANGED_TABLES.values(), ids=CHANGED_TABLES)
async def test_a_new_chain_begins_since(followed: Follower, statement: str, because: str) -> None:
    await followed.database.execute(statement)
    await begins_anew(followed, because)


async def test_a_dropped_slot_begins_anew(followed: Follower) -> None:
    await followed.database.execute(f"SELECT pg_drop_replication_slot(slot) FROM ({SLOT}) s")
    await begins_anew(followed, "the replication slot is gone")


async def test_a_dropped_publication_begins_anew(followed: Follower) -> None:
    await followed.database.execute("DROP PUBLICATION rowvault")
    await begins_anew(followed, "the publication is no longer what it was")


async def test_a_publication_that_was_dropped_and_made_again_begins_anew(followed: Follower) -> None:
    tables = await followed.database.value("SELECT string_agg(prrelid::regclass::text, ', ') FROM pg_publication_rel")
    await followed.database.execute(f"DROP PUBLICATION rowvault; CREATE PUBLICATION rowvault FOR TABLE {tables}")
    await begins_anew(followed, "the publication is no longer what it was")


@pytest.mark.parametrize(
    "statement",
    ["ALTER PUBLICATION rowvault DROP TABLE passing", "ALTER PUBLICATION rowvault SET (publish = 'insert')"],
)
async def test_a_publication_that_lets_something_pass_begins_anew(followed: Follower, statement: str) -> None:
    await followed.database.execute(statement)
    await begins_anew(followed, "the publication is no longer what it was")


async def test_a_slot_that_somebody_else_read_from_begins_anew(followed: Follower) -> None:
    await followed.database.execute("INSERT INTO passing VALUES (-100)")
    read = await followed.database.value(
        f"SELECT count(*) FROM ({SLOT}) s, pg_logical_slot_get_binary_changes(slot, NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'rowvault')"
    )
    assert read > 0
    await begins_anew(followed, "changes were taken from the slot that no backup has")


async def test_another_lineage_begins_anew(followed: Follower) -> None:
    await followed.database.execute("UPDATE rowvault.lineage SET token = 'of a clone'")
    await begins_anew(followed, "another lineage")


async def test_a_slot_that_holds_back_too_much_is_dropped_and_begins_anew(followed: Follower) -> None:
    slot = await followed.database.value(SLOT)
    await followed.database.execute("INSERT INTO passing SELECT n FROM generate_series(1000, 5000) n")
    strict = replace(followed, capture=replace(followed.capture, lag_limit=100_000))
    result = await strict.take()
    assert result.kind == "full"
    assert "bytes of WAL, 100000 is the limit" in result.warnings[0]
    assert await followed.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = $1", slot) == []
    await followed.window()
    await followed.require_latest()


async def test_a_repository_that_lost_its_newest_window_begins_anew(followed: Follower) -> None:
    lost = await followed.change("INSERT INTO passing VALUES (-200)")
    await followed.primary.backend.delete([str(lost.name())])
    await begins_anew(followed, "changes were taken from the slot that no backup has")


async def test_a_repository_that_lost_a_window_among_others_begins_anew(followed: Follower) -> None:
    """What was taken after it is whole, and can be brought back by nothing."""
    lost = await followed.change("INSERT INTO passing VALUES (-210)")
    after = await followed.change("INSERT INTO passing VALUES (-211)")
    await followed.primary.backend.delete([str(lost.name())])
    await begins_anew(followed, f"windows since {after.base} are missing")


async def test_a_window_that_failed_its_verification_is_not_gone_on_from(followed: Follower) -> None:
    """Nothing could bring back what came after it, however whole that is."""
    lost = await followed.change("INSERT INTO passing VALUES (-201)")
    after = await followed.change("INSERT INTO passing VALUES (-202)")
    await followed.primary.backend.delete([one.name for one in lost.log.objects])
    assert (await verify_backup(followed.places, lost.id)).state == "failed"
    listed = {one.id: one for one in (await list_backups(followed.places)).backups}
    assert listed[str(after.base)].recoverable_to < lost.created_at
    await begins_anew(followed, f"{lost.id} failed its verification")


@pytest.mark.parametrize("kind", ["full", "incremental"])
async def test_what_a_wrong_clock_dated_years_ahead_is_not_the_newest_until_then(
    create_database: CreateDatabase, kind: str
) -> None:
    """Nothing would go on from what is taken meanwhile: each hour it would be a full backup."""
    follower = following(await create_database(key="dated", build="CREATE TABLE t (id int PRIMARY KEY)"))
    await follower.begin()
    ahead = await (follower.full() if kind == "full" else follower.change("INSERT INTO t VALUES (1)"))
    await date_ahead(follower.primary, ahead)
    await follower.database.execute("ALTER TABLE t ADD more int")
    assert (await follower.take()).kind == "full"
    await follower.change("INSERT INTO t VALUES (2)")
    rows, now = await follower.lines(), await follower.now()
    await follower.change("INSERT INTO t VALUES (3)")
    assert await follower.backed_up(At(now)) == rows


UNUSABLE = {
    "without_key": "CREATE TABLE without_key (id int, v text)",
    "deferred": "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v text)",
    "not_valid": "CREATE TABLE not_valid (id int PRIMARY KEY, v text);"
    "UPDATE pg_index SET indisvalid = false WHERE indrelid = 'not_valid'::regclass",
    "nothing": "CREATE TABLE nothing (id int PRIMARY KEY, v text); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
    "whole_row": "CREATE TABLE whole_row (id int, v text); ALTER TABLE whole_row REPLICA IDENTITY FULL",
    "unlogged": "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, v text)",
    "computed": "CREATE TABLE computed (id int PRIMARY KEY, v text, g text GENERATED ALWAYS AS (v) STORED);"
    "ALTER TABLE computed REPLICA IDENTITY FULL",
    "computed_key": "CREATE TABLE computed_key (id int, v text, g int GENERATED ALWAYS AS (id) STORED PRIMARY KEY)",
}  # fmt: skip


@pytest.fixture(scope="module")
async def unusable(servers: Servers) -> AsyncIterator[Follower]:
    """A chain of tables that cannot be in the log."""
    database = await (await servers.get(DEFAULT_MAJOR)).create()
    for table, build in UNUSABLE.items():
        await database.execute(f"{build}; INSERT INTO {table} VALUES (1, 'a'), (2, 'b')")
    follower = following(database)
    await follower.begin()
    yield follower
    await database.server.drop(database)


@pytest.mark.parametrize("table", UNUSABLE)
async def test_the_application_changes_a_table_that_cannot_be_in_the_log_and_it_is_followed_beside_it(
    unusable: Follower, table: str
) -> None:
    window = await unusable.change(f"UPDATE {table} SET v = 'c' WHERE id = 1", f"DELETE FROM {table} WHERE id = 2")
    assert window.beside is not None
    told = {one.name: one for one in window.beside.tables}
    assert {name for name, one in told.items() if one.changes} == {table}
    method = "whole" if table in {"without_key", "whole_row", "computed_key"} else "xmin"
    assert (told[table].method, told[table].rows, bool(told[table].reason)) == (method, 1, True)
    await unusable.require_latest()


async def test_what_cannot_be_in_the_log_is_in_every_full_backup(unusable: Follower) -> None:
    await unusable.full()
    await unusable.require_latest()


async def test_a_table_that_lost_its_key_leaves_the_log_at_the_next_backup(followed: Follower) -> None:
    await followed.database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')")
    await followed.take()
    await followed.database.execute("ALTER TABLE t DROP CONSTRAINT t_pkey")
    assert (await followed.take()).kind == "full"
    await followed.database.execute("UPDATE t SET v = 'b'; DELETE FROM t; DROP TABLE t")


async def test_a_slot_whose_wal_the_server_threw_away_begins_anew() -> None:
    async with own_server(max_slot_wal_keep_size="1MB") as server:
        database = await server.create()
        await database.execute("CREATE TABLE passing (id int PRIMARY KEY, n int); INSERT INTO passing VALUES (1, 0)")
        follower = following(database)
        await follower.begin()
        for _ in range(3):
            await database.execute("UPDATE passing SET n = n + 1")
            await database.execute("SELECT pg_switch_wal()")
        await database.execute("CHECKPOINT")
        assert await database.value("SELECT wal_status FROM pg_replication_slots") == "lost"
        await begins_anew(follower, "the server threw away WAL that the replication slot needs")
