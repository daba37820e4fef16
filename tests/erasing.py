"""Erasing in tests: a database that is followed, whose subjects are erased; what is left of them anywhere."""

from collections.abc import Sequence

from jobs.erase import EraseResult, answering, erase
from jobs.erase_plan import Children, ErasePlan, drained, plan_erasure
from jobs.erase_subject import Predicate
from jobs.postgres.connection import session
from jobs.progress import no_progress
from jobs.table_copy import CopyOptions
from jobs.verify import verify_backup
from storage.codecs import Tally, decompressed
from storage.objects import get
from storage.repository import Repository
from tests.following import Follower


async def plan(follower: Follower, predicate: Predicate, children: Children | None = None) -> ErasePlan:
    """What an erasure would do, everything stored that was committed before."""
    taken = await follower.take()
    until = await drained(follower.source, await follower.primary.backup(taken.id))
    there = await answering(follower.places)
    async with session(follower.source, "erase") as connection:
        return await plan_erasure(connection, there, predicate, children, until, no_progress)


async def erased(
    follower: Follower, column: str, value: str, *tables: str, children: Children | None = None, path: str = ""
) -> EraseResult:
    """Erase, as the command does; every backup must be whole then."""
    predicate = Predicate(column, value, tables, tuple(path.split(".")) if path else ())
    result = await erase(await plan(follower, predicate, children), follower.places, CopyOptions(), no_progress)
    assert not result.problems
    await require_whole(follower.places)
    return result


async def require_whole(places: Sequence[Repository]) -> None:
    """Every backup verifies in every place, and nothing lies there that belongs to none."""
    for place in places:
        catalogue = await place.catalogue()
        assert not catalogue.superseded
        for entry in catalogue.entries:
            assert (await verify_backup([place], entry.id)).state == "success"
            listed = {stored.name for stored in (await place.backup(entry.id)).objects()}
            assert {stored.name async for stored in place.objects(entry.id)} == listed


async def objects_with(places: Sequence[Repository], *texts: bytes) -> list[str]:
    """The names of all objects, decompressed, that hold any of these bytes."""
    found = []
    for place in places:
        async for stored in place.backend.list():
            data = await get(place.backend, stored.name)
            plain = _plain(stored.name, data) if stored.name.endswith(".zst") else data
            if any(text in plain for text in texts):
                found.append(f"{place.place}/{stored.name}")
    return found


def _plain(name: str, data: bytes) -> bytes:
    blocks = iter((data, b""))
    return b"".join(decompressed(name, lambda: next(blocks), Tally()))
