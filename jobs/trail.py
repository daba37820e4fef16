"""The audit trail as a person sees it: the entries of all places, and the proof that none was altered or is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from jobs.concurrency import task_group
from jobs.postgres.connection import Source
from jobs.postgres.errors import PostgresError
from jobs.postgres.verification_log import HEADS, read_heads
from storage.errors import Corrupt, NotFound, StorageError, Unavailable
from storage.names import TRAIL
from storage.objects import get
from storage.repository import Repository
from storage.trail_check import Checked, PlaceTrail, RecordedHead, TrailProblem, check_trail

READERS = 8


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One entry of the trail, with its own hash."""

    number: int
    sha256: str
    at: datetime
    who: str
    what: str
    outcome: str
    backup: str | None
    details: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class TrailPlace:
    """How one place stands: `behind` counts entries that it is still to be given; `error` says why it was not read."""

    name: str
    entries: int
    behind: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TrailReport:
    """All entries, oldest first. `recorded_heads`: how many heads remembered elsewhere were looked for in it."""

    entries: tuple[TrailEntry, ...]
    places: tuple[TrailPlace, ...]
    problems: tuple[TrailProblem, ...] = ()
    recorded_heads: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def all_answered(self) -> bool:
        """Whether every place could be read."""
        return all(place.error is None for place in self.places)


async def read_trail(repositories: Sequence[Repository]) -> TrailReport:
    """The trail of all places that answer; raises `Unavailable` if none does."""
    trails, errors = await _read_all(repositories)
    return _report(repositories, check_trail(trails), trails, errors, [], [])


async def verify_trail(repositories: Sequence[Repository], source: Source | None) -> TrailReport:
    """Prove the trail unbroken, in each place and against every head that was recorded elsewhere.

    `source` is asked for the heads that it remembers, unless None. What is wrong counts if it still is at a second
    look: an entry may just have been written to one place and not to the next. Raises `Unavailable` if none answers.
    """
    recorded, warnings = await _recorded(repositories, source)
    trails, errors = await _read_all(repositories)
    if errors:
        recorded = []  # what they remember may be in a place that does not answer
        warnings.append("heads recorded elsewhere were not looked for, since a place does not answer")
    checked = check_trail(trails, recorded)
    if checked.problems:
        first = set(checked.problems)
        trails, errors = await _read_all(repositories)
        checked = check_trail(trails, recorded)
        checked = Checked(checked.entries, tuple(one for one in checked.problems if one in first), checked.behind)
    return _report(repositories, checked, trails, errors, recorded, warnings)


async def _read_all(repositories: Sequence[Repository]) -> tuple[list[PlaceTrail], dict[str, str]]:
    trails: list[PlaceTrail] = []
    errors: dict[str, str] = {}

    async def one(repository: Repository) -> None:
        try:
            trails.append(await _read(repository))
        except StorageError as error:
            errors[repository.place] = error.message

    async with task_group() as group:
        for repository in repositories:
            group.create_task(one(repository))
    if not trails:
        said = "; ".join(f"{place}: {error}" for place, error in errors.items())
        raise Unavailable(f"no place answers: {said}", "rowvault doctor looks at each place")
    return trails, errors


async def _read(repository: Repository) -> PlaceTrail:
    backend, objects = repository.backend, {}
    waiting = iter([stored.name async for stored in backend.list(TRAIL)])

    async def reader() -> None:
        for name in waiting:
            objects[name] = await get(backend, name)

    async with task_group() as group:
        for _ in range(READERS):
            group.create_task(reader())
    return PlaceTrail(repository.place, objects)


async def _recorded(repositories: Sequence[Repository], source: Source | None) -> tuple[list[RecordedHead], list[str]]:
    """The heads that manifests and the source database remember, and what could not be read of them."""
    heads, warnings = [], []
    for repository in repositories:
        found, trouble = await _heads_in_manifests(repository)
        heads += found
        warnings += trouble
    if source is None:
        return heads, [*warnings, "the source database was not asked for the heads that it remembers"]
    try:
        heads += [RecordedHead(f"the source database ({HEADS})", *one) for one in await read_heads(source)]
    except (PostgresError, TimeoutError) as error:
        warnings.append(f"the source database could not be asked for the heads that it remembers: {error}")
    return heads, warnings


async def _heads_in_manifests(repository: Repository) -> tuple[list[RecordedHead], list[str]]:
    heads, warnings = [], []
    try:
        for entry in (await repository.catalogue()).entries:
            try:
                head = (await repository.backup(entry.id)).trail_head
            except NotFound:
                continue  # deleted meanwhile
            except Corrupt as error:
                warnings.append(f"{repository.place}: {error.message}")
                continue
            if head is not None:
                heads.append(RecordedHead(f"backup {entry.id}", head.number, head.sha256))
    except StorageError as error:
        warnings.append(f"{repository.place}: its manifests could not be read: {error.message}")
    return heads, warnings


def _report(
    repositories: Sequence[Repository],
    checked: Checked,
    trails: Sequence[PlaceTrail],
    errors: Mapping[str, str],
    recorded: Sequence[RecordedHead],
    warnings: Sequence[str],
) -> TrailReport:
    sizes = {trail.place: len(trail.objects) for trail in trails}
    return TrailReport(
        entries=tuple(
            TrailEntry(
                number=link.number,
                sha256=link.sha256,
                at=entry.at,
                who=entry.who,
                what=entry.what,
                outcome=entry.outcome,
                backup=entry.backup,
                details=entry.details,
            )
            for link, entry in checked.entries
        ),
        places=tuple(
            TrailPlace(one.place, sizes.get(one.place, 0), checked.behind.get(one.place, 0), errors.get(one.place))
            for one in repositories
        ),
        problems=checked.problems,
        recorded_heads=len({(head.number, head.sha256) for head in recorded}),
        warnings=tuple(warnings),
    )
