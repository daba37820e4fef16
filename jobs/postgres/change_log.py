"""Reads the change log from a slot, a window at a time, and lets the server forget what was stored.

A window is every transaction whose commit record begins in its range of LSNs, `start` included, `end` not: that is what
a peek up to `end` adds to what was read before, and what the slot skips once it was advanced to `end`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from jobs.postgres.capture import PUBLICATION
from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.pgoutput import (
    BEGIN,
    TRUNCATE,
    Commit,
    Messages,
    commit_of,
    lsn_number,
    lsn_text,
    truncated_tables,
)


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Up to which LSN the log can be read now, as of which moment, and whom a snapshot taken just after it sees."""

    lsn: int
    moment: datetime
    xmax: int
    in_progress: frozenset[int]


async def read_log_end(connection: Connection) -> LogEnd:
    """Where the log ends now, everything that was committed until `moment` included, asynchronous commits too."""
    with translated("reading where the log ends"):
        moment = await connection.fetchval("SELECT pg_catalog.clock_timestamp()")
        # Committing waits until all WAL before it is on disk; pg_current_wal_lsn() would name what may still be lost.
        await connection.execute(
            "BEGIN; SET LOCAL synchronous_commit = local;"
            "SELECT pg_catalog.pg_logical_emit_message(true, 'rowvault', ''); COMMIT"
        )
        lsn = await connection.fetchval("SELECT pg_catalog.pg_current_wal_flush_lsn()::text")
        seen = await connection.fetchval("SELECT pg_catalog.pg_current_snapshot()::text")
    _, xmax, running = seen.split(":")
    return LogEnd(lsn_number(lsn), moment, int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))


def window_query(slot: str, end: int) -> str:
    """What COPY sends in binary as a window that ends at an LSN; the slot stays where it is."""
    return (
        "SELECT lsn, xid, data FROM pg_catalog.pg_logical_slot_peek_binary_changes("
        f"'{slot}', '{lsn_text(end)}', NULL, 'proto_version', '1', 'publication_names', '{PUBLICATION}')"
    )


async def read_again(connection: Connection, slot: str, start: int) -> int:
    """Bytes of WAL before an LSN that the server reads again to go on there: since the oldest transaction at work."""
    with translated("looking at the replication slot"):
        again = await connection.fetchval(
            "SELECT pg_catalog.pg_wal_lsn_diff($2::text::pg_lsn, restart_lsn)::bigint"
            " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
            slot,
            lsn_text(start),
        )
    return int(again or 0)


async def advance(connection: Connection, slot: str, end: int) -> None:
    """Let the server forget every transaction before an LSN."""
    with translated("advancing the replication slot"):
        await connection.execute(
            "SELECT pg_catalog.pg_replication_slot_advance($1, $2::text::pg_lsn)", slot, lsn_text(end)
        )


def widened(xid: int, xmax: int) -> int:
    """A 32-bit xid as the 64-bit one that is nearest to `xmax`."""
    wide = (xmax & ~0xFFFFFFFF) | xid
    return min((wide - (1 << 32), wide, wide + (1 << 32)), key=lambda one: abs(one - xmax))


def is_visible(xid: int, xmax: int, in_progress: Collection[int]) -> bool:
    """Whether a snapshot sees what a transaction (64-bit xid) that has committed did."""
    return xid < xmax and xid not in in_progress


@dataclass(slots=True)
class WindowTally:
    """Counts what passes by of a window: changes by table, commits, and those that were not yet visible at its end.

    To truncate a table is one change of it, so that where none is counted there is none.
    """

    start: int
    end: LogEnd
    changes: dict[int, int] = field(default_factory=dict)
    commits: int = 0
    last: Commit | None = None
    unseen: list[tuple[int, int]] = field(default_factory=list)
    _messages: Messages = field(default_factory=lambda: Messages(counted={}))
    _counts: bool = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        for message in self._messages.feed(chunk):
            if message[0] == BEGIN:
                self._begin(commit_of(message))
            elif message[0] == TRUNCATE and self._counts:
                for oid in truncated_tables(message):
                    self.changes[oid] = self.changes.get(oid, 0) + 1

    def finish(self) -> None:
        """All bytes have passed; raises `Garbled` if they are no whole window."""
        self._messages.finish()

    def _begin(self, commit: Commit) -> None:
        """A transaction that an earlier window has does not count again: after a crash, a slot goes back."""
        self._counts = commit.lsn >= self.start
        self._messages.counted = self.changes if self._counts else {}
        if not self._counts:
            return
        self.commits += 1
        self.last = commit
        xid = widened(commit.xid, self.end.xmax)
        if not is_visible(xid, self.end.xmax, self.end.in_progress):
            self.unseen.append((xid, commit.lsn))
