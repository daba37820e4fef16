"""What an incremental backup holds, and that the newest backup is always what is in the database."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from jobs.catalogue import list_backups
from jobs.chain import At
from jobs.errors import NotThere
from jobs.incremental import CaptureOptions
from jobs.postgres.errors import Contended
from jobs.verify import verify_backup
from tests.following import Follower, following
from tests.servers import DEFAULT_MAJOR, Database, Servers
from tests.sessions import holding

LARGE = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n)"
BUILD = f'''
    CREATE TABLE items (id int PRIMARY KEY, note text, twice int GENERATED ALWAYS AS (id * 2) STORED, large text);
    ALTER TABLE items ALTER large SET STORAGE EXTERNAL;
    INSERT INTO items SELECT n, 'note ' || n FROM generate_series(1, 100) n;
    UPDATE items SET large = {LARGE};
    CREATE TABLE "Odd Names" ("the ""key""" text, other int, v numeric[], PRIMARY KEY (other, "the ""key"""));
    INSERT INTO "Odd Names" SELECT E'tab\\there ' || n, n % 3, ARRAY[n, NULL] FROM generate_series(1, 20) n;
    CREATE TABLE days (day date, n int, v text, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
    CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE days_rest PARTITION OF days DEFAULT;
    INSERT INTO days SELECT '2025-12-01'::date + n, n, 'v' FROM generate_series(1, 60) n;
    CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, p int REFERENCES parents);
    INSERT INTO parents VALUES (1), (2); INSERT INTO children VALUES (1, 1), (2, 2);
    CREATE TABLE mails (id int PRIMARY KEY, mail text NOT NULL UNIQUE, v text, large text);
    ALTER TABLE mails REPLICA IDENTITY USING INDEX mails_mail_key;
    ALTER TABLE mails ALTER large SET STORAGE EXTERNAL, ALTER mail SET STORAGE EXTERNAL;
    INSERT INTO mails SELECT n, n || '@example.org', 'v', {LARGE} FROM generate_series(1, 5) n;
    INSERT INTO mails VALUES (9, repeat('long ', 500), 'v');
    CREATE TABLE whole (id int PRIMARY KEY, v text, large text); ALTER TABLE whole REPLICA IDENTITY FULL;
    ALTER TABLE whole ALTER large SET STORAGE EXTERNAL;
    INSERT INTO whole SELECT n, 'v', {LARGE} FROM generate_series(1, 5) n;
'''


@pytest.fixture(scope="module")
async def followed(servers: Servers) -> AsyncIterator[Follower]:
    """A database with a chain begun. Its tests go on from each other's rows, in any order."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(BUILD)
    follower = following(database)
    await follower.begin()
    yield follower
    await server.drop(database)


CHANGES: dict[str, tuple[list[str], dict[str, int] | None]] = {
    "nothing": ([], {}),
    "rows that come": (["INSERT INTO items SELECT n, 'new' FROM generate_series(1001, 1010) n"], {"items": 10}),
    "rows that change": (["UPDATE items SET note = note || '!' WHERE id BETWEEN 1 AND 5"], {"items": 5}),
    "rows that go": (["DELETE FROM items WHERE id BETWEEN 11 AND 15"], {"items": 5}),
    "rows that come back": (["DELETE FROM items WHERE id = 16", "INSERT INTO items VALUES (16)"], {"items": 2}),
    "rows that come and go": (["INSERT INTO items VALUES (2000)", "DELETE FROM items WHERE id = 2000"], {"items": 2}),
    "a key that changes": (["UPDATE items SET id = 3000 WHERE id = 17"], {"items": 1}),
    "keys that change places": (
        ["UPDATE items SET id = -1 WHERE id = 18", "UPDATE items SET id = 18 WHERE id = 19",
         "UPDATE items SET id = 19 WHERE id = -1"], {"items": 3},
    ),
    "a large value that comes": ([f"UPDATE items SET large = {LARGE} || 'x' WHERE id = 20"], {"items": 1}),
    "a large value that goes": (["UPDATE items SET large = NULL WHERE id = 21"], {"items": 1}),
    "a large value that follows a key": (
        ["UPDATE items SET id = 3001 WHERE id = 22", "UPDATE items SET note = 'moved' WHERE id = 3001"], {"items": 2},
    ),
    "text that COPY escapes": (
        [r"INSERT INTO items VALUES (2001, E'\\N'), (2002, E'\\U'), (2003, E'a\tb\nc\\d\r\x01'), (2004, '')"],
        {"items": 4},
    ),
    "names and keys of any kind": (
        ["""UPDATE "Odd Names" SET v = '{}' WHERE other = 1""", """DELETE FROM "Odd Names" WHERE other = 2"""], None,
    ),
    "a row that moves to another partition": (
        ["UPDATE days SET day = '2026-06-01' WHERE day = '2025-12-05'"], {"days_rest": 1, "days_2026": 1},
    ),
    "a truncate": (["TRUNCATE days_2026", "INSERT INTO days VALUES ('2026-02-02', 1)"], {"days_2026": 2}),
    "a truncate of a partitioned table": (["TRUNCATE days", "INSERT INTO days VALUES ('2026-02-03', 1)"], None),
    "a truncate that cascades": (
        ["TRUNCATE parents CASCADE", "INSERT INTO parents VALUES (3)"], {"parents": 2, "children": 1},
    ),
    "a truncate that is rolled back": (["BEGIN; TRUNCATE items; INSERT INTO items VALUES (1); ROLLBACK"], {}),
    "a transaction that is rolled back": (["BEGIN; DELETE FROM items; ROLLBACK"], {}),
    "a savepoint that is rolled back": (
        ["BEGIN; UPDATE items SET note = 'yes' WHERE id = 23; SAVEPOINT a; DELETE FROM items WHERE id < 30;"
         "ROLLBACK TO a; UPDATE items SET note = 'both' WHERE id = 24; COMMIT"], {"items": 2},
    ),
    "several tables": (
        ["BEGIN; INSERT INTO parents VALUES (50); INSERT INTO children VALUES (50, 50); COMMIT"],
        {"parents": 1, "children": 1},
    ),
    "a commit that nobody waits for": (
        ["SET synchronous_commit = off; INSERT INTO items SELECT n FROM generate_series(4000, 4099) n"], {"items": 100},
    ),
    "an identity that is another index": (
        ["UPDATE mails SET v = 'w' WHERE id = 1", "UPDATE mails SET mail = 'new' WHERE id = 2",
         "UPDATE mails SET id = 30 WHERE id = 3", "DELETE FROM mails WHERE id = 4"], {"mails": 4},
    ),
    "a large key that is not touched": (
        ["UPDATE mails SET v = 'w' WHERE id = 9", "UPDATE mails SET v = 'x' WHERE id = 9"], {"mails": 2},
    ),
    "an identity that is the whole row": (
        ["UPDATE whole SET v = 'w' WHERE id = 1", "UPDATE whole SET id = 20 WHERE id = 2",
         "DELETE FROM whole WHERE id = 3"], {"whole": 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statements", "counted"), CHANGES.values(), ids=CHANGES)
async def test_a_window_holds(followed: Follower, statements: list[str], counted: dict[str, int] | None) -> None:
    window = await followed.change(*statements)
    await followed.require_latest()
    if counted is not None:
        assert {table.name: table.changes for table in window.changes if table.changes} == counted


async def test_a_window_knows_its_commits(followed: Follower) -> None:
    before = await followed.window()
    window = await followed.change("INSERT INTO items VALUES (5000)", "DELETE FROM items WHERE id = 5000")
    assert window.start == before.end
    assert window.commits == 2
    assert window.last_commit is not None
    assert before.created_at < window.last_commit
    assert window.rows == 2


async def test_every_moment_between_backups_comes_back(followed: Follower) -> None:
    moments = []
    for number in range(6000, 6003):
        await followed.database.execute(
            f"INSERT INTO items VALUES ({number}); DELETE FROM items WHERE id = {number - 1}"
        )
        moments.append((await followed.now(), await followed.lines()))
    await followed.window()
    for moment, lines in moments:
        assert await followed.backed_up(At(moment)) == lines


async def test_a_prepared_transaction_is_in_the_window_in_which_it_is_committed(followed: Follower) -> None:
    async with followed.database.connect() as connection:
        await connection.execute("BEGIN; INSERT INTO items VALUES (7000); PREPARE TRANSACTION 'prepared'")
        try:
            assert (await followed.window()).rows == 0
            await followed.require_latest()
        finally:
            await connection.execute("COMMIT PREPARED 'prepared'")
    assert (await followed.window()).rows == 1
    await followed.require_latest()


async def test_a_transaction_that_is_open_for_long_is_in_the_window_in_which_it_is_committed(
    followed: Follower,
) -> None:
    async with holding(followed.database, "INSERT INTO items VALUES (7001)") as application:
        assert (await followed.window()).rows == 0
        base = await followed.full()
        await followed.require_latest()
        await application.execute("COMMIT")
    assert (await followed.window()).rows == 1
    assert base.created_at < (await followed.window()).created_at
    await followed.require_latest()


async def test_a_full_backup_may_be_taken_at_any_time_and_the_log_goes_on(followed: Follower) -> None:
    await followed.database.execute("INSERT INTO items VALUES (7002)")
    base = await followed.full()
    window = await followed.change("UPDATE items SET note = 'later' WHERE id = 7002")
    assert window.base == base.id
    assert window.rows == 2  # a window holds whatever came after the one before it; a base takes what it lacks
    await followed.require_latest()


async def test_sequences_are_never_behind_the_rows(database: Database) -> None:
    await database.execute("CREATE TABLE numbered (id serial PRIMARY KEY)")
    follower = following(database)
    await follower.begin()
    window = await follower.change("INSERT INTO numbered SELECT FROM generate_series(1, 42)")
    assert [(one.name, one.last_value) for one in window.sequences] == [("numbered_id_seq", "42")]


async def test_a_backlog_is_taken_in_bounded_windows_each_let_go_by_itself(database: Database) -> None:
    await database.execute("CREATE TABLE many (id int PRIMARY KEY, v text)")
    follower = following(database, window_bytes=200_000)
    await follower.begin()
    moments = []
    for number in range(6):
        await database.execute(
            f"INSERT INTO many SELECT n, md5(n::text) FROM generate_series({number}000, {number}999) n"
        )
        moments.append((await follower.now(), await follower.lines()))
    result = await follower.take()
    windows = [one for one in (await list_backups(follower.places)).backups if one.kind == "incremental"]
    assert len(windows) > 2
    assert sum(table.rows for table in result.tables) == 6_000
    assert {(await verify_backup(follower.places, one.id)).state for one in windows} == {"success"}
    for moment, lines in moments:
        assert await follower.backed_up(At(moment)) == lines


async def test_a_long_transaction_is_not_read_from_its_beginning_for_every_window(database: Database) -> None:
    await database.execute("CREATE TABLE many (id int PRIMARY KEY, v text)")
    follower = following(database, window_bytes=100_000)
    await follower.begin()
    await database.execute("INSERT INTO many SELECT n, repeat(md5(n::text), 9) FROM generate_series(1, 10000) n")
    await follower.take()
    windows = [one for one in (await list_backups(follower.places)).backups if one.kind == "incremental"]
    assert len(windows) < 12  # of 36 that its 3.6 MB of WAL would take
    await follower.require_latest()


async def test_capture_does_not_begin_while_somebody_is_at_work_and_names_them(database: Database) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    follower = following(database)
    impatient = replace(follower, capture=CaptureOptions(patience=0.5))
    async with holding(database, "INSERT INTO items VALUES (1)") as application:
        pid = await application.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(Contended, match=f"server pid {pid}"):
            await impatient.take()
    assert await database.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
    assert await database.fetch("SELECT FROM pg_publication") == []
    await follower.begin()


async def test_a_moment_between_a_changed_definition_and_the_full_backup_that_found_it_is_refused(
    database: Database,
) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, '01')")
    follower = following(database)
    await follower.begin()
    window = await follower.change("UPDATE items SET v = '02'")
    await database.execute("ALTER TABLE items ALTER v TYPE int USING v::int")
    moment = await follower.now()
    full = await follower.full()
    after = await follower.change("UPDATE items SET v = 3")
    assert await follower.backed_up(At(window.created_at)) == {"public.items": [b"1\t02"]}
    with pytest.raises(NotThere, match="no chain of backups reaches"):
        await follower.backed_up(At(moment))
    assert await follower.backed_up(At(full.created_at)) == {"public.items": [b"1\t2"]}
    assert await follower.backed_up(At(after.created_at)) == {"public.items": [b"1\t3"]}
