"""`rowvault prune BACKUP`: what a person names goes from every place, with what builds on it, and nothing else."""

from pathlib import Path

import pytest

from jobs.errors import NotThere, UnsafeTarget
from jobs.places.leasing import leased_for_reading
from jobs.removal import plan_removal, remove
from storage.errors import Unavailable
from tests.conftest import CreateDatabase
from tests.end_to_end.test_prune import DAY, FOUR, Place, at, committed, fulls, ids, left
from tests.faults.commands import REFUSED, settings_of, succeed
from tests.following import following
from tests.manifests import made_up_full, made_up_window
from tests.places import contents
from tests.programs import rowvault

BUILD = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)"


@pytest.fixture
def places() -> tuple[Place, Place]:
    return Place("local", FOUR), Place("s3", FOUR)


async def test_it_goes_from_every_place_with_what_builds_on_it(places: tuple[Place, Place]) -> None:
    backups = fulls(3)
    await committed(backups, *places)
    windows = [made_up_window(day * DAY + 5, 0, 1, base=backups[day].manifest.id) for day in range(3)]
    for place in places:
        for one in windows:
            await place.commit(one)
    wanted = backups[1].manifest.id
    planned = await plan_removal(places, [wanted])
    assert {(row.place, row.id) for row in planned.doing("remove")} == {
        (place.place, one) for place in places for one in (wanted, windows[1].id)
    }
    assert len(await left(places[0])) == 6
    assert (await remove(places, [wanted])).state == "success"
    for place in places:
        assert await left(place) == ids([backups[0], backups[2]]) | {windows[0].id, windows[2].id}
        assert not [name for name in await contents(place.backend) if wanted in name]


async def test_windows_that_a_later_full_backup_needs_stay(places: tuple[Place, Place]) -> None:
    [local, _] = places
    one, later = made_up_full(0, since=0, lsn=100), made_up_full(DAY, since=250, lsn=300)
    windows = [
        made_up_window(DAY // 2 + number, 100 * number, 100 * (number + 1), base=one.manifest.id) for number in range(3)
    ]
    await committed([one, later], local)
    for window in windows:
        await local.commit(window)
    await remove([local], [one.manifest.id])
    assert await left(local) == {later.manifest.id, windows[2].id}


async def test_with_a_window_go_those_that_come_after_it_until_a_full_backup_needs_none_of_them(
    places: tuple[Place, Place],
) -> None:
    """What was read of the log after a gap can be brought back by nothing."""
    [local, _] = places
    one, later = made_up_full(0, since=0, lsn=100), made_up_full(DAY, since=350, lsn=400)
    await committed([one, later], local)
    windows = [
        made_up_window(1 + number, 100 * number, 100 * (number + 1), base=one.manifest.id) for number in range(4)
    ]
    after = made_up_window(DAY + 1, 400, 500, base=later.manifest.id)
    for window in (*windows, after):
        await local.commit(window)
    await remove([local], [windows[1].id])
    assert await left(local) == ids([one, later]) | {windows[0].id, windows[3].id, after.id}
    await remove([local], [windows[3].id])
    assert await left(local) == ids([one, later]) | {windows[0].id}


async def test_what_is_marked_being_read_locked_or_the_last_is_refused(places: tuple[Place, Place]) -> None:
    [local, _] = places
    backups = fulls(2)
    await committed(backups, local)
    wanted = backups[0].manifest.id
    await local.keep(wanted, "law")
    with pytest.raises(UnsafeTarget, match="has a keep mark"):
        await remove([local], [wanted])
    await local.release(wanted)
    async with leased_for_reading(local, wanted, "verify"):
        with pytest.raises(UnsafeTarget, match="is being read"):
            await remove([local], [wanted])
    local.store.locked_until = at(9)
    with pytest.raises(UnsafeTarget, match="in local: it is locked until"):
        await remove([local], [wanted])
    local.store.locked_until = None
    with pytest.raises(UnsafeTarget, match="no good full backup would be left"):
        await remove([local], sorted(ids(backups)))
    await local.record_verification(backups[1].manifest.id, "failed", {})
    with pytest.raises(UnsafeTarget, match="no good full backup would be left"):
        await remove([local], [wanted])
    with pytest.raises(NotThere, match="there is no backup"):
        await remove([local], ["20990101T000000.000Z-full-0a1b2c"])
    assert await left(local) == ids(backups)


async def test_while_a_place_is_silent_nothing_goes_that_it_would_bring_back(places: tuple[Place, Place]) -> None:
    local, s3 = places
    await committed(fulls(2), local, s3)
    s3.store.away = True
    with pytest.raises(Unavailable, match="s3 does not answer"):
        await remove(places, [fulls(2)[0].manifest.id])
    assert await left(local) == ids(fulls(2))


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_chain_goes_on_with_a_full_backup_after_a_window_of_it_was_removed(
    create_database: CreateDatabase, which: int
) -> None:
    follower = following(await create_database(key="removal", build=BUILD))
    await follower.begin()
    windows = [await follower.change(f"INSERT INTO t VALUES ({number})") for number in (2, 3, 4)]
    await remove(follower.places, [windows[which].id])
    await follower.database.execute("INSERT INTO t VALUES (5)")
    assert (await follower.take()).kind == "full"
    await follower.require_latest()


async def test_a_chain_goes_on_after_its_newest_base_was_removed(create_database: CreateDatabase) -> None:
    follower = following(await create_database(key="removal", build=BUILD))
    await follower.begin()
    await follower.change("INSERT INTO t VALUES (2)")
    second = await follower.full()
    await follower.change("INSERT INTO t VALUES (3)")
    await remove(follower.places, [second.id])
    for number in (4, 5):
        await follower.database.execute(f"INSERT INTO t VALUES ({number})")
        await follower.take()
        await follower.require_latest()


async def test_the_command_shows_what_would_go_asks_and_is_remembered(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    settings = settings_of(await create_database(key="removal", build=BUILD), tmp_path / "backups")
    first, second = [(await succeed("backup", settings=settings))["id"] for _ in range(2)]
    shown = await succeed("prune", first, "--dry-run", settings=settings)
    assert [(row["id"], row["action"]) for row in shown["backups"]] == [(first, "remove")]
    asked = await rowvault("prune", first, env=settings)
    assert (asked.returncode, first in asked.stderr) == (REFUSED, True)
    done = await succeed("prune", first, "--yes", settings=settings)
    assert [(row["id"], row["action"]) for row in done["backups"]] == [(first, "removed")]
    assert [one["id"] for one in await succeed("list", settings=settings)] == [second]
    entry = (await succeed("trail", settings=settings))["entries"][-1]
    assert (entry["what"], entry["details"]["named"]) == ("prune", [first])
