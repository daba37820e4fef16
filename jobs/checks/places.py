"""The half of `doctor` that looks at the places: whether they can be written, have room, and hold the same backups."""

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from jobs.checks.findings import Finding, checked, judge_clock, size
from jobs.places.sweep import ORPHANED_HINT, find_leftovers, orphaned_text
from jobs.places.wanted import Wanted, wanted
from jobs.postgres.lineage import Lineage
from storage.erasures import read_erasures
from storage.errors import StorageError, Unavailable
from storage.leases import list_leases
from storage.objects import get, put
from storage.repository import Catalogue, Repository

FOLDER = "doctor/"
SAMPLE_BYTES = 4096
CLEAN_UP_SECONDS = 5.0
FORGOTTEN_AFTER = timedelta(hours=1)
LITTLE_ROOM = 1_000_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlaceExam:
    """What was found in one place; its catalogue and its room in bytes, where they could be learned."""

    repository: Repository
    findings: list[Finding]
    catalogue: Catalogue | None = None
    free_bytes: int | None = None

    @property
    def place(self) -> str:
        """What people call it."""
        return self.repository.place


async def examine_place(repository: Repository, patience: float) -> PlaceExam:
    """Look at one place; each step may take `patience` seconds."""
    place, findings = repository.place, []
    try:
        findings += await _in_time(repository, _try_out(repository), patience)
    except Unavailable as error:
        return PlaceExam(repository, [_problem("storage", error, place)])
    except StorageError as error:
        findings.append(_problem("storage", error, place))
    try:
        catalogue = await _in_time(repository, repository.catalogue(), patience)
        free = await _in_time(repository, repository.backend.free_bytes(), patience)
    except StorageError as error:
        return PlaceExam(repository, [*findings, _problem("catalogue", error, place)])
    findings += await checked("leftovers", _in_time(repository, _leftovers(repository), patience), place)
    findings += await checked("erasures", _in_time(repository, _erasures(repository), patience), place)
    return PlaceExam(repository, [*findings, *_judge_catalogue(catalogue, place)], catalogue, free)


async def _erasures(repository: Repository) -> list[Finding]:
    """Erasures that are not through."""
    begun = [one.id for one in await read_erasures(repository) if one.state == "begun"]
    hint = "finish it, once all places answer and no lock is in the way: rowvault erase --resume"
    return [Finding("erasures", "problem", f"erasure {one} is not finished", hint, repository.place) for one in begun]


def _problem(check: str, error: StorageError, place: str) -> Finding:
    return Finding(check, "problem", error.message, error.hint, place)


async def _in_time(repository: Repository, work: Awaitable[T], patience: float) -> T:
    """Do it, or raise `Unavailable`: storage is asked again and again for longer than a person wants to wait here."""
    try:
        async with asyncio.timeout(patience):
            return await work
    except TimeoutError as error:
        met = _met_before(error)
        if met is not None:
            raise Unavailable(met.message, met.hint) from error
        raise Unavailable(
            f"{repository.place} did not answer within {patience:.0f} s",
            "check its address, the network, and whether it is up",
        ) from error


def _met_before(error: BaseException | None) -> StorageError | None:
    """The failure that was about to be tried again when patience ended."""
    while error is not None and not isinstance(error, StorageError):
        error = error.__cause__ or error.__context__
    return error


async def _try_out(repository: Repository) -> list[Finding]:
    """Write a small object, read it back, delete it."""
    backend, name, data = repository.backend, f"{FOLDER}{secrets.token_hex(8)}", secrets.token_bytes(SAMPLE_BYTES)
    began = datetime.now(UTC)
    await put(backend, name, data)
    ended = datetime.now(UTC)
    try:
        modified = (await backend.stat(name)).modified
        same = await get(backend, name) == data
        await backend.delete([name, *await _forgotten(repository)])
    except BaseException:
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                await backend.delete([name])
        raise
    if not same:
        message = f"{repository.place} gave back other bytes than were written"
        return [Finding("storage", "problem", message, "do not trust it with backups", repository.place)]
    return [
        Finding("storage", "ok", f"{repository.place} can be written, read and deleted from", place=repository.place),
        judge_clock(f"the clock of {repository.place}", clock_difference(began, ended, modified), repository.place),
    ]


async def _forgotten(repository: Repository) -> list[str]:
    """What an earlier try-out, killed in the middle, left."""
    found = [stored async for stored in repository.backend.list(FOLDER)]
    return [stored.name for stored in found if stored.modified + FORGOTTEN_AFTER < datetime.now(UTC)]


def clock_difference(began: datetime, ended: datetime, modified: datetime) -> float:
    """Seconds by which a store's clock is ahead, from what it says of an object written in between; 0 if it may agree.

    HTTP dates have whole seconds: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
    """
    earliest = began - timedelta(seconds=1)
    if modified < earliest:
        return (modified - earliest).total_seconds()
    return max(0.0, (modified - ended).total_seconds())


async def _leftovers(repository: Repository) -> list[Finding]:
    """What interrupted runs left, and what somebody took the manifest of."""
    left, place = await find_leftovers(repository), repository.place
    orphaned = [
        Finding("leftovers", "problem", orphaned_text(repository, one), ORPHANED_HINT, place) for one in left.orphaned
    ]
    now = datetime.now(UTC)
    live = {lease.backup for lease in await list_leases(repository.backend) if lease.live(now)}
    if live:
        at_work = f"a job is at work in {place}: {', '.join(sorted(live))}"
        return [*orphaned, Finding("leftovers", "ok", at_work, place=place)]
    if not left.backups and not left.unfinished:
        return [*orphaned, Finding("leftovers", "ok", f"interrupted runs left nothing in {place}", place=place)]
    message = (
        f"interrupted runs left {len(left.backups)} uncommitted backups and {len(left.unfinished)} unfinished writes"
        f" in {place}"
    )
    return [*orphaned, Finding("leftovers", "warning", message, "the next backup sweeps them: rowvault backup", place)]


def _judge_catalogue(catalogue: Catalogue, place: str) -> list[Finding]:
    count = len(catalogue.entries)
    findings = [Finding("catalogue", "ok", f"{place} holds {count} {_backups(count)}", place=place)]
    if catalogue.strays:
        message = f"{place} holds {len(catalogue.strays)} files among the manifests that are none"
        findings.append(Finding("catalogue", "warning", message, f"move away {', '.join(catalogue.strays[:3])}", place))
    failed = [entry.id for entry in catalogue.entries if entry.verified == "failed"]
    if failed:
        message = f"{len(failed)} {_backups(len(failed))} in {place} failed verification, {failed[0]} the newest"
        hint = f"take a new one: rowvault backup; see what is wrong: rowvault verify {failed[0]}"
        findings.append(Finding("catalogue", "warning", message, hint, place))
    return findings


async def check_binding(exam: PlaceExam, lineage: Lineage, patience: float) -> list[Finding]:
    """Whether the place belongs to this database; a new one is left unbound."""

    async def check() -> list[Finding]:
        repository, place = exam.repository, exam.place
        if await repository.identity() is None:
            return [Finding("binding", "ok", f"{place} is new, and the first backup binds it", place=place)]
        await repository.bind(lineage.system_identifier, lineage.database)
        return [Finding("binding", "ok", f"{place} belongs to this database", place=place)]

    return await checked("binding", _in_time(exam.repository, check(), patience), exam.place)


def judge_space(place: str, free_bytes: int | None, table_bytes: int | None) -> list[Finding]:
    """Whether one more backup fits. Tables come to a third or so of their size, seldom to more than all of it."""
    if free_bytes is None:
        return []
    needed = "" if table_bytes is None else f", and the chosen tables take {size(table_bytes)} before compression"
    message = f"{place} has {size(free_bytes)} free{needed}"
    hint = f"free some room in {place}, or enlarge it; ROWVAULT_EXCLUDE_TABLES leaves tables out"
    if table_bytes is not None and free_bytes < 0.3 * table_bytes:
        return [Finding("space", "problem", message, hint, place)]
    if free_bytes < max(table_bytes or 0, LITTLE_ROOM):
        return [Finding("space", "warning", message, hint, place)]
    return [Finding("space", "ok", message, place=place)]


def judge_step(exams: Sequence[PlaceExam]) -> list[Finding]:
    """Whether the places hold the same backups; the first is the primary one."""
    primary, *others = exams
    policies = {exam.place: exam.repository.policy for exam in exams}
    decided = wanted({exam.place: exam.catalogue for exam in exams}, policies, datetime.now(UTC))
    return [
        _compare(primary.place, primary.catalogue, other.place, other.catalogue, decided)
        for other in others
        if primary.catalogue is not None and other.catalogue is not None
    ]


def _compare(primary: str, here: Catalogue, other: str, there: Catalogue, decided: Wanted) -> Finding:
    ids = {entry.id for entry in there.entries}
    missing = sum(entry.id not in ids and decided.by(other, entry.id) for entry in here.entries)
    if ids and not here.entries:
        message = f"{primary} is empty beside {len(ids)} {_backups(len(ids))} in {other}: most likely a volume that is"
        hint = (
            "mount it at ROWVAULT_LOCAL_PATH and look again; if the place is meant to be new, the next backup fills it"
        )
        return Finding("places", "problem", f"{message} not mounted", hint, primary)
    if missing:
        message = f"{other} lacks {missing} {_backups(missing)} of {primary}"
        return Finding("places", "warning", message, f"the daemon makes up for it: see that {other} takes them", other)
    return Finding("places", "ok", f"{other} holds every backup of {primary} that it is to hold", place=other)


def _backups(count: int) -> str:
    return "backup" if count == 1 else "backups"
