"""Comparing what is damaged, locked, hidden or given up: never a wrong answer, and nothing is left behind."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.diff import DiffOptions, DiffResult, diff_live
from jobs.postgres.connection import Source
from jobs.postgres.errors import ConnectionLost, Contended, MissingPrivilege
from jobs.progress import Progress
from storage.backends.memory import MemoryBackend
from storage.errors import Corrupt, NotFound
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.diffing import LIMITS, TOUCHED, by_name, counts, diff, diff_shop, plant
from tests.places import DAMAGES, Planter, contents
from tests.round_trip import EVERYTHING, SMALL_PIECES, Taken, back_up, memory, selection
from tests.servers import Database
from tests.sessions import end_session, holding, sessions, until


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await diff_shop(create_database)


@pytest.fixture
async def taken(shop: Database) -> Taken:
    return await back_up(shop, copying=SMALL_PIECES)


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
