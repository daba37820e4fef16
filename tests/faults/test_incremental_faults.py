"""An incremental backup that ends anywhere, a server that crashes, bytes that rot: nothing is lost, nothing twice."""

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.chains.points import At
from jobs.places.catalogue import list_backups
from storage.errors import Corrupt
from storage.increments import Increment
from storage.repository import Repository
from tests.conftest import Bucket, CreateDatabase
from tests.daemons import until
from tests.faults.commands import DIFFERENCE, document, off_site, opened, refuse, settings_of, succeed
from tests.faults.gate import Gate, Kind, is_manifest
from tests.faults.places import Objects, accounted_for, expire_leases, require_whole
from tests.following import Follower, comparing, following
from tests.places import Planter
from tests.programs import rowvault, running_rowvault
from tests.servers import Database, own_server
from tests.storage.meddler import Request

TABLE = "CREATE TABLE items (id serial PRIMARY KEY, n int DEFAULT 0)"
CRASHES = 4


async def windows_of(*places: Repository) -> list[Increment]:
    """Every window that was committed, oldest first."""
    listed = reversed((await list_backups(places)).backups)
    found = [await places[0].backup(one.id) for one in listed]
    return [one for one in found if isinstance(one, Increment)]


async def require_nothing_lost_or_twice(follower: Follower, changes: int) -> None:
    """The newest backup is what is in the database, and each of so many changes was counted once."""
    await follower.require_latest()
    windows = await windows_of(*follower.places)
    assert [one.start for one in windows[1:]] == [one.end for one in windows[:-1]]
    assert sum(one.rows for one in windows) == changes


def stores_an_object(request: Request) -> bool:
    return request.method == "PUT" and "/backups/" in request.path


def records_the_verification(request: Request) -> bool:
    """The first thing that is written after the server let the window go."""
    return request.method == "PUT" and "/verifications/" in request.path


STEPS: dict[str, tuple[Kind, bool, int]] = {
    "after it was stored": (stores_an_object, True, 0),
    "before its manifest": (is_manifest, False, 0),
    "after its manifest and before the server lets it go": (is_manifest, True, 1),
    "after the server let it go": (records_the_verification, False, 1),
}
"""At which request it is killed, before or after the store has taken that, and how many windows there are then."""


@pytest.mark.parametrize(("kind", "after", "committed"), STEPS.values(), ids=STEPS)
async def test_killed_between_any_two_steps_the_next_run_goes_on_and_nothing_is_lost_or_twice(
    database: Database, bucket: Bucket, objects: Objects, gate: Gate, kind: Kind, after: bool, committed: int
) -> None:
    await database.execute(f"{TABLE}; INSERT INTO items DEFAULT VALUES")
    settings = settings_of(database) | off_site(bucket)
    async with opened(settings) as app:
        await following(database, *app.repositories).begin()
    await database.execute("INSERT INTO items SELECT FROM generate_series(1, 10); UPDATE items SET n = 1")
    gate.hold(kind, after=after)
    async with running_rowvault("backup", "incremental", env=settings | off_site(bucket, gate.url)) as process:
        await until(lambda: _reached(gate))
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    async with opened(settings) as app:
        assert len(await windows_of(*app.repositories)) == committed
        await expire_leases(app.repositories)
        follower = following(database, *app.repositories)
        await follower.change("DELETE FROM items WHERE id = 1")
        await require_nothing_lost_or_twice(follower, 22)
        await require_whole(app.repositories)
        assert await objects.keys() == await accounted_for(app.repositories[0])


async def _reached(gate: Gate) -> bool:
    return gate.reached.is_set()


async def test_a_server_that_crashes_after_each_window_makes_nothing_be_lost_or_come_twice() -> None:
    async with own_server(checkpoint_timeout="1d") as server:
        database = await server.create()
        await database.execute(TABLE)
        follower = following(database)
        await follower.begin()
        moments, went_back = [], 0
        for _ in range(CRASHES):
            await database.execute("INSERT INTO items SELECT FROM generate_series(1, 5); UPDATE items SET n = n + 1")
            moments.append((await follower.now(), await follower.lines()))
            window = await follower.window()
            await server.embedded.stop(immediate=True)
            await server.embedded.start()
            went_back += await database.value(
                "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn < $1::text::pg_lsn", window.end
            )
        assert went_back == CRASHES, "what this test is about did not happen"
        await follower.window()
        await require_nothing_lost_or_twice(follower, 4 * 5 + 5 + 10 + 15 + 20)
        for moment, lines in moments:
            assert await follower.backed_up(At(moment)) == lines


async def test_a_crash_takes_nothing_back_that_a_backup_has() -> None:
    """Else its xids would be given again, and rows that were written under them look as if they had been seen."""
    async with own_server(checkpoint_timeout="1d", wal_writer_delay="10s", synchronous_commit="off") as server:
        database = await server.create()
        await database.execute(TABLE)
        await database.execute("CHECKPOINT")
        follower = comparing(database)
        for number, kind in enumerate(("full", "incremental"), 1):
            await database.execute("INSERT INTO items SELECT FROM generate_series(1, 5)")
            assert (await follower.take()).kind == kind
            await server.embedded.stop(immediate=True)
            await server.embedded.start()
            await database.execute(f"UPDATE items SET n = {number} WHERE id = 3")
            assert (await follower.take()).kind == "incremental"
            await follower.require_latest()


@dataclass(frozen=True)
class Damaged:
    """A full backup and two windows on disk, to be damaged; the settings that name them."""

    follower: Follower
    settings: dict[str, str]
    first: Increment
    second: Increment

    @property
    def planter(self) -> Planter:
        return Planter(self.follower.primary.backend)


@pytest.fixture
async def damaged(database: Database, tmp_path: Path) -> AsyncIterator[Damaged]:
    await database.execute(TABLE)
    settings = settings_of(database, tmp_path)
    async with opened(settings) as app:
        follower = following(database, *app.repositories)
        await follower.begin()
        first = await follower.change("INSERT INTO items SELECT FROM generate_series(1, 50)")
        second = await follower.change("DELETE FROM items WHERE id < 10")
        yield Damaged(follower, settings, first, second)


async def test_a_flipped_byte_in_a_window_is_refused_by_a_restore_and_found_by_verifying(
    damaged: Damaged, create_database: CreateDatabase
) -> None:
    (stored,) = damaged.first.objects()
    await damaged.planter.flip(stored.name)
    target = await create_database()
    for wanted in ("latest", damaged.first.id, f"--at={damaged.first.created_at.isoformat()}"):
        error = await refuse("restore", wanted, "--to", target.dsn, "--yes", settings=damaged.settings, code=DIFFERENCE)
        assert stored.name in error["message"]
    assert await target.fetch("SELECT FROM pg_tables WHERE schemaname = 'public'") == []
    answer = await rowvault("verify", damaged.first.id, "--json", env=damaged.settings)
    assert answer.returncode == DIFFERENCE
    assert [problem["object"] for problem in document(answer)["problems"]] == [stored.name]


async def test_what_came_before_a_damaged_window_still_comes_back(
    damaged: Damaged, create_database: CreateDatabase
) -> None:
    (stored,) = damaged.second.objects()
    await damaged.planter.flip(stored.name)
    with pytest.raises(Corrupt):
        await damaged.follower.backed_up()
    assert len((await damaged.follower.backed_up(wanted=damaged.first.id))["public.items"]) == 50


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("window", "changes were taken from the slot that no backup has, or the one that has them cannot be read"),
        ("full backup", "no full backup that can be read was taken since changes are captured"),
    ],
)
async def test_a_manifest_that_cannot_be_read_stops_no_later_backup(damaged: Damaged, which: str, why: str) -> None:
    backup_id = damaged.second.id if which == "window" else str(damaged.second.base)
    await damaged.planter.flip(await damaged.follower.primary.find(backup_id))
    result = await damaged.follower.take()
    assert (result.kind, result.state) == ("full", "success")
    assert why in result.warnings[0]
    await damaged.follower.change("INSERT INTO items DEFAULT VALUES")
    await damaged.follower.require_latest()


async def test_a_moment_that_only_a_damaged_manifest_reaches_is_refused_as_damaged(damaged: Damaged) -> None:
    await damaged.planter.flip(str(damaged.second.name()))
    with pytest.raises(Corrupt, match=damaged.second.id):
        await damaged.follower.backed_up(At(damaged.second.created_at))


async def test_a_full_backup_is_taken_beside_a_window_whose_manifest_cannot_be_read(damaged: Damaged) -> None:
    await damaged.planter.flip(str(damaged.second.name()))
    await succeed("backup", "full", settings=damaged.settings)
    await damaged.follower.require_latest()
