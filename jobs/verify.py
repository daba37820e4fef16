"""Reads backups back: every object hashed as stored and as plain text, every row counted, against the manifest.

Of what is encrypted for others, the stored bytes alone can be checked; which is then said.
"""

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from jobs.concurrency import task_group
from jobs.places.leasing import leased_for_reading
from jobs.places.sweep import is_orphaned
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import PlaceOutcome, Problem, ProblemKind, State, VerifyResult
from storage.age import SEALED, NoIdentity
from storage.codecs import Decoder, Tally
from storage.errors import Corrupt, Misplaced, NotFound, Refused, StorageError
from storage.increments import AnyBackup, Increment, Log, TableDifference
from storage.manifest import Manifest, Part, StoredFile, Table
from storage.names import MANIFESTS
from storage.objects import BlockingReader
from storage.repository import Repository

STREAMS = 2
CLOSED = "they are encrypted, and no identity at hand opens them; their stored bytes were checked"


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one worker verifies: a part of a table, a window of changes, or a single file (`part` is None).

    `opened`: whether its plain text can be had, to be verified too.
    """

    table: str | None
    part: Part | Log | None
    objects: tuple[StoredFile, ...]
    opened: bool = True

    @property
    def bytes(self) -> int:
        return sum(stored.bytes for stored in self.objects)


@dataclass(frozen=True, slots=True)
class _PlaceReport:
    """What verifying one place came to."""

    outcome: PlaceOutcome
    problems: tuple[Problem, ...] = ()
    objects: int = 0
    bytes: int = 0
    not_proved: str | None = None


async def verify_backup(
    repositories: Sequence[Repository],
    backup_id: str,
    sample: float = 1.0,
    on_progress: OnProgress = no_progress,
) -> VerifyResult:
    """Verify one backup in every place that has it.

    `sample` reads that share of the objects, chosen at random. A place without it is `pending`, a warning, and so is
    plain text that no identity opens; one that does not answer is `unreachable`. Raises `NotFound` if no place has it.
    """
    reports = [await _verify_place(repository, backup_id, sample, on_progress) for repository in repositories]
    places = tuple(report.outcome for report in reports)
    if all(place.state == "pending" for place in places):
        raise NotFound(f"no backup {backup_id} in any place", "list the backups with: rowvault list")
    not_proved = tuple(dict.fromkeys(report.not_proved for report in reports if report.not_proved))
    return VerifyResult(
        id=backup_id,
        state=_state(places, not_proved),
        problems=tuple(problem for report in reports for problem in report.problems),
        places=places,
        objects=sum(report.objects for report in reports),
        bytes=sum(report.bytes for report in reports),
        not_proved=not_proved,
    )


async def problems_of(
    repository: Repository, manifest: AnyBackup, on_progress: OnProgress = no_progress
) -> list[Problem]:
    """Everything that is wrong with one backup in one place. Raises `NoIdentity` if not all of it can be opened."""
    repository.require_identity(manifest)
    found: list[Problem] = []
    await _verify_pieces(repository, _pieces(repository, manifest), on_progress, found)
    return found


async def require_as_written(repository: Repository, manifest: AnyBackup, names: Collection[str]) -> None:
    """Read back those objects of a backup that were just written; raises `Corrupt` if one is not what it is to be."""
    found: list[Problem] = []
    pieces = [one for one in _pieces(repository, manifest) if any(stored.name in names for stored in one.objects)]
    await _verify_pieces(repository, pieces, no_progress, found)
    if found:
        raise Corrupt(
            f"{found[0].object} in {found[0].place} was just written and is not whole: {found[0].kind}",
            "nothing was changed by it; look at the storage, then run it again",
        )


async def _verify_place(repository: Repository, backup_id: str, sample: float, on_progress: OnProgress) -> _PlaceReport:
    found: list[Problem] = []
    try:
        name = await repository.find(backup_id)
        async with leased_for_reading(repository, backup_id, "verify"):
            pieces = await _read_manifest(repository, backup_id, name, sample, found)
            await _verify_pieces(repository, pieces, on_progress, found)
            if found and await repository.find(backup_id) != name:  # an erasure rewrote it meanwhile
                return await _verify_place(repository, backup_id, sample, on_progress)
            not_proved = _not_proved(pieces)
            complete = found or sample >= 1.0
            trouble = await _record(repository, backup_id, found, not_proved) if complete else None
    except NotFound as error:
        return await _absent(repository, backup_id, error)
    except StorageError as error:
        return _PlaceReport(PlaceOutcome(repository.place, "unreachable", error.message), tuple(found))
    return _PlaceReport(
        outcome=_outcome(repository.place, found, trouble),
        problems=tuple(found),
        objects=sum(len(piece.objects) for piece in pieces),
        bytes=sum(piece.bytes for piece in pieces),
        not_proved=not_proved,
    )


async def _absent(repository: Repository, backup_id: str, error: NotFound) -> _PlaceReport:
    """A place that does not list a backup is still to get it, unless it had it."""
    try:
        if not await is_orphaned(repository, backup_id):
            return _PlaceReport(PlaceOutcome(repository.place, "pending", error.message))
    except StorageError as silent:
        return _PlaceReport(PlaceOutcome(repository.place, "unreachable", silent.message))
    gone = Problem(repository.place, f"{MANIFESTS}{backup_id}", None, "missing", "its manifest", "its objects alone")
    return _PlaceReport(_outcome(repository.place, [gone], None), (gone,))


async def _read_manifest(
    repository: Repository, backup_id: str, name: str, sample: float, found: list[Problem]
) -> list[_Piece]:
    """What is to be verified; nothing if the manifest itself is a problem."""
    try:
        return _sampled(_pieces(repository, await repository.backup(backup_id)), sample)
    except Corrupt as error:
        kind: ProblemKind = "identity" if isinstance(error, Misplaced) else "altered"
        found.append(Problem(repository.place, name, None, kind, "the manifest that was written", error.message))
        return []


def _not_proved(pieces: list[_Piece]) -> str | None:
    closed = sum(not piece.opened for piece in pieces)
    return f"the plain text of {closed} of {len(pieces)} parts and files: {CLOSED}" if closed else None


async def _record(repository: Repository, backup_id: str, found: list[Problem], not_proved: str | None) -> str | None:
    """Remember the outcome in the place. What it refuses is said, but takes nothing away from what was found."""
    report = {
        "verified_at": datetime.now(UTC).isoformat(),
        "problems": [asdict(problem) for problem in found],
        "not_proved": not_proved,
    }
    try:
        await repository.record_verification(backup_id, "failed" if found else "success", report)
    except Refused as error:
        return f"the verification could not be recorded: {error.message}"
    return None


def _outcome(place: str, found: list[Problem], trouble: str | None) -> PlaceOutcome:
    if found:
        return PlaceOutcome(place, "failed", f"{found[0].object}: {found[0].kind}")
    return PlaceOutcome(place, "committed", trouble)


def _state(places: tuple[PlaceOutcome, ...], not_proved: tuple[str, ...]) -> State:
    if any(place.state in {"failed", "unreachable"} for place in places):
        return "failed"
    return "warning" if not_proved or any(place.error for place in places) else "success"


def _pieces(repository: Repository, manifest: AnyBackup) -> list[_Piece]:
    opened = repository.can_open(manifest)
    return [replace(one, opened=opened or not _is_sealed(one)) for one in _pieces_of(manifest)]


def _is_sealed(piece: _Piece) -> bool:
    return any(stored.name.endswith(SEALED) for stored in piece.objects)


def _pieces_of(manifest: AnyBackup) -> Iterator[_Piece]:
    if isinstance(manifest, Manifest):
        for stored in (*manifest.dump.files(), *manifest.exports):
            yield _Piece(None, None, (stored,))
        for table in manifest.tables:
            yield from _table_pieces(table, (*table.parts, *([table.keys] if table.keys else [])))
        return
    if isinstance(manifest, Increment):
        yield _Piece(None, manifest.log, manifest.log.objects)
    for difference in manifest.beside.tables if manifest.beside else ():
        yield from _table_pieces(difference, difference.stored())


def _table_pieces(table: Table | TableDifference, parts: Sequence[Part]) -> Iterator[_Piece]:
    for part in parts:
        if part.objects:  # a list without keys is stored nowhere
            yield _Piece(f"{table.schema_name}.{table.name}", part, part.objects)


def _sampled(pieces: list[_Piece], share: float) -> list[_Piece]:
    if share >= 1.0 or not pieces:
        return pieces
    return random.sample(pieces, max(1, round(len(pieces) * share)))


async def _verify_pieces(
    repository: Repository, pieces: list[_Piece], on_progress: OnProgress, found: list[Problem]
) -> None:
    """Add what is wrong to `found` as it shows: should the place fall silent, it is not forgotten."""
    total = sum(piece.bytes for piece in pieces)
    done = 0
    waiting = iter(pieces)

    async def stream() -> None:
        nonlocal done
        for piece in waiting:
            found.extend(await _verify_piece(repository, piece))
            done += piece.bytes
            on_progress(Progress(f"verifying {repository.place}", done, total, table=piece.table))

    async with task_group() as group:
        for _ in range(STREAMS):
            group.create_task(stream())


async def _verify_piece(repository: Repository, piece: _Piece) -> list[Problem]:
    decoder = Decoder(repository.keyring) if piece.part is not None and piece.opened else None
    checked = [await _verify_object(repository, stored, piece, decoder) for stored in piece.objects]
    found = [problem for problem in checked if problem is not None]
    if found or piece.part is None or decoder is None:
        return found
    return list(_compare_plain(repository.place, piece, piece.part, decoder))


async def _verify_object(
    repository: Repository, stored: StoredFile, piece: _Piece, decoder: Decoder | None
) -> Problem | None:
    tally = Tally()
    reader = BlockingReader(repository.backend.read(stored.name))

    def problem(kind: ProblemKind, expected: str, found: str) -> Problem:
        return Problem(repository.place, stored.name, piece.table, kind, expected, found)

    try:
        await asyncio.to_thread(_read_through, reader, stored.name, tally, decoder)
    except NotFound:
        return problem("missing", f"{stored.bytes} bytes", "no object")
    except (Corrupt, NoIdentity) as error:
        found = tally.digest()
        if found.bytes == stored.bytes and found.sha256 == stored.sha256:
            return problem("unreadable", "what was backed up", str(error))
    finally:
        reader.close()
    found = tally.digest()
    if found.bytes != stored.bytes:
        return problem("size", str(stored.bytes), str(found.bytes))
    if found.sha256 != stored.sha256:
        return problem("sha256_stored", stored.sha256, found.sha256)
    return None


def _read_through(reader: BlockingReader, name: str, tally: Tally, decoder: Decoder | None) -> None:
    """Hash one object to its end; also what it decompresses to, if it is data."""
    try:
        if decoder is not None:
            for _ in decoder.read(name, reader.fetch, tally):
                pass
    finally:
        while block := reader.fetch():
            tally.add(block)


def _compare_plain(place: str, piece: _Piece, part: Part | Log, decoder: Decoder) -> Iterator[Problem]:
    name = piece.objects[0].name
    plain = decoder.plain.digest()
    if plain.sha256 != part.sha256 or plain.bytes != part.bytes:
        yield Problem(place, name, piece.table, "sha256_raw", part.sha256, plain.sha256)
    if isinstance(part, Part) and decoder.rows != part.rows:
        yield Problem(place, name, piece.table, "rows", str(part.rows), str(decoder.rows))
