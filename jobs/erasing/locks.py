"""What places do not let go of: asked before a person says yes, and said of what was to be removed."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from jobs.erasing.holdings import Held, Holdings
from jobs.erasing.search import Searched
from jobs.places.sweep import earlier_revisions
from storage.backends.protocol import Locked
from storage.errors import NotFound
from storage.manifest import Manifest
from storage.repository import Repository

AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class StillLocked:
    """What a place does not let go of: an object of an earlier revision, `until` then; None: until a hold is lifted."""

    place: str
    object: str
    until: datetime | None


def still_locked(repository: Repository, locked: Iterable[Locked]) -> list[StillLocked]:
    """What a place did not let go of."""
    return [StillLocked(repository.place, one.name, one.until) for one in locked]


def by_place(locked: Iterable[StillLocked]) -> dict[str, list[StillLocked]]:
    """The same, place by place."""
    found: dict[str, list[StillLocked]] = {}
    for one in locked:
        found.setdefault(one.place, []).append(one)
    return found


def last_until(locked: Sequence[StillLocked]) -> datetime | None:
    """When the last lock ends; None if that is open."""
    untils = [one.until for one in locked]
    return None if None in untils else max(one for one in untils if one is not None)


@dataclass(frozen=True, slots=True)
class Superseded:
    """An object of an earlier revision that is still in a place, and so are the rows in it; `lock` is what keeps it."""

    place: str
    object: str
    lock: Locked | None


async def still_there(repositories: Sequence[Repository]) -> tuple[Superseded, ...]:
    """What erasures put something else in the place of, and could not remove yet."""
    wanted = [(place, name) for place in repositories for name in await earlier_revisions(place)]
    found = list[Superseded]()
    for begin in range(0, len(wanted), AT_ONCE):
        asked = wanted[begin : begin + AT_ONCE]
        answers = await asyncio.gather(*(_lock(*one) for one in asked))
        found += (Superseded(place.place, name, lock) for (place, name), lock in zip(asked, answers, strict=True))
    return tuple(found)


async def locks_ahead(holdings: Holdings, searched: Searched) -> tuple[StillLocked, ...]:
    """Which objects that are to go are locked now. A request for each: all of them were read whole just before."""
    wanted = [(held.repository, name) for held in holdings.held for name in dict.fromkeys(_going(held, searched))]
    found = list[StillLocked]()
    for begin in range(0, len(wanted), AT_ONCE):
        asked = wanted[begin : begin + AT_ONCE]
        answers = await asyncio.gather(*(_lock(*one) for one in asked))
        for (repository, _), locked in zip(asked, answers, strict=True):
            found += still_locked(repository, [locked] if locked else [])
    return tuple(found)


async def _lock(repository: Repository, name: str) -> Locked | None:
    with suppress(NotFound):
        return await repository.backend.lock_of(name)
    return None


def _going(held: Held, searched: Searched) -> Iterator[str]:
    """The objects of a backup that its next revision will not list."""
    changed = [reading for reading in held.readings if searched.changed(reading)]
    for reading in changed:
        yield from (stored.name for stored in reading.part.objects)
    if changed and isinstance(held.manifest, Manifest):
        dump = held.manifest.dump
        yield from (stored.name for stored in (dump.load_script, dump.instructions, *held.manifest.exports))
