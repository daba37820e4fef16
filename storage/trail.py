"""The audit trail: who did what, when, and with which outcome. Append-only, each entry holding the hashes before it.

Every place has the same entries, byte for byte, under names that say their hash, so that copying never conflicts.
Places that were apart, or writers at the same moment, may both go on from one entry; the next one names both ends.
Nothing is ever rewritten, and nothing is lost.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError, Unavailable
from storage.names import REPOSITORY, TRAIL
from storage.objects import get
from storage.repository import Repository

T = TypeVar("T")
ANSWER_SECONDS = 20.0  # for each step in each place
MOST_PREVIOUS = 8  # what has room in a name of 230 bytes; further ends are named by the entry after
_SHORT = 16

_NAME = re.compile(
    rf"{TRAIL}(?P<number>\d{{10,15}})~(?P<sha256>[0-9a-f]{{64}})(?P<previous>(?:~[0-9a-f]{{{_SHORT}}})*)\.json"
)


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be remembered. `details` hold no secret and no row data."""

    at: datetime
    who: str
    what: str
    outcome: str
    backup: str | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


class Entry(BaseModel):
    """One entry as it is stored. `places` are those that were in step, and were to take it, when it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    number: int
    previous: tuple[str, ...]
    places: tuple[str, ...]
    at: datetime
    who: str
    what: str
    outcome: str
    backup: str | None
    details: dict[str, JsonValue]


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """What an entry's name says: its number and hash, and how the hashes of those before it begin."""

    number: int
    sha256: str
    previous: tuple[str, ...]

    def __str__(self) -> str:
        before = "".join(f"~{one}" for one in self.previous)
        return f"{TRAIL}{self.number:010d}~{self.sha256}{before}.json"

    @classmethod
    def parse(cls, name: str) -> "Link":
        """Read a name back; raises `Corrupt` for one that is no entry's."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise Corrupt(f"{name!r} is not the name of a trail entry", f"move it out of {TRAIL}")
        return cls(int(match["number"]), match["sha256"], tuple(match["previous"].split("~")[1:]))


@dataclass(frozen=True, slots=True)
class Appended:
    """The new entry, and by place why it could not be written there: the next entry brings it along."""

    link: Link
    troubles: Mapping[str, str]


def next_entry(event: Event, links: Collection[Link], places: Sequence[str]) -> tuple[Link, bytes]:
    """The entry that follows all of `links`: its name, and its bytes."""
    ends = sorted(ends_of(links), reverse=True)[:MOST_PREVIOUS]
    entry = Entry(
        number=1 + max((link.number for link in ends), default=0),
        previous=tuple(link.sha256 for link in ends),
        places=tuple(places),
        at=event.at,
        who=event.who,
        what=event.what,
        outcome=event.outcome,
        backup=event.backup,
        details=dict(event.details),
    )
    data = f"{entry.model_dump_json(indent=1)}\n".encode()
    return _link(entry, data), data


def _link(entry: Entry, data: bytes) -> Link:
    return Link(entry.number, hashlib.sha256(data).hexdigest(), tuple(one[:_SHORT] for one in entry.previous))


def ends_of(links: Iterable[Link]) -> list[Link]:
    """The entries that no other one follows: one, unless places were apart or writers met."""
    found = list(links)
    followed = {previous for link in found for previous in link.previous}
    return [link for link in found if link.sha256[:_SHORT] not in followed]


def load_entry(link: Link, data: bytes) -> Entry:
    """Read a stored entry; raises `Corrupt` if it is not the one that its name promises."""
    hint = "rowvault trail --verify shows which place has it whole"
    if hashlib.sha256(data).hexdigest() != link.sha256:
        raise Corrupt(f"trail entry {link.number} was altered: it has another hash than its name", hint)
    try:
        entry = Entry.model_validate_json(data)
    except ValidationError as error:
        raise Corrupt(f"trail entry {link.number} cannot be read by this version", hint) from error
    if _link(entry, data) != link:
        raise Corrupt(f"trail entry {link.number} is under a name that says something else of it", hint)
    return entry


async def read_links(repository: Repository) -> frozenset[Link]:
    """The entries that one place has, by their names alone."""
    links = set()
    async for stored in repository.backend.list(TRAIL):
        with suppress(Corrupt):  # verification reports other names
            links.add(Link.parse(stored.name))
    return frozenset(links)


async def read_head(repositories: Sequence[Repository]) -> Link | None:
    """The newest entry over the places that answer; None for no entry."""
    has = await _each(repositories, read_links, {})
    return max((link for links in has.values() for link in links), default=None)


async def append(repositories: Sequence[Repository], event: Event) -> Appended | None:
    """Write one entry to every place that answers, after what the place lacks of earlier ones.

    A place that was never bound to a database is left alone; None if no other answers. Raises `Unavailable` if no place
    took it.
    """
    troubles: dict[str, str] = {}
    surveys = await _each(repositories, _survey, troubles)
    has = {repository: links for repository, links in surveys.items() if links is not None}
    if not has and not troubles:
        return None
    union = frozenset[Link]().union(*has.values())

    async def catch_up(repository: Repository) -> None:
        for missing in sorted(union - has[repository]):
            await _copy(missing, [one for one in has if missing in has[one]], repository)

    in_step = await _each(list(has), catch_up, troubles)
    link, data = next_entry(event, union, [one.place for one in in_step])
    took = await _each(list(in_step), lambda one: _create(one, link, data), troubles)
    if not took:
        said = "; ".join(f"{place}: {trouble}" for place, trouble in troubles.items())
        raise Unavailable(f"no place took the trail's entry: {said}", "rowvault doctor looks at each place")
    return Appended(link, troubles)


async def _survey(repository: Repository) -> frozenset[Link] | None:
    """What a place has; None for one that is no repository yet: what fails before it is one makes nothing there."""
    try:
        await repository.backend.stat(REPOSITORY)
    except NotFound:
        return None
    return await read_links(repository)


async def _each(
    repositories: Sequence[Repository], work: Callable[[Repository], Awaitable[T]], troubles: dict[str, str]
) -> dict[Repository, T]:
    """What work came to in each place; places that failed, or took too long, go to `troubles`."""

    async def one(repository: Repository) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                done[repository] = await work(repository)
        except TimeoutError:
            troubles[repository.place] = "did not answer in time"
        except StorageError as error:
            troubles[repository.place] = error.message

    done: dict[Repository, T] = {}
    await asyncio.gather(*(one(repository) for repository in repositories))
    return {repository: done[repository] for repository in repositories if repository in done}


async def _copy(link: Link, sources: Sequence[Repository], target: Repository) -> None:
    """Copy an entry from where it is whole. One that is whole nowhere stays missing, for verification to name it."""
    for source in sources:
        with suppress(NotFound):
            data = await get(source.backend, str(link))
            if hashlib.sha256(data).hexdigest() == link.sha256:
                await _create(target, link, data)
                return


async def _create(repository: Repository, link: Link, data: bytes) -> None:
    with suppress(AlreadyExists):  # its name says its bytes
        await repository.backend.create(str(link), data)
