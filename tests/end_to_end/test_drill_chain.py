"""Drills of chains: the newest moment is proved, a random one as well, and a fault in the log fails them aloud."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import pytest

from jobs.drill import MOMENT, DrillOptions, drill
from jobs.drilling.moment import Covered, newest_covered
from jobs.incremental import incremental_backup
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.connection import Source
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import DrillResult
from storage.increments import Increment
from storage.manifest import Manifest
from storage.names import id_moment
from storage.objects import put
from tests import hostile
from tests.conftest import CreateDatabase
from tests.following import Follower, comparing, following
from tests.places import Planter, contents
from tests.round_trip import EVERYTHING, QUICK, memory, selection
from tests.servers import DEFAULT_MAJOR, Server, Servers

BUILD = """
    CREATE TABLE items (id serial PRIMARY KEY, note text, large text);
    ALTER TABLE items ALTER large SET STORAGE EXTERNAL;
    INSERT INTO items (note, large) SELECT 'first', repeat('large ', 500) FROM generate_series(1, 100);
    CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet SELECT generate_series(1, 10);
    CREATE TABLE others (id int PRIMARY KEY, item int REFERENCES items);
    INSERT INTO others SELECT n, n FROM generate_series(1, 20) n;
    CREATE TABLE keyless (note text); INSERT INTO keyless VALUES ('in the full backup');
"""
CHANGES = (
    ("UPDATE items SET note = 'second' WHERE id <= 50", "DELETE FROM others WHERE id = 7"),
    ("DELETE FROM items WHERE id = 7", "INSERT INTO keyless VALUES ('later')"),
    ("TRUNCATE others; INSERT INTO others VALUES (1, 1)", "INSERT INTO items (note) VALUES ('last')"),
)


@dataclass(frozen=True)
class Chained:
    """A database that was followed: the full backup of its chain, and the windows after it."""

    follower: Follower
    base: Manifest
    windows: tuple[Increment, ...]

    async def drilled(self, on_progress: OnProgress = no_progress) -> DrillResult:
        """A drill on the server that the database is on, of the last moment that is covered."""
        given = Source(self.follower.database.server.maintenance.dsn)
        options = DrillOptions(given=given, moment=lambda covered: covered.ends)
        return await drill(self.follower.places, options, on_progress)

    @property
    def planter(self) -> Planter:
        return Planter(self.follower.primary.backend)

    async def forget(self, window: Increment) -> None:
        """Remove its manifest, and with it the backup."""
        [name] = [one.manifest for one in (await self.follower.primary.catalogue()).entries if one.id == window.id]
        await self.planter.delete(name)


@pytest.fixture(scope="module")
async def chained_once(servers: Servers) -> AsyncIterator[Chained]:
    """A chain with three windows."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(BUILD)
    follower = following(database)
    base = await follower.begin()
    yield Chained(follower, base, tuple([await follower.change(*statements) for statements in CHANGES]))
    await server.drop(database)


@pytest.fixture
async def chained(chained_once: Chained) -> Chained:
    """The chain in a place of its own."""
    place = memory()
    for name, data in (await contents(chained_once.follower.primary.backend)).items():
        await put(place.backend, name, data)
    return replace(chained_once, follower=replace(chained_once.follower, places=(place,)))


def found(result: DrillResult) -> dict[str, str]:
    return {check.name: check.message for check in result.checks}


def failures(result: DrillResult) -> dict[str, str]:
    return {check.name: check.message for check in result.failures}


async def test_the_newest_moment_is_drilled_and_proved(chained: Chained) -> None:
    result = await chained.drilled()
    assert failures(result) == {}
    assert (result.state, result.id) == ("success", chained.windows[-1].id)
    assert {table.name: table.rows for table in result.tables} == {"items": 100, "quiet": 10, "others": 1, "keyless": 2}
    assert [one.name for one in result.scenarios] == ["one_row", "one_table", "everything", "complete_loss"]


async def test_a_random_moment_is_proved_and_named(chained: Chained) -> None:
    given = Source(chained.follower.database.server.maintenance.dsn)
    said = found(await drill(chained.follower.places, DrillOptions(given=given)))[MOMENT]
    moment = datetime.fromisoformat(said.removeprefix("as of ").split(": ")[0])
    assert chained.base.created_at < moment <= chained.windows[-1].created_at
    assert "tables that had changed were loaded and are equal" in said


async def test_any_moment_that_the_newest_chain_covers_may_be_chosen(chained: Chained) -> None:
    covered = await newest_covered(chained.follower.places)
    assert covered is not None
    assert chained.base.created_at < covered.begins < chained.windows[0].created_at
    assert timedelta(0) <= chained.windows[-1].created_at - covered.ends < timedelta(milliseconds=1)
    moments = {covered.random_moment() for _ in range(100)}
    assert len(moments) > 90
    assert all(covered.begins < moment <= covered.ends for moment in moments)


TOUCH_ALL = """
    DO $$
    DECLARE changed regclass; col name;
    BEGIN
        FOR changed, col IN
            SELECT prrelid, attname FROM pg_publication_rel JOIN pg_attribute ON attrelid = prrelid
             WHERE attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a'
        LOOP
            EXECUTE format('UPDATE ONLY %s SET %I = %2$I', changed, col);
        END LOOP;
    END $$
"""


async def test_a_hard_database_passes_too(server: Server, create_database: CreateDatabase) -> None:
    source = await create_database(server, key="hostile", build=hostile.hard_schema(server.major))
    place, every = memory(), selection(EVERYTHING)
    for _ in range(2):
        taken = await incremental_backup(Source(source.dsn), every, [place], CaptureOptions(patience=5), QUICK)
        await source.execute(TOUCH_ALL)
    window = await place.incremental(taken.id)
    assert isinstance(window, Increment)
    options = DrillOptions(given=Source(server.maintenance.dsn), moment=lambda covered: covered.ends)
    result = await drill([place], options)
    assert failures(result) == {}
    assert len(window.changes) > 10
    assert all(table.changes for table in window.changes)
    assert f"{len(window.changes)} tables that had changed were loaded and are equal" in found(result)[MOMENT]


async def test_moments_of_tables_that_were_compared_are_those_of_backups(server: Server) -> None:
    database = await server.create()
    await database.execute(BUILD)
    follower = comparing(database)
    await follower.begin()
    taken = [await follower.compare(*statements) for statements in CHANGES]
    covered = await newest_covered(follower.places)
    assert covered is not None
    assert set(covered.few) == {id_moment(one.id) for one in taken}
    for moment in covered.few:
        options = DrillOptions(given=Source(server.maintenance.dsn))
        result = await drill(follower.places, replace(options, moment=partial(_this, moment)))
        assert (failures(result), result.not_proved) == ({}, ())
        assert f"as of {moment.isoformat()}" in found(result)[MOMENT]
    await server.drop(database)


def _this(moment: datetime, _: Covered) -> datetime:
    return moment


async def test_without_an_incremental_backup_there_is_no_such_check(chained: Chained) -> None:
    for window in chained.windows:
        await chained.forget(window)
    result = await chained.drilled()
    assert (result.state, result.id) == ("success", chained.base.id)
    assert MOMENT not in found(result)


async def test_a_damaged_window_fails_it(chained: Chained) -> None:
    [damaged] = chained.windows[1].log.objects
    await chained.planter.flip(damaged.name)
    result = await chained.drilled()
    assert result.state == "failed"
    assert damaged.name in failures(result)["restore"]


async def test_a_window_that_is_missing_in_the_middle_fails_it(chained: Chained) -> None:
    await chained.forget(chained.windows[1])
    result = await chained.drilled()
    assert result.state == "failed"
    assert f"no chain of backups reaches {chained.windows[-1].id}" in failures(result)["restore"]


@pytest.fixture
async def followed_by_a_full(chained: Chained) -> Chained:
    """The newest backup is a full one, which needs no window: only a random moment does."""
    await chained.follower.full()
    return chained


async def test_windows_before_a_newer_full_backup_are_proved_too(followed_by_a_full: Chained) -> None:
    result = await followed_by_a_full.drilled()
    assert failures(result) == {}
    assert MOMENT in found(result)


async def test_a_damaged_window_fails_the_random_moment_alone(followed_by_a_full: Chained) -> None:
    for window in followed_by_a_full.windows[1:]:
        await followed_by_a_full.forget(window)
    [damaged] = followed_by_a_full.windows[0].log.objects
    await followed_by_a_full.planter.flip(damaged.name)
    result = await followed_by_a_full.drilled()
    assert result.state == "failed"
    assert set(failures(result)) == {MOMENT}
    assert damaged.name in failures(result)[MOMENT]


async def test_a_window_that_is_missing_fails_the_random_moment_alone(followed_by_a_full: Chained) -> None:
    await followed_by_a_full.forget(followed_by_a_full.windows[1])
    result = await followed_by_a_full.drilled()
    assert set(failures(result)) == {MOMENT}
    assert "no chain of backups reaches" in failures(result)[MOMENT]


SPOIL = """
    CREATE FUNCTION spoil() RETURNS event_trigger LANGUAGE plpgsql AS $$
    DECLARE made text;
    BEGIN
        FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands() LOOP
            EXECUTE 'INSERT INTO ' || made || ' DEFAULT VALUES';
        END LOOP;
    END $$;
    CREATE EVENT TRIGGER spoils ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION spoil();
"""


async def test_rows_that_come_back_otherwise_fail_the_random_moment(chained: Chained) -> None:
    server = chained.follower.database.server

    async def spoil() -> None:
        query = "SELECT datname FROM pg_database WHERE datname LIKE 'rowvault_drill_%'"
        [(name,)] = await server.maintenance.fetch(query)
        await server.database(name).execute(SPOIL)

    def on_progress(now: Progress) -> None:
        if now.phase.startswith("recovering a random moment"):
            thread = threading.Thread(target=lambda: asyncio.run(spoil()))
            thread.start()
            thread.join()

    result = await chained.drilled(on_progress)
    assert set(failures(result)) == {MOMENT}
    assert "does not hold what the backup has" in failures(result)[MOMENT]
