"""A backup as of any moment that a chain reaches, made beside the repository: the base with the log's changes in it.

What comes out looks like a full backup, so that everything which can be done with one can be done with it: its changed
tables lie in temporary files, all else is still in its place.
"""

import asyncio
import errno
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from jobs.chains.beside_log import follow_differences, newest_whole
from jobs.chains.chain import Chain, chain_to
from jobs.chains.merge import Merge
from jobs.chains.points import BeforeXid, Point, Through
from jobs.chains.replay import Room, TableStates
from jobs.concurrency import task_group
from jobs.copying.part_reading import read_part, require_identity
from jobs.copying.table_copy import CopyOptions
from jobs.erasing.filtering import without_erased
from jobs.errors import NotThere
from jobs.places.catalogue import read_resolved
from jobs.places.leasing import leased_for_reading, unless_removed
from jobs.places.ledger import Ledger, read_ledgers
from jobs.postgres.pgoutput import Commit, changes, lsn_number
from jobs.progress import OnProgress, Progress, no_progress
from jobs.scope import chosen_tables
from jobs.temporary import temporary_folder
from storage.backends.local import LocalBackend
from storage.backends.overlay import Overlay
from storage.backends.protocol import Backend
from storage.codecs import Encoder, compressor
from storage.errors import Corrupt, OutOfSpace, StorageError
from storage.leases import Lease
from storage.manifest import Manifest, Part, StoredFile, Table
from storage.manifest import Sequence as StoredSequence
from storage.names import MADE
from storage.repository import Repository

Change = Callable[[Iterator[bytes]], Iterator[bytes]]
LEVEL = -7  # read once and thrown away: speed counts
STREAMS = 2
_TEMPORARY = CopyOptions(level=LEVEL)
_NOTHING_ERASED = Ledger(())


@dataclass(frozen=True, slots=True)
class AsOf:
    """A backup as of a moment. `repositories` are where it can be read; `stale` are tables that are older than it, as
    of the moment `known`, for they are known only as of backups. `erased` are erasures whose rows were left out, of
    those in the `ledger`. `for_all`: whether what it was made of was all encrypted for the same recipients, or none of
    it was.
    """

    repositories: tuple[Repository, ...]
    manifest: Manifest
    stale: tuple[str, ...]
    known: datetime
    erased: tuple[str, ...] = ()
    ledger: Ledger = _NOTHING_ERASED
    for_all: bool = True

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person must know of the tables that are older, and of erased rows: those left out, or perhaps not."""
        left_out = "rows of it were left out of what is stored here; rowvault erase --resume takes them out there too"
        return (*self._older(), *(f"erasure {one}: {left_out}" for one in self.erased), *self.ledger.warnings)

    def _older(self) -> tuple[str, ...]:
        older = f"is as of {self.known.isoformat()}: it is not in the change log, so it is known only as of backups"
        return tuple(f"{name} {older}" for name in self.stale)


class _Made(Repository):
    """A repository in which one backup's manifest is another than the stored one, with what was made for it."""

    def __init__(self, of: Repository, folder: Path, made: Manifest, base: str) -> None:
        super().__init__(of.place, _beside(of, folder), of.keyring)
        self._made = made
        self._base = base

    async def lease(self, backup_id: str, purpose: str) -> Lease:
        """See `Repository.lease`: what was made is read with what lies in its base, and in the windows since."""
        return await super().lease(self._base if backup_id == self._made.id else backup_id, purpose)

    async def manifest(self, backup_id: str) -> Manifest:
        """See `Repository.manifest`."""
        return self._made if backup_id == self._made.id else await super().manifest(backup_id)


def _beside(repository: Repository, folder: Path) -> Backend:
    return Overlay(repository.backend, LocalBackend(folder), MADE)


@asynccontextmanager
async def opened(
    repositories: Sequence[Repository],
    wanted: str,
    point: Point | None = None,
    names: Sequence[str] = (),
    scratch: Path | None = None,
    on_progress: OnProgress = no_progress,
) -> AsyncIterator[AsOf]:
    """What a person means, for as long as the block runs: a backup of any kind by its id or `latest`, or a point.

    `names` are the tables that are wanted (none: all). Temporary files go to `scratch`. Raises what `resolve`,
    `chain_to` and `as_of` raise.
    """
    if point is None:
        found = await read_resolved(repositories, wanted)
        require_identity(repositories, (found,))
        ledger = await read_ledgers(repositories)
        if isinstance(found, Manifest) and not ledger.not_in([found]):
            async with unless_removed(repositories, [found.id]):
                yield AsOf(tuple(repositories), found, (), found.created_at, ledger=ledger)
            return
        point = Through(found)
        chain = Chain(found, ()) if isinstance(found, Manifest) else await chain_to(repositories, point)
    else:
        chain, ledger = await chain_to(repositories, point), await read_ledgers(repositories)
    async with (
        unless_removed(repositories, [one.id for one in chain.backups]),
        as_of(repositories, chain, point, ledger, names, scratch, on_progress) as made,
    ):
        yield made


@asynccontextmanager
async def as_of(
    repositories: Sequence[Repository],
    chain: Chain,
    point: Point,
    ledger: Ledger,
    names: Sequence[str] = (),
    scratch: Path | None = None,
    on_progress: OnProgress = no_progress,
) -> AsyncIterator[AsOf]:
    """Make the backup as of a point while the block runs, out of the first place where all is whole that changed.

    What did not change is read by whoever reads it from wherever it is whole, that place first. What the `ledger` says
    was erased is left out. The temporary files are about as large as the stored rows of the tables that changed. Raises
    `NotThere` if a table that is wanted by name is not in the log, `NoIdentity`, `Corrupt` and what else the last place
    raises if none will do.
    """
    require_identity(repositories, chain.backups)
    wanted = chosen_tables(chain.base, names)
    stale = _stale(chain, point, wanted)
    if names and stale:
        known = chain.beside[-1] if chain.beside else chain.base
        raise NotThere(
            f"{stale[0]} is not in the change log, so it is known only as of each backup",
            f"name a backup instead, such as {known.id}; with a usable primary key it would be in the log",
        )
    erasures = ledger.not_in(chain.backups)
    with temporary_folder(scratch) as folder:
        failures = list[StorageError]()
        for repository in repositories:
            async with AsyncExitStack() as lease:
                try:
                    await lease.enter_async_context(leased_for_reading(repository, chain.base.id, "as of a moment"))
                    through = repository.through(_beside(repository, folder))
                    with _needing_room(folder):
                        cleared = await without_erased(through, chain, erasures, LocalBackend(folder), _TEMPORARY)
                        tables = chosen_tables(cleared.base, names)
                        manifest = await _made(through, cleared, point, tables, folder, on_progress)
                except StorageError as error:
                    failures.append(error)
                    continue
                places = (repository, *(one for one in repositories if one is not repository))
                made = tuple(_Made(one, folder, manifest, chain.base.id) for one in places)
                left_out = tuple(erasure.id for erasure in erasures)
                for_all = all(one.encryption == chain.base.encryption for one in chain.backups)
                yield AsOf(made, manifest, stale, chain.beside_moment, left_out, ledger, for_all)
                return
        raise next((one for one in failures if isinstance(one, Corrupt)), failures[0])


def _stale(chain: Chain, point: Point, wanted: Sequence[Table]) -> tuple[str, ...]:
    """The tables that are known only as of an earlier moment."""
    if point.is_exactly(chain.beside[-1] if chain.beside else chain.base):
        return ()
    return tuple(f"{one.schema_name}.{one.name}" for one in wanted if not one.identity)


@contextmanager
def _needing_room(folder: Path) -> Iterator[None]:
    """Say where there was no room for temporary files."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = isinstance(error, sqlite3.Error) or error.errno in {errno.ENOSPC, errno.EDQUOT}
        if not full:
            raise
        raise OutOfSpace(
            f"no room in {folder.parent} for the temporary files of a moment: {error}",
            "nothing was restored; make room there, or let TMPDIR name a folder with more",
        ) from error


async def _made(
    repository: Repository,
    chain: Chain,
    point: Point,
    wanted: Sequence[Table],
    folder: Path,
    on_progress: OnProgress,
) -> Manifest:
    """Replay the log, and follow the tables beside it; then write each wanted table anew that was changed."""
    with tempfile.TemporaryDirectory(dir=folder) as work, ExitStack() as stack:
        room = Room()

        def opened_states(tables: Iterable[Table]) -> dict[int, TableStates]:
            return {
                table.oid: stack.enter_context(
                    closing(TableStates(table, Path(work), room, table.identity or table.primary_key))
                )
                for table in tables
            }

        logged = opened_states(table for table in wanted if table.identity)
        found = await _replay(repository, chain, point, logged, on_progress)
        if isinstance(point, BeforeXid) and not found:
            raise NotThere(
                f"transaction {point.xid} is in no backup",
                "it was rolled back, changed no table whose changes are kept, or came later; say --at or --at-lsn",
            )
        compared = opened_states(table for table in wanted if not table.identity and table.keys is not None)
        await follow_differences(repository, chain.beside, compared)
        states, tables = logged | compared, dict[int, Table]()
        for table in wanted:
            if whole := newest_whole(chain.beside, table.oid):
                tables[table.oid] = table.model_copy(update={"parts": whole})
            if (state := states.get(table.oid)) is not None and state.touched:
                on_progress(Progress("applying changes", backup=chain.base.id, table=state.rows.name))
                tables[table.oid] = await _rewritten(repository, table, state, folder)
    return chain.base.model_copy(
        update={
            "tables": tuple(tables.get(table.oid, table) for table in chain.base.tables),
            "sequences": _sequences(chain),
            "created_at": point.moment(chain.reaches),
            "id": chain.last.id,
        }
    )


async def _replay(
    repository: Repository, chain: Chain, point: Point, states: Mapping[int, TableStates], on_progress: OnProgress
) -> bool:
    """Apply what the base lacks, in the order of the log, up to the point; read every window to its end.

    Whether there was a commit that the point stops before.
    """
    since = chain.since if chain.windows else 0
    total = sum(window.bytes_stored for window in chain.windows)
    done = 0

    def take(chunks: Iterator[bytes]) -> bool:
        commit: Commit | None = None
        lacking = False
        for change in changes(chunks, since):
            if change.commit is not commit:
                commit = change.commit
                if point.stops_before(commit):
                    break
                lacking = chain.lacks(commit)
            if lacking and (state := states.get(change.oid)) is not None:
                state.apply(change)
        else:
            return False
        for _ in chunks:  # only what was read to its end is known to be what was stored
            pass
        return True

    for window in chain.windows:
        if await read_part(repository, window.log, take):
            return True
        since = max(since, lsn_number(window.end))
        done += window.bytes_stored
        on_progress(Progress("reading the change log", done, total, window.id))
    return False


async def _rewritten(repository: Repository, table: Table, state: TableStates, folder: Path) -> Table:
    """The table with its changes in it: each part of the base without what became of its rows, and what is new.

    A part in which nothing became of a row is the base's own.
    """
    merge = await asyncio.to_thread(Merge, state)
    turns = asyncio.Semaphore(STREAMS)

    async def rewrite(part: Part) -> Part:
        async with turns:
            if not await read_part(repository, part, merge.touches):
                return part
            return await read_part(repository, part, partial(_write, merge.kept, folder, table, part))

    async with task_group() as group:
        rewriting = [group.create_task(rewrite(part)) for part in (() if state.truncated else table.parts)]
    parts = [task.result() for task in rewriting]
    parts.append(await asyncio.to_thread(_write, _as_it_is, folder, table, _added(parts), merge.left()))
    return table.model_copy(update={"parts": tuple(parts)})


def _added(parts: Sequence[Part]) -> Part:
    """The part for what the log left. Its rows lie anywhere: the others' pages are the whole table if there are any."""
    number = max((part.number for part in parts), default=-1) + 1
    page = 0 if parts else None
    return Part(number=number, first_page=page, end_page=page, rows=0, bytes=0, sha256="", objects=())


def _as_it_is(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return chunks


def _write(
    change: Change,
    folder: Path,
    table: Table,
    part: Part,
    chunks: Iterator[bytes],
) -> Part:
    """In a thread: write what becomes of a part's text into a temporary file; the part as it is then."""
    name = f"{MADE}{table.oid}-{part.number:05d}.copy.zst"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    encoder, rows = Encoder(compressor(LEVEL), sys.maxsize), 0
    with path.open("wb") as file:
        for chunk in change(chunks):
            rows += chunk.count(b"\n")
            if (block := encoder.feed(chunk)) is not None:
                file.write(block.data)
        block, plain = encoder.finish()
        file.write(block.data)
    assert block.ends is not None
    stored = StoredFile(name=name, bytes=block.ends.bytes, sha256=block.ends.sha256)
    return part.model_copy(update={"rows": rows, "bytes": plain.bytes, "sha256": plain.sha256, "objects": (stored,)})


def _sequences(chain: Chain) -> tuple[StoredSequence, ...]:
    """Where each stood when it was first looked at after the moment, which is never behind the rows."""
    last = chain.windows[-1] if chain.windows else chain.last
    later = {(one.schema_name, one.name): one for one in last.sequences}
    return tuple(later.get((one.schema_name, one.name), one) for one in chain.base.sequences)
