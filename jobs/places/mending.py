"""Makes one backup whole in every place that wants it: objects first, manifest last, from wherever each is whole."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress

from jobs.concurrency import task_group
from jobs.places.leasing import leased, leased_for_reading
from jobs.places.survey import Holding, Surveyed
from jobs.places.sweep import supersede
from jobs.progress import OnProgress, Progress
from storage.errors import Corrupt, NotFound, OutOfSpace
from storage.increments import AnyBackup
from storage.manifest import StoredFile
from storage.names import KEPT
from storage.objects import get, put, transfer

STREAMS = 6
LARGE_BYTES = 8 * 1024 * 1024
LARGE_STREAMS = 2  # each of these holds several blocks of 8 MiB in memory
PURPOSE = "sync"


class Lanes:
    """Many small objects travel at a time, for each waits for the store's answer; few large ones do."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(STREAMS)
        self._large = asyncio.Semaphore(LARGE_STREAMS)

    @asynccontextmanager
    async def lane(self, stored: StoredFile) -> AsyncIterator[None]:
        """Wait until this object may travel, which it does in the block."""
        async with self._large if stored.bytes > LARGE_BYTES else nullcontext(), self._all:
            yield


def bytes_lacking(holding: Holding, manifest: AnyBackup) -> int:
    """How many bytes are to be brought to a place."""
    return sum(one.bytes for one in manifest.objects() if one.name in holding.bad)


async def mend(surveyed: Surveyed, manifest: AnyBackup, holding: Holding, on_progress: OnProgress) -> int:
    """Make a backup whole in one place; return how many bytes were brought there.

    What turns out to be damaged elsewhere is noted in that place's holding. Raises `Corrupt` if an object is whole in
    no place, `OutOfSpace` before anything is copied if there is no room, and what the places raise.
    """
    others = [one for one in surveyed.holdings if one is not holding]
    wanted = bytes_lacking(holding, manifest)
    await _require_room(holding, wanted)
    async with AsyncExitStack() as leases:
        await leases.enter_async_context(leased(holding.place.repository, surveyed.id, PURPOSE))
        for other in others:
            await leases.enter_async_context(leased_for_reading(other.place.repository, surveyed.id, PURPOSE))
        lost = await _bring_objects(holding, others, manifest, on_progress)
        if lost:
            raise Corrupt(
                f"{lost[0]} is whole in no place" + (f", nor are {len(lost) - 1} others" if lost[1:] else ""),
                "this backup cannot be restored whole; rowvault verify shows what is wrong where",
            )
        await _bring_mark(holding, others, surveyed.id)
        await _bring_manifest(holding, surveyed, manifest)
    return wanted


async def _require_room(holding: Holding, wanted: int) -> None:
    free = await holding.place.repository.backend.free_bytes()
    if free is not None and wanted > free:
        raise OutOfSpace(
            f"{holding.place.name} has room for {free} bytes, and lacks {wanted} of this backup",
            f"enlarge {holding.place.name}, or let it keep fewer backups",
        )


async def _bring_objects(
    holding: Holding, others: Sequence[Holding], manifest: AnyBackup, on_progress: OnProgress
) -> list[str]:
    """Bring what can be had from elsewhere; the names of what cannot."""
    files = [one for one in manifest.objects() if one.name in holding.bad]
    total, done, lost, lanes = sum(one.bytes for one in files), 0, list[str](), Lanes()

    async def bring(stored: StoredFile) -> None:
        nonlocal done
        async with lanes.lane(stored):
            brought = await _bring(stored, holding, others)
        done += stored.bytes
        if not brought:
            lost.append(stored.name)
        on_progress(Progress(f"copying to {holding.place.name}", done, total, manifest.id))

    async with task_group() as group:
        for stored in files:
            group.create_task(bring(stored))
    return sorted(lost)


async def _bring(stored: StoredFile, holding: Holding, others: Sequence[Holding]) -> bool:
    """Whether an object could be brought from one of the other places."""
    for other in others:
        if other.own is holding.own and stored.name in other.bad:
            continue
        try:
            source, target = other.place.repository.backend, holding.place.repository.backend
            await transfer(source, target, stored.name, stored.sha256)
        except NotFound:
            other.missing |= {stored.name} if other.own is holding.own else set()
        except Corrupt:
            other.other |= {stored.name} if other.own is holding.own else set()
        else:
            holding.missing.discard(stored.name)
            holding.other.discard(stored.name)
            return True
    return False


async def _bring_mark(holding: Holding, others: Sequence[Holding], backup_id: str) -> None:
    """A backup that is listed anew has its keep mark from the beginning: the place may be the only one left by then."""
    if holding.has_manifest:
        return
    name = f"{KEPT}{backup_id}.json"
    for other in others:
        if (entry := other.place.entries.get(backup_id)) is not None and entry.kept:
            with suppress(NotFound):  # it was just lifted
                await put(holding.place.repository.backend, name, await get(other.place.repository.backend, name))
                holding.marked = True
                return


async def _bring_manifest(holding: Holding, surveyed: Surveyed, manifest: AnyBackup) -> None:
    repository = holding.place.repository
    if holding.manifest_whole:
        await repository.backend.settle()
    elif holding.outdated:
        await repository.commit(manifest)
        await supersede(repository, manifest.id)
    elif holding.has_manifest:
        await repository.backend.settle()
        await put(repository.backend, str(manifest.name()), surveyed.data)
    else:
        await repository.commit(manifest)
    holding.has_manifest = holding.manifest_whole = True
    holding.outdated = False
