"""Which backups together make a moment: a full one, and the windows of the change log from it on, without a gap."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from jobs.chains.points import At, BeforeXid, Point
from jobs.errors import NotThere
from jobs.places.catalogue import ListedBackup, list_backups, read_backup
from jobs.postgres.change_log import is_visible, widened
from jobs.postgres.pgoutput import Commit, lsn_number
from storage.errors import Corrupt, NotFound
from storage.increments import AnyBackup, Beside, Increment, Incremental
from storage.manifest import Manifest
from storage.repository import Repository

AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Chain:
    """A full backup, and windows in order that hold everything which it lacks, up to the end of the last one.

    `beside` are incremental backups in order that say what became of the tables which are not in the log.
    """

    base: Manifest
    windows: tuple[Increment, ...]
    beside: tuple[Incremental, ...] = ()

    @property
    def since(self) -> int:
        """The LSN from which on transactions may be missing from the base."""
        assert self.base.capture is not None
        return lsn_number(self.base.capture.since)

    def lacks(self, commit: Commit) -> bool:
        """Whether the base does not have a transaction: exactly if its snapshot does not see it."""
        seen = self.base.snapshot
        # After the LSN that was read after the snapshot all is lacking, even where xids went around since.
        if commit.lsn >= lsn_number(seen.lsn):
            return True
        return not is_visible(widened(commit.xid, seen.xmax), seen.xmax, seen.in_progress)

    @property
    def backups(self) -> tuple[AnyBackup, ...]:
        """All backups that it is made of."""
        return (self.base, *self.windows, *self.beside)

    @property
    def reaches(self) -> datetime:
        """The newest moment it can bring back."""
        return max(one.created_at for one in self.backups)

    @property
    def beside_moment(self) -> datetime:
        """As of when it brings back the tables that are not in the log."""
        beside = self.beside[-1].beside if self.beside else None
        return beside.moment if beside is not None else self.base.created_at

    @property
    def last(self) -> AnyBackup:
        """The backup with which it ends."""
        return max(self.backups, key=lambda one: one.created_at)


def joined(base: Manifest, windows: Iterable[Increment]) -> Chain:
    """The windows that continue a base without a gap, in the order of the log.

    One of another base counts too, unless tables had changed their shape by then.
    """
    if base.capture is None:
        return Chain(base, ())
    found: list[Increment] = []
    end = lsn_number(base.capture.since)
    for window in sorted(windows, key=lambda one: (lsn_number(one.start), lsn_number(one.end))):
        if window.slot != base.capture.slot or lsn_number(window.end) <= end:
            continue
        if lsn_number(window.start) > end or not _of_its_shape(base, window):
            break
        found.append(window)
        end = lsn_number(window.end)
    return Chain(base, tuple(found))


def _of_its_shape(base: Manifest, window: Increment) -> bool:
    """Whether no table changed its shape from the base to the window. Of one before the base only what it lacks counts,
    which cannot be of tables that were changed since.
    """
    return window.fingerprint == base.fingerprint or lsn_number(window.end) <= lsn_number(base.snapshot.lsn)


async def chain_to(repositories: Sequence[Repository], point: Point) -> Chain:
    """The chain that brings back a moment, with the newest base that can.

    Raises `NotThere`, naming the nearest moments; `Corrupt` if there are manifests that cannot be read instead.
    """
    listed = [backup for backup in (await list_backups(repositories)).backups if backup.whole_somewhere]
    manifests = _Manifests(repositories)
    windows = _Windows(manifests, [backup for backup in listed if backup.kind == "incremental"])
    reaches: list[datetime] = []
    for backup in listed:
        if backup.kind != "full":
            continue
        base = await manifests.read(backup.id)
        if not isinstance(base, Manifest):
            continue
        if not point.begins_with(base):
            reaches.append(base.created_at)
            continue
        if point.is_exactly(base):
            return Chain(base, ())
        chain = await windows.chain(base, point)
        reached = chain.windows and (isinstance(point, BeforeXid) or point.reached_by(chain.windows[-1]))
        beside = await windows.beside(base, point)
        if reached or (beside and not chain.windows and point.is_exactly(beside[-1])):
            return replace(chain, beside=beside)
        reaches += [chain.reaches, *windows.moments(base)]
    raise manifests.damaged[0] if manifests.damaged else _out_of_reach(point, reaches)


def _out_of_reach(point: Point, reaches: list[datetime]) -> NotThere:
    if not reaches:
        return NotThere("there is no backup yet", "take one with: rowvault backup")
    if not isinstance(point, At):
        return NotThere(f"no chain of backups reaches {point}", "rowvault list shows which moments can be reached")
    before = max((one for one in reaches if one <= point.time), default=None)
    after = min((one for one in reaches if one > point.time), default=None)
    nearest = " and ".join(one.isoformat() for one in (before, after) if one is not None)
    return NotThere(f"no chain of backups reaches {point}", f"the nearest moments are {nearest}; see rowvault list")


class _Manifests:
    """Manifests, each read once. One that cannot be read is as good as none: what needs it is out of reach."""

    def __init__(self, repositories: Sequence[Repository]) -> None:
        self.damaged: list[Corrupt] = []
        self._repositories = repositories
        self._read: dict[str, AnyBackup | None] = {}

    async def read(self, backup_id: str) -> AnyBackup | None:
        """One manifest, None if it is damaged."""
        if backup_id not in self._read:
            self._read[backup_id] = None
            try:
                self._read[backup_id] = await read_backup(self._repositories, backup_id)
            except Corrupt as error:
                self.damaged.append(error)
            except NotFound:  # what a backup builds on may be missing
                pass
        return self._read[backup_id]


class _Windows:
    """The windows that there are, read only as far as they are wanted."""

    def __init__(self, manifests: _Manifests, listed: Sequence[ListedBackup]) -> None:
        self._manifests = manifests
        self._listed = sorted(listed, key=lambda backup: backup.id)

    async def chain(self, base: Manifest, point: Point) -> Chain:
        """The windows from a base on, until the point is reached or they end."""
        if base.capture is None:
            return Chain(base, ())
        later = [backup.id for backup in self._listed if backup.created_at > base.created_at]
        found = await self._before(base)
        for begin in range(0, len(later), AT_ONCE):
            found += await self._windows(later[begin : begin + AT_ONCE])
            chain = joined(base, found)
            if chain.windows and point.reached_by(chain.windows[-1]):
                break
        chain = joined(base, found)
        first = next((number for number, one in enumerate(chain.windows) if point.reached_by(one)), None)
        return chain if first is None else Chain(base, chain.windows[: first + 1])

    async def beside(self, base: Manifest, point: Point) -> tuple[Incremental, ...]:
        """The newest line of backups, none of them missing, that say how tables beside the log were at the point."""
        if all(table.identity for table in base.tables):
            return ()
        for backup in reversed(self._listed):
            if backup.base == base.id and point.admits(backup.id):
                line = await self._line(backup.id)
                if line and point.includes(line[-1][1]):
                    return tuple(one for one, _ in line)
        return ()

    async def _line(self, backup_id: str | None) -> list[tuple[Incremental, Beside]]:
        """A backup and those that it builds on, oldest first; none if one is missing."""
        line: list[tuple[Incremental, Beside]] = []
        while backup_id is not None:
            one = await self._manifests.read(backup_id)
            if one is None or isinstance(one, Manifest) or one.beside is None:
                return []
            line.insert(0, (one, one.beside))
            backup_id = one.beside.previous
        return line

    def moments(self, base: Manifest) -> list[datetime]:
        """When those that compare with a base were taken; no moment in between can be brought back."""
        return [one.created_at for one in self._listed if base.compared and one.base == base.id]

    async def _before(self, base: Manifest) -> list[Increment]:
        """Windows from before the base that hold what it does not see, newest first."""
        assert base.capture is not None
        found: list[Increment] = []
        for backup in reversed([one for one in self._listed if one.created_at <= base.created_at]):
            for one in await self._windows([backup.id]):
                found.append(one)
                if one.slot != base.capture.slot or lsn_number(one.start) <= lsn_number(base.capture.since):
                    return found
        return found

    async def _windows(self, ids: Sequence[str]) -> list[Increment]:
        found = await asyncio.gather(*(self._manifests.read(one) for one in ids))
        return [one for one in found if isinstance(one, Increment)]
