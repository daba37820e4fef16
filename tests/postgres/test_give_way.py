"""A backup under schema changes, and under sessions that end: it gives way, tries again, or fails clearly."""

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import replace

import pytest

from jobs.copying.table_copy import CopyOptions
from jobs.postgres.connection import Source
from jobs.postgres.ddl import dump_schema
from jobs.postgres.errors import ConnectionLost, Contended, Unreachable
from jobs.postgres.snapshot import LockLimits, open_snapshot
from jobs.postgres.tools import find_tools
from jobs.preparing import BackupOptions
from jobs.progress import Progress
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Locked
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.places import ActsOn
from tests.proxy import FaultProxy
from tests.round_trip import Taken, back_up, memory, nothing_committed, selection
from tests.servers import Database, own_server
from tests.sessions import end_session, holding, locked, sessions, until, waiting_for_a_lock

ROWS = 100_000
COUNTS = {"public.big": ROWS, "public.small": 1, "public.last": ROWS // 20}
TABLES = f"""
    CREATE TABLE big AS SELECT n, repeat('x', 200) AS filler FROM generate_series(1, {ROWS}) n;
    CREATE TABLE small AS SELECT 1 AS n;
    CREATE TABLE last AS SELECT n, repeat('x', 200) AS filler FROM generate_series(1, {ROWS // 20}) n;
"""
# So slow that copying lasts until something is done about it.
SLOW = CopyOptions(streams=2, pages_per_part=1500, rate_limit=4_000_000, lost_after=3)
LIMITS = LockLimits(lock_timeout=1.0, give_way_after=0.4, lost_after=3)
# A session that is lost, or one of pg_dump's that cannot be begun any more, whichever shows first.
GONE = (ConnectionLost, Unreachable)
ONCE = BackupOptions(attempts=1, locks=LIMITS, copying=SLOW)


@pytest.fixture
async def tables(create_database: CreateDatabase) -> Database:
    return await create_database(key="give_way", build=TABLES)


@pytest.fixture
def place() -> Repository:
    return memory()


async def copying(database: Database, streams: int = SLOW.streams) -> None:
    """Wait until every stream copies rows of the large table, after those of the small one."""

    async def all_of_them() -> bool:
        return len(await sessions(database, "copy %", "query LIKE 'COPY %big%'")) == streams

    await until(all_of_them)


async def our_sessions_are_gone(database: Database) -> None:
    async def none_left() -> bool:
        return not await sessions(database, "%")

    await until(none_left, within=10)


async def test_a_statement_that_waits_on_us_gets_through_and_the_backup_is_taken_after_all(tables: Database) -> None:
    progress: list[Progress] = []
    options = replace(ONCE, attempts=3, copying=replace(SLOW, rate_limit=20_000_000))
    taking = asyncio.create_task(back_up(tables, options=options, on_progress=progress.append))
    await copying(tables)
    async with asyncio.timeout(LIMITS.give_way_after + 3):
        await tables.execute("ALTER TABLE big ADD later int DEFAULT 7")
    taken: Taken = await taking
    assert len([one for one in progress if "beginning again" in one.phase]) == 1
    assert taken.rows == COUNTS
    assert "later" in {column.name for column in taken.manifest.tables[0].columns}


async def test_after_the_last_attempt_it_says_which_table_and_who(tables: Database, place: Repository) -> None:
    taking = asyncio.create_task(back_up(tables, options=ONCE, repository=place))
    await copying(tables)
    async with tables.connect() as attacker:
        await attacker.execute("TRUNCATE small")
        with pytest.raises(Contended, match=rf"public\.small: server pid {attacker.get_server_pid()} waited"):
            await taking
    assert await nothing_committed(place)
    await our_sessions_are_gone(tables)


async def test_a_table_that_stays_locked_is_named_with_its_holder(tables: Database, place: Repository) -> None:
    async with holding(tables, "LOCK TABLE small IN ACCESS EXCLUSIVE MODE") as holder:
        with pytest.raises(Contended, match=rf"public\.small, which server pid {holder.get_server_pid()} holds"):
            await back_up(tables, options=ONCE, repository=place)
    assert await nothing_committed(place)


async def test_workers_never_queue_behind_a_schema_change(tables: Database, place: Repository) -> None:
    """They would wait for somebody who waits for us. (pg_dump may wait, so that it is not what fails first.)"""
    patient = replace(LIMITS, lock_timeout=60, give_way_after=60)
    options = replace(ONCE, locks=patient, copying=replace(SLOW, streams=1, rate_limit=20_000_000))
    taking = asyncio.create_task(back_up(tables, options=options, repository=place))
    await copying(tables, streams=1)
    async with tables.connect() as attacker:
        attack = asyncio.create_task(attacker.execute("TRUNCATE last"))
        # The worker comes to that table last, when somebody waits to truncate it.
        with pytest.raises(Contended, match=r"locking public\.last: could not obtain lock"):
            await taking
        await attack


async def test_pg_dump_waits_for_a_lock_no_longer_than_we_do(tables: Database, place: Repository) -> None:
    """It locks tables that are not chosen too, for their definitions."""
    async with holding(tables, "LOCK TABLE small IN ACCESS EXCLUSIVE MODE"):
        async with asyncio.timeout(10):
            with pytest.raises(Contended, match=r"pg_dump: .* LOCK TABLE public\.big, public\.small"):
                await back_up(tables, ["big"], options=replace(ONCE, copying=CopyOptions()), repository=place)


@pytest.mark.parametrize("session", ["snapshot", "copy 0"])
async def test_losing_a_session_fails_the_run_and_commits_nothing(
    tables: Database, place: Repository, session: str
) -> None:
    taking = asyncio.create_task(back_up(tables, options=ONCE, repository=place))
    await copying(tables)
    await end_session(tables, session)
    with pytest.raises(ConnectionLost):
        await taking
    assert await nothing_committed(place)
    assert [one.name async for one in place.backend.list("backups/")] == []
    await our_sessions_are_gone(tables)


async def test_somebody_who_waits_on_us_gets_through_though_the_place_does_not_answer_yet(tables: Database) -> None:
    """Nothing is copied before the place has taken a lease."""
    place = Repository("memory", ActsOn(".json", asyncio.Event().wait))
    taking = asyncio.create_task(back_up(tables, options=ONCE, repository=place))
    await locked(tables, "big")
    async with asyncio.timeout(LIMITS.give_way_after + 3):
        await tables.execute("ALTER TABLE big ADD later int")
    with pytest.raises(Contended, match=r"gave way on public\.big"):
        await taking


class RemovesLater(MemoryBackend):
    """A place that removes nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_remove = asyncio.Event()

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        await self.may_remove.wait()
        return await super().purge(names)


async def test_somebody_who_waits_on_us_does_not_wait_for_what_is_removed_from_the_place(tables: Database) -> None:
    backend = RemovesLater()
    taking = asyncio.create_task(back_up(tables, options=ONCE, repository=Repository("memory", backend)))
    await copying(tables)
    async with asyncio.timeout(LIMITS.give_way_after + 3):
        await tables.execute("ALTER TABLE big ADD later int")
    backend.may_remove.set()
    with pytest.raises(Contended, match=r"gave way on public\.big"):
        await taking


async def test_losing_the_locks_just_before_the_end_fails_the_run_too(tables: Database) -> None:
    """The rows that were copied last may have been emptied first."""
    place = Repository("memory", ActsOn("RESTORE.txt", lambda: end_session(tables, "snapshot")))
    with pytest.raises(ConnectionLost):
        await back_up(tables, repository=place)
    assert await nothing_committed(place)


async def test_losing_the_session_of_pg_dump_fails_the_run_and_commits_nothing(
    tables: Database, place: Repository
) -> None:
    async with holding(tables, "LOCK TABLE small IN ACCESS EXCLUSIVE MODE"):  # pg_dump waits for it
        options = replace(ONCE, locks=replace(LIMITS, lock_timeout=10))
        taking = asyncio.create_task(back_up(tables, ["big"], options=options, repository=place))
        await waiting_for_a_lock(tables, "schema")
        await end_session(tables, "schema")
        with pytest.raises(ConnectionLost):
            await taking
    assert await nothing_committed(place)


async def test_a_server_that_stops_while_copying_is_an_error_and_the_next_run_succeeds() -> None:
    place = memory()
    async with own_server() as server:
        tables = await server.create()
        await tables.execute(TABLES)
        for crash in (False, True):
            taking = asyncio.create_task(back_up(tables, options=ONCE, repository=place))
            await copying(tables)
            await server.embedded.stop(immediate=crash)
            with pytest.raises(GONE):
                await taking
            assert await nothing_committed(place)
            await server.embedded.start()
        taken = await back_up(tables, repository=place)
        assert taken.rows == COUNTS


@pytest.mark.parametrize("fault", ["reset", "cut", "stall", "refuse"])
async def test_a_poor_network_is_an_error_and_never_hangs(tables: Database, place: Repository, fault: str) -> None:
    async with FaultProxy("127.0.0.1", tables.server.port) as proxy:
        dsn = tables.dsn.replace(f":{tables.server.port}/", f":{proxy.port}/")
        taking = asyncio.create_task(back_up(dsn, options=ONCE, repository=place))
        await copying(tables)
        if fault == "refuse":
            await proxy.refuse()
        else:
            getattr(proxy, fault)()
        async with asyncio.timeout(15):
            with pytest.raises(GONE):
                await taking
        assert await nothing_committed(place)


async def test_one_stalled_stream_is_an_error_though_the_other_sessions_live(
    tables: Database, place: Repository
) -> None:
    """As when a firewall forgets one connection of several."""
    options = replace(ONCE, copying=replace(SLOW, lost_after=1.0))
    taking = asyncio.create_task(back_up(tables, options=options, repository=place))
    await copying(tables)
    [pid] = await sessions(tables, "copy 0")
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(15):
            with pytest.raises(ConnectionLost, match="no data for 1 s"):
                await taking
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_dump_that_begins_after_the_snapshot_was_lost_says_so(tables: Database) -> None:
    source = Source(tables.dsn)
    tools = find_tools(tables.server.major, None)
    with pytest.raises(ConnectionLost, match="snapshot"):
        async for _ in dump_schema(tools, source, "00000003-0000001B-1", ["public"], [], 5):
            pass


@pytest.mark.parametrize("change", ["DROP TABLE small", "ALTER TABLE small RENAME TO other", "DROP VIEW seen"])
async def test_what_is_dropped_before_pg_dump_comes_to_it_is_a_reason_to_begin_again(
    tables: Database, change: str
) -> None:
    """It dumps definitions of all tables and views; only those tables are locked of which rows are copied."""
    await tables.execute("CREATE VIEW seen AS SELECT 1 AS n")
    source, tools = Source(tables.dsn), find_tools(tables.server.major, None)
    async with open_snapshot(source, selection(["big"]), LIMITS) as session:
        await tables.execute(change)
        with pytest.raises(Contended, match="pg_dump"):
            async for _ in dump_schema(tools, source, session.snapshot.id, ["public"], [], 5):
                pass


async def test_cancelling_leaves_no_session_behind(tables: Database, place: Repository) -> None:
    taking = asyncio.create_task(back_up(tables, options=ONCE, repository=place))
    await copying(tables)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert await nothing_committed(place)
    await our_sessions_are_gone(tables)
