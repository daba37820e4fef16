"""Looks whether anything of an erasure is still there: in what backups hold, and in what earlier revisions left."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.erasing.damage import NOT_TOLD
from jobs.erasing.holdings import Held, Holdings, Reading, read_holdings
from jobs.erasing.ledger import marked_in
from jobs.erasing.locks import Superseded, still_there
from jobs.erasing.rewrite import look_through
from jobs.erasing.search import Searched
from jobs.errors import NotThere
from jobs.places.ledger import read_ledgers
from jobs.places.one_database import answering
from jobs.progress import OnProgress, Progress
from storage.erasures import Erasure
from storage.repository import Repository


async def the_erasure(repositories: Sequence[Repository], erasure_id: str) -> Erasure:
    """An entry of the ledger; raises `NotThere`."""
    for one in (await read_ledgers(await answering(repositories))).erasures:
        if one.id == erasure_id:
            return one
    raise NotThere(f"there is no erasure {erasure_id}", "rowvault trail shows the erasures")


@dataclass(frozen=True, slots=True)
class Remaining:
    """Something of an erasure that a place still holds: which object, and how many rows, keys or changes in it."""

    place: str
    backup: str
    object: str
    count: int


async def superseded(repositories: Sequence[Repository], erasure: Erasure) -> tuple[Superseded, ...]:
    """Objects of earlier revisions that an erasure which is not done could not remove from places that answer."""
    return () if erasure.state == "done" else await still_there(await answering(repositories))


async def check(repositories: Sequence[Repository], erasure: Erasure, on_progress: OnProgress) -> tuple[Remaining, ...]:
    """Look through every backup of an erasure's time again; what of it is still there."""
    holdings: Holdings = await read_holdings(repositories, erasure.moment, NOT_TOLD)
    marked, searched = marked_in(erasure, repositories), Searched()
    for number, reading in enumerate(holdings.readings.values()):
        on_progress(Progress("checking", number, len(holdings.readings), counted=True))
        await look_through(reading, marked, searched)
    return tuple(_remaining(holdings, searched))


def _remaining(holdings: Holdings, searched: Searched) -> list[Remaining]:
    def one(held: Held, reading: Reading) -> Remaining:
        name = reading.part.objects[0].name
        return Remaining(held.repository.place, held.manifest.id, name, searched.changed(reading))

    return [one(held, reading) for held in holdings.held for reading in held.readings if searched.changed(reading)]
