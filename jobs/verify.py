"""Reads backups back: every object hashed as stored and as plain text, every row counted, against the manifest."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from jobs.concurrency import task_group
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import PlaceOutcome, Problem, ProblemKind, State, VerifyResult
from storage.codecs import Decoder, Tally
from storage.errors import Corrupt, NotFound, StorageError
from storage.manifest import Manifest, Part, StoredFile, Table
from storage.objects import BlockingReader
from storage.repository import Repository

STREAMS = 2


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one worker verifies: a part of a table, or a single file (`part` is None)."""

    table: str | None
    part: Part | None
    objects: tuple[StoredFile, ...]

    @property
    def bytes(self) -> int:
        return sum(stored.bytes for stored in self.objects)


async def verify_backup(
    repositories: Sequence[Repository],
    backup_id: str,
    sample: float = 1.0,
    on_progress: OnProgress = no_progress,
) -> VerifyResult:
    """Verify one backup in every place that has it.

    `sample` reads that share of the objects, chosen at random. A place without it is `pending`, a warning; one that
    does not answer is `unreachable`. Raises `NotFound` if no place has it.
    """
    problems: list[Problem] = []
    places: list[PlaceOutcome] = []
    objects = read = 0
    for repository in repositories:
        try:
            manifest = await repository.manifest(backup_id)
            pieces = _sampled(list(_pieces(manifest)), sample)
            found = await _verify_pieces(repository, pieces, on_progress)
            if found or sample >= 1.0:
                await _record(repository, backup_id, found)
            problems += found
            objects += sum(len(piece.objects) for piece in pieces)
            read += sum(piece.bytes for piece in pieces)
            places.append(PlaceOutcome(repository.place, "committed"))
        except NotFound as error:
            places.append(PlaceOutcome(repository.place, "pending", str(error)))
        except Corrupt as error:
            problems.append(_manifest_problem(repository.place, backup_id, error))
            places.append(PlaceOutcome(repository.place, "failed", str(error)))
        except StorageError as error:
            places.append(PlaceOutcome(repository.place, "unreachable", str(error)))
    if all(place.state == "pending" for place in places):
        raise NotFound(f"no backup {backup_id} in any place", "list the backups with: rowvault list")
    state = _state(problems, places)
    return VerifyResult(backup_id, state, tuple(problems), tuple(places), objects, read)


async def problems_of(
    repository: Repository, manifest: Manifest, on_progress: OnProgress = no_progress
) -> list[Problem]:
    """Everything that is wrong with one backup in one place."""
    return await _verify_pieces(repository, list(_pieces(manifest)), on_progress)


async def _record(repository: Repository, backup_id: str, found: list[Problem]) -> None:
    report = {"verified_at": datetime.now(UTC).isoformat(), "problems": [asdict(problem) for problem in found]}
    await repository.record_verification(backup_id, "failed" if found else "success", report)


def _state(problems: list[Problem], places: list[PlaceOutcome]) -> State:
    if problems or any(place.state in {"failed", "unreachable"} for place in places):
        return "failed"
    return "warning" if any(place.state == "pending" for place in places) else "success"


def _pieces(manifest: Manifest) -> Iterator[_Piece]:
    for stored in manifest.dump.files():
        yield _Piece(None, None, (stored,))
    for table in manifest.tables:
        for part in table.parts:
            yield _Piece(_table_name(table), part, part.objects)


def _table_name(table: Table) -> str:
    return f"{table.schema_name}.{table.name}"


def _sampled(pieces: list[_Piece], share: float) -> list[_Piece]:
    if share >= 1.0 or not pieces:
        return pieces
    return random.sample(pieces, max(1, round(len(pieces) * share)))


async def _verify_pieces(repository: Repository, pieces: list[_Piece], on_progress: OnProgress) -> list[Problem]:
    total = sum(piece.bytes for piece in pieces)
    done = 0
    problems: list[Problem] = []
    waiting = iter(pieces)

    async def stream() -> None:
        nonlocal done
        for piece in waiting:
            problems.extend(await _verify_piece(repository, piece))
            done += piece.bytes
            on_progress(Progress(f"verifying {repository.place}", done, total, table=piece.table))

    async with task_group() as group:
        for _ in range(STREAMS):
            group.create_task(stream())
    return problems


async def _verify_piece(repository: Repository, piece: _Piece) -> list[Problem]:
    decoder = Decoder()
    for stored in piece.objects:
        problem = await _verify_object(repository, stored, piece, decoder)
        if problem is not None:
            return [problem]
    if piece.part is None:
        return []
    return list(_compare_plain(repository.place, piece, piece.part, decoder))


async def _verify_object(repository: Repository, stored: StoredFile, piece: _Piece, decoder: Decoder) -> Problem | None:
    tally = Tally()
    reader = BlockingReader(repository.backend.read(stored.name))

    def problem(kind: ProblemKind, expected: str, found: str) -> Problem:
        return Problem(repository.place, stored.name, piece.table, kind, expected, found)

    try:
        await asyncio.to_thread(_read_through, reader, stored.name, tally, decoder if piece.part else None)
    except NotFound:
        return problem("missing", f"{stored.bytes} bytes", "no object")
    except Corrupt as error:
        found = tally.digest()
        if found.bytes == stored.bytes and found.sha256 == stored.sha256:
            return problem("unreadable", "zstd data", str(error))
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


def _compare_plain(place: str, piece: _Piece, part: Part, decoder: Decoder) -> Iterator[Problem]:
    name = piece.objects[0].name
    plain = decoder.plain.digest()
    if plain.sha256 != part.sha256 or plain.bytes != part.bytes:
        yield Problem(place, name, piece.table, "sha256_raw", part.sha256, plain.sha256)
    if decoder.rows != part.rows:
        yield Problem(place, name, piece.table, "rows", str(part.rows), str(decoder.rows))


def _manifest_problem(place: str, backup_id: str, error: Corrupt) -> Problem:
    kind: ProblemKind = "identity" if "belongs to another" in error.message else "altered"
    return Problem(place, f"manifests/{backup_id}", None, kind, "the manifest that was written", error.message)
