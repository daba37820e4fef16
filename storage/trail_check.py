"""Whether the trail is unbroken: pure functions over what the places hold and what was recorded elsewhere of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from storage.errors import Corrupt
from storage.trail import Entry, Link, load_entry

Kind = Literal["altered", "removed", "cut off", "stray"]


@dataclass(frozen=True, slots=True)
class PlaceTrail:
    """Every object under the trail's prefix in one place, by name."""

    place: str
    objects: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class RecordedHead:
    """An entry that once was the newest, as something outside the trail remembers it; `where` names that."""

    where: str
    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TrailProblem:
    """One break of the trail. `entry` is a number, None where the object's name has none."""

    place: str
    entry: int | None
    object: str
    kind: Kind
    message: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What all places hold together, oldest first; what is wrong, the first wrong entry first.

    `behind` counts by place the entries that it still is to be given, since it did not answer when they were written.
    """

    entries: tuple[tuple[Link, Entry], ...]
    problems: tuple[TrailProblem, ...]
    behind: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Read:
    """One place's trail, read: entries that are whole, names of all that are there, and what is wrong with the rest."""

    place: str
    whole: Mapping[Link, Entry]
    there: frozenset[Link]
    wrong: tuple[TrailProblem, ...]


def check_trail(trails: Sequence[PlaceTrail], recorded: Sequence[RecordedHead] = ()) -> Checked:
    """Find every entry that was altered, removed or cut off."""
    read = [_read(trail) for trail in trails]
    whole = {link: entry for one in read for link, entry in one.whole.items()}
    there = frozenset[Link]().union(*(one.there for one in read))
    problems = [problem for one in read for problem in one.wrong]
    problems += _misnumbered(whole, there)
    behind = {}
    for one in read:
        found, lacking = _missing(one, whole, there)
        problems += found
        behind[one.place] = lacking
    problems += _unknown(recorded, there)
    return Checked(
        entries=tuple(sorted(whole.items(), key=lambda item: (item[0].number, item[1].at))),
        problems=tuple(sorted(problems, key=lambda one: (one.entry is None, one.entry or 0, one.place))),
        behind=behind,
    )


def _read(trail: PlaceTrail) -> _Read:
    whole, there, wrong = {}, set(), []
    for name, data in trail.objects.items():
        try:
            link = Link.parse(name)
        except Corrupt as error:
            wrong.append(TrailProblem(trail.place, None, name, "stray", error.message))
            continue
        there.add(link)
        try:
            whole[link] = load_entry(link, data)
        except Corrupt as error:
            wrong.append(TrailProblem(trail.place, link.number, name, "altered", error.message))
    return _Read(trail.place, whole, frozenset(there), tuple(wrong))


def _misnumbered(whole: Mapping[Link, Entry], there: frozenset[Link]) -> Iterator[TrailProblem]:
    """Entries that say another number than their place in the chain has: nobody writes such but by forging."""
    numbers = {link.sha256: link.number for link in there}
    for link, entry in whole.items():
        before = [numbers.get(sha256, link.number - 1) for sha256 in entry.previous]
        if link.number != 1 + max(before, default=0):
            message = f"trail entry {link.number} does not follow the ones it names"
            yield TrailProblem("every place", link.number, str(link), "altered", message)


def _missing(one: _Read, whole: Mapping[Link, Entry], there: frozenset[Link]) -> tuple[list[TrailProblem], int]:
    """What a place lacks though it must have it; and how many entries it merely waits for."""
    known = {link.sha256: link for link in there}
    have = {link.sha256 for link in one.there}
    problems: dict[str, TrailProblem] = {}
    for link, entry in one.whole.items():
        for sha256 in set(entry.previous) - have:
            name = str(known[sha256]) if sha256 in known else sha256
            number = known[sha256].number if sha256 in known else link.number - 1
            message = f"trail entry {number} is not there, and entry {link.number} follows it"
            problems[sha256] = TrailProblem(one.place, number, name, "removed", message)
    behind = 0
    for link in there - one.there:
        if link.sha256 in problems:
            continue
        if link in whole and one.place in whole[link].places:
            message = f"trail entry {link.number} was written there too, and is gone; another place still has it"
            problems[link.sha256] = TrailProblem(one.place, link.number, str(link), "cut off", message)
        else:
            behind += 1
    return list(problems.values()), behind


def _unknown(recorded: Sequence[RecordedHead], there: frozenset[Link]) -> Iterator[TrailProblem]:
    known = {(link.number, link.sha256) for link in there}
    seen: set[tuple[int, str]] = set()
    for head in recorded:
        if (head.number, head.sha256) not in known | seen:
            seen.add((head.number, head.sha256))
            message = f"trail entry {head.number} is in no place, and {head.where} remembers it"
            yield TrailProblem("every place", head.number, head.sha256, "cut off", message)
