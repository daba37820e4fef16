"""The off-site copy: each finished local object goes up while the next are copied. What is missed, sync makes good."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from jobs.concurrency import task_group
from jobs.places.leasing import leased
from jobs.places.mending import Lanes
from jobs.postgres.errors import Held
from jobs.results import PlaceOutcome
from storage.errors import StorageError
from storage.increments import AnyBackup
from storage.manifest import StoredFile
from storage.objects import transfer
from storage.repository import Repository


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
        except (StorageError, Held) as error:
            self._outcome.set_result(PlaceOutcome(self._other.place, "pending", str(error)))

    async def _copy_offered(self) -> AnyBackup:
        lanes = Lanes()
        async with task_group() as uploads:
            while isinstance(offered := await self._offered.get(), StoredFile):
                uploads.create_task(self._copy(offered, lanes))
        return offered

    async def _copy(self, stored: StoredFile, lanes: Lanes) -> None:
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
