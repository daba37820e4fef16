"""The off-site copy: each finished local object goes up while the next are copied; what was missed is made up later."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext

from jobs.concurrency import task_group
from jobs.leasing import leased, leased_for_reading
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import PlaceOutcome
from storage.errors import StorageError
from storage.increments import AnyBackup
from storage.manifest import StoredFile
from storage.objects import transfer
from storage.repository import Repository

STREAMS = 6
LARGE_BYTES = 8 * 1024 * 1024
LARGE_STREAMS = 2  # each of these holds several blocks of 8 MiB in memory


class _Lanes:
    """Many small objects travel at a time, for each waits for the store's answer; few large ones do."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(STREAMS)
        self._large = asyncio.Semaphore(LARGE_STREAMS)

    @asynccontextmanager
    async def lane(self, stored: StoredFile) -> AsyncIterator[None]:
        """Wait until this object may travel, which it does in the block."""
        async with self._large if stored.bytes > LARGE_BYTES else nullcontext(), self._all:
            yield


class Mirror:
    """Copies one backup's objects from the primary place to another as they come, and commits there at the end.

    A failure never stops the backup: the place is then `pending`, and the copy is made up later.
    """

    def __init__(self, primary: Repository, other: Repository, backup_id: str) -> None:
        self._primary = primary
        self._other = other
        self._backup_id = backup_id
        self._offered: asyncio.Queue[StoredFile | AnyBackup] = asyncio.Queue()
        self._outcome: asyncio.Future[PlaceOutcome] = asyncio.get_running_loop().create_future()

    def offer(self, files: Iterable[StoredFile]) -> None:
        """These objects are finished in the primary place: copy them when a stream is free."""
        for stored in files:
            self._offered.put_nowait(stored)

    async def finish(self, manifest: AnyBackup) -> PlaceOutcome:
        """All objects were offered: wait for their copies and the commit."""
        self._offered.put_nowait(manifest)
        return await self._outcome

    async def run(self) -> None:
        """Do the copying, beside the work that offers objects."""
        try:
            async with leased(self._other, self._backup_id, "off-site copy"):
                await self._other.commit(await self._copy_offered())
            self._outcome.set_result(PlaceOutcome(self._other.place, "committed"))
        except StorageError as error:
            self._outcome.set_result(PlaceOutcome(self._other.place, "pending", str(error)))

    async def _copy_offered(self) -> AnyBackup:
        lanes = _Lanes()
        async with task_group() as uploads:
            while isinstance(offered := await self._offered.get(), StoredFile):
                uploads.create_task(self._copy(offered, lanes))
        return offered

    async def _copy(self, stored: StoredFile, lanes: _Lanes) -> None:
        async with lanes.lane(stored):
            await transfer(self._primary.backend, self._other.backend, stored.name, stored.sha256)


@asynccontextmanager
async def mirrored(primary: Repository, others: Sequence[Repository], backup_id: str) -> AsyncIterator[list[Mirror]]:
    """Mirrors to the other places that run while the block does; leaving it early gives them up."""
    mirrors = [Mirror(primary, other, backup_id) for other in others]
    async with task_group() as group:
        tasks = [group.create_task(mirror.run()) for mirror in mirrors]
        yield mirrors
        for task in tasks:
            task.cancel()


async def backlog(primary: Repository, other: Repository) -> list[str]:
    """Ids of backups that the primary place has and the other has not, oldest first."""
    here, there = await asyncio.gather(primary.catalogue(), other.catalogue())
    present = {entry.id for entry in there.entries}
    return sorted(entry.id for entry in here.entries if entry.id not in present)


async def make_up(
    primary: Repository, other: Repository, backup_id: str, on_progress: OnProgress = no_progress
) -> None:
    """Copy one whole backup that another place lacks, the manifest last; objects that are there already are left.

    Raises `OtherSource` if the other place belongs to another database, `Corrupt` if the primary one is damaged.
    """
    manifest = await primary.backup(backup_id)
    await _bind_alike(primary, other)
    purpose = "off-site copy"
    async with leased_for_reading(primary, backup_id, purpose), leased(other, backup_id, purpose):
        there = {stored.name: stored.size async for stored in other.objects(backup_id)}
        missing = [stored for stored in manifest.objects() if there.get(stored.name) != stored.bytes]
        await _copy_all(primary, other, missing, on_progress)
        await other.commit(manifest)
        if (reason := await primary.kept(backup_id)) is not None:
            await other.keep(backup_id, reason)


async def _bind_alike(primary: Repository, other: Repository) -> None:
    """The other place may have been away when the primary one was bound."""
    if (identity := await primary.identity()) is not None:
        await other.bind(identity.system_identifier, identity.database)


async def _copy_all(
    primary: Repository, other: Repository, files: Sequence[StoredFile], on_progress: OnProgress
) -> None:
    total = sum(stored.bytes for stored in files)
    done = 0
    lanes = _Lanes()

    async def copy(stored: StoredFile) -> None:
        nonlocal done
        async with lanes.lane(stored):
            await transfer(primary.backend, other.backend, stored.name, stored.sha256)
        done += stored.bytes
        on_progress(Progress(f"copying to {other.place}", done, total))

    async with task_group() as group:
        for stored in files:
            group.create_task(copy(stored))
