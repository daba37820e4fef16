"""The points in time that a person can mean, and how backups, windows of the log and its commits stand to each."""

from dataclasses import dataclass
from datetime import datetime

from jobs.postgres.change_log import is_visible, widened
from jobs.postgres.pgoutput import Commit, lsn_number
from storage.increments import AnyBackup, Beside, Increment
from storage.manifest import Manifest, Snapshot
from storage.names import id_moment


def _told_like(told: datetime, moment: datetime) -> datetime:
    """A moment as exactly as a person told theirs: backups are listed with theirs in whole milliseconds."""
    if told.microsecond % 1000:
        return moment
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class At:
    """As of a time: every commit in the order of the log, up to the first that came after it."""

    time: datetime

    def stops_before(self, commit: Commit) -> bool:
        """Whether this commit, and all after it, are not wanted."""
        return commit.time > self.time

    def begins_with(self, base: Manifest) -> bool:
        """Whether a full backup may be the base."""
        return _told_like(self.time, base.created_at) <= self.time

    def reached_by(self, window: Increment) -> bool:
        """Whether nothing after this window can be wanted."""
        return window.created_at >= self.time

    def moment(self, reaches: datetime) -> datetime:
        """Which moment that is."""
        return self.time

    def includes(self, beside: Beside) -> bool:
        """Whether what became of the tables beside the log was so at the point or before."""
        return _told_like(self.time, beside.moment) <= self.time

    def is_exactly(self, backup: AnyBackup) -> bool:
        """Whether a backup was taken at just this point, of tables beside the log too."""
        return _told_like(self.time, backup.created_at) == self.time

    def admits(self, backup_id: str) -> bool:
        """Whether a backup with this id may have been taken at the point or before."""
        return id_moment(backup_id) <= self.time

    def __str__(self) -> str:
        return self.time.isoformat()


@dataclass(frozen=True, slots=True)
class AtLsn:
    """As of an LSN: every commit whose record begins there or before."""

    lsn: int

    def stops_before(self, commit: Commit) -> bool:
        """Whether this commit, and all after it, are not wanted."""
        return commit.lsn > self.lsn

    def begins_with(self, base: Manifest) -> bool:
        """Whether a full backup may be the base."""
        return lsn_number(base.snapshot.lsn) <= self.lsn

    def reached_by(self, window: Increment) -> bool:
        """Whether nothing after this window can be wanted."""
        return lsn_number(window.end) > self.lsn

    def moment(self, reaches: datetime) -> datetime:
        """Which moment that is, as near as a chain tells that reaches so far."""
        return reaches

    def includes(self, beside: Beside) -> bool:
        """Whether what became of the tables beside the log was so at the point or before."""
        return lsn_number(beside.snapshot.lsn) <= self.lsn

    def is_exactly(self, backup: AnyBackup) -> bool:
        """Whether a backup was taken at just this point, of tables beside the log too."""
        return False

    def admits(self, backup_id: str) -> bool:
        """Whether a backup with this id may have been taken at the point or before."""
        return True

    def __str__(self) -> str:
        return f"LSN {self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class BeforeXid:
    """Just before a transaction: every commit before its own. `xid` has 64 bits, or the lower 32 of them."""

    xid: int

    def stops_before(self, commit: Commit) -> bool:
        """Whether this commit, and all after it, are not wanted."""
        return commit.xid == self.xid & 0xFFFFFFFF

    def begins_with(self, base: Manifest) -> bool:
        """Whether a full backup may be the base."""
        return self._is_after(base.snapshot)

    def reached_by(self, window: Increment) -> bool:
        """Whether nothing after this window can be wanted: only its changes tell."""
        return False

    def moment(self, reaches: datetime) -> datetime:
        """Which moment that is, as near as a chain tells that reaches so far."""
        return reaches

    def includes(self, beside: Beside) -> bool:
        """Whether what became of the tables beside the log was so at the point or before."""
        return self._is_after(beside.snapshot)

    def is_exactly(self, backup: AnyBackup) -> bool:
        """Whether a backup was taken at just this point, of tables beside the log too."""
        return False

    def admits(self, backup_id: str) -> bool:
        """Whether a backup with this id may have been taken at the point or before."""
        return True

    def _is_after(self, seen: Snapshot) -> bool:
        xid = self.xid if self.xid >> 32 else widened(self.xid, seen.xmax)
        return not is_visible(xid, seen.xmax, seen.in_progress)

    def __str__(self) -> str:
        return f"before transaction {self.xid}"


@dataclass(frozen=True, slots=True)
class Through:
    """Everything up to the end of one backup: an incremental one, or a full one by itself."""

    backup: AnyBackup

    def stops_before(self, commit: Commit) -> bool:
        """Whether this commit, and all after it, are not wanted."""
        return False

    def begins_with(self, base: Manifest) -> bool:
        """Whether a full backup may be the base."""
        return base.id == self.backup.base

    def reached_by(self, window: Increment) -> bool:
        """Whether nothing after this window can be wanted."""
        return window.id == self.backup.id

    def moment(self, reaches: datetime) -> datetime:
        """Which moment that is."""
        return self.backup.created_at

    def includes(self, beside: Beside) -> bool:
        """Whether what became of the tables beside the log was so at the point or before."""
        own = None if isinstance(self.backup, Manifest) else self.backup.beside
        return beside.moment <= (own.moment if own is not None else self.backup.created_at)

    def is_exactly(self, backup: AnyBackup) -> bool:
        """Whether a backup was taken at just this point, of tables beside the log too."""
        return backup.id == self.backup.id

    def admits(self, backup_id: str) -> bool:
        """Whether a backup with this id may have been taken at the point or before."""
        return backup_id <= self.backup.id

    def __str__(self) -> str:
        return self.backup.id


Point = At | AtLsn | BeforeXid | Through
