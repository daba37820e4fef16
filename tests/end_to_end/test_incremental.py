"""What an incremental backup holds, and that the newest backup is always what is in the database."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from jobs.chains.points import At
from jobs.errors import NotThere
from jobs.incrementals.taking import CaptureOptions
from jobs.places.catalogue import list_backups
from jobs.postgres.errors import Contended
from jobs.verify import verify_backup
from tests.changes import BUILD, CHANGES
from tests.following import Follower, following
from tests.servers import DEFAULT_MAJOR, Database, Servers
from tests.sessions import holding


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
