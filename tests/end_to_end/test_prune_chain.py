"""Chains that stay can be brought back after pruning, moment by moment; also from before a damaged base."""

from datetime import UTC, datetime

import pytest

from jobs.chains.points import At
from jobs.errors import NotThere
from jobs.prune import prune
from storage.backends.memory import MemoryBackend
from storage.repository import Repository
from storage.retention import Policy
from tests.following import following
from tests.servers import Database

NEWEST_ONLY = Policy(daily=1, weekly=0, monthly=0, incremental_days=0)


@pytest.mark.parametrize("damaged", [False, True])
async def test_every_moment_of_a_chain_that_stays_comes_back(database: Database, damaged: bool) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    place = Repository("local", MemoryBackend(), policy=NEWEST_ONLY)
    follower = following(database, place)
    oldest, moments = await follower.begin(), []
    for number in range(6):
        await follower.change(
            f"INSERT INTO items VALUES ({number}, 'new'), ({number + 100}, 'another')",
            f"DELETE FROM items WHERE id = {number + 99}",
        )
        moments.append((await follower.now(), await follower.lines()))
        if number in {1, 3}:
            base = await follower.full()
    if damaged:
        await place.record_verification(base.id, "failed", {})
    result = await prune([place], datetime.now(UTC))
    left = {entry.id for entry in (await place.catalogue()).entries}
    assert result.doing("removed")
    assert {oldest.id, base.id} & left == {base.id}
    if not damaged:
        await follower.require_latest()
    reachable = [one for one in moments if damaged or one[0] > base.created_at]
    assert len(reachable) >= 2
    for moment, lines in reachable[2 if damaged else 0 : -1]:
        assert await follower.backed_up(At(moment)) == lines
    with pytest.raises(NotThere):
        await follower.backed_up(At(moments[0][0]))


async def test_a_policy_that_wants_no_incremental_backups_does_not_break_the_chain(database: Database) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    follower = following(database, Repository("local", MemoryBackend(), policy=NEWEST_ONLY))
    await follower.begin()
    window = await follower.change("INSERT INTO items VALUES (1, 'new')")
    await follower.full()
    await prune(follower.places, datetime.now(UTC))
    after = await follower.change("INSERT INTO items VALUES (2, 'another')")
    assert after.start == window.end
    await follower.require_latest()
