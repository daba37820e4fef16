"""Archives and reconciling, killed after any write: nothing partial is ever listed, and the next run goes on."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.places.sweep import sweep
from jobs.sync import sync
from jobs.verify import verify_backup
from storage.names import ARCHIVES, BACKUPS
from storage.repository import Repository
from tests.erasing import Unreliable
from tests.manifests import ID, OTHER_ID, SYSTEM, sound
from tests.places import backups_alike
from tests.storage.helpers import names

WRITES = range(10, 100)  # how many there are about: fewer would mean that nothing was killed


class Dying(Unreliable):
    """As a process that is killed leaves it, after so many writes; copies are writes, too."""

    async def copy(self, name: str, to: str) -> None:
        self._write()
        await super().copy(name, to)


Places = tuple[Repository, Repository]


async def two_places() -> Places:
    """Both hold the same two backups, verified."""
    made = []
    for name in ("local", "s3"):
        place = Repository(name, Dying())
        await place.bind(SYSTEM, "shop")
        for backup_id in (ID, OTHER_ID):
            await sound(backup_id).commit(place)
            await verify_backup([place], backup_id)
        made.append(place)
    return made[0], made[1]


async def archived(places: Places) -> None:
    assert await archive(places, ArchiveOptions()) is not None


async def in_step(places: Places) -> None:
    await sync(places)
    assert await backups_alike(*places)


async def killed_at_every_write(work: Callable[[Places], Awaitable[None]], number: int, *, empty: bool) -> int:
    """Do the work again and again, one more write before the end each time; how many there were in all."""
    for writes in count():
        places = await two_places()
        dying = places[number].backend
        assert isinstance(dying, Dying)
        if empty:
            dying.restore({})
        dying.writes_left = writes
        try:
            await work(places)
        except ConnectionAbortedError:
            dying.writes_left = None
            await require_only_whole(places)
            await work(places)
            await require_only_whole(places)
            await require_nothing_left(places)
        else:
            return writes
    raise AssertionError


async def require_only_whole(places: Places) -> None:
    for place in places:
        for entry in (await place.catalogue()).entries:
            assert (await verify_backup([place], entry.id)).state == "success"


async def require_nothing_left(places: Places) -> None:
    """A minute later a sweep removes what belongs to nobody."""
    for place in places:
        await sweep(place, datetime.now(UTC) + timedelta(seconds=61))
        known = {entry.id for entry in (await place.catalogue()).entries}
        for folder in (ARCHIVES, BACKUPS):
            assert {name.split("/")[1] for name in await names(place.backend, folder)} <= known
        assert await names(place.backend, "leases/") == []


@pytest.mark.parametrize("number", [0, 1])
async def test_an_archive_killed_after_any_write_is_whole_or_not_there(number: int) -> None:
    assert await killed_at_every_write(archived, number, empty=False) in WRITES


@pytest.mark.parametrize("number", [0, 1])
async def test_places_killed_after_any_write_while_they_are_reconciled_come_into_step(number: int) -> None:
    assert await killed_at_every_write(in_step, number, empty=True) in WRITES
