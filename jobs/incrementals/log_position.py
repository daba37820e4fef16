"""How far the change log has come: what the slot, the manifests and Rowvault's own schema say together."""

from dataclasses import dataclass, replace

from jobs.postgres.capture import Capture, Slot, read_capture, read_slot
from jobs.postgres.change_log import is_visible
from jobs.postgres.connection import Connection
from jobs.postgres.pgoutput import lsn_number, lsn_text
from jobs.postgres.snapshot import Snapshot
from storage import manifest as stored
from storage.errors import Corrupt
from storage.increments import Increment
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class LogPosition:
    """The log is stored up to `end`. `unseen` are transactions in it (xid, LSN) that were not yet visible then.

    `newest` is the last window, None where none was stored of this slot yet.
    """

    capture: Capture
    slot: Slot
    end: int
    unseen: tuple[tuple[int, int], ...]
    newest: Increment | None


async def log_position(connection: Connection, primary: Repository) -> LogPosition | None:
    """Where the next window begins; None if there is no log, or nothing could continue it without a gap.

    The manifests say where to go on, since the slot itself goes back after a crash of the server.
    """
    capture = await read_capture(connection)
    slot = await read_slot(connection, capture.slot) if capture else None
    if capture is None or slot is None or slot.lost:
        return None
    try:
        newest = await newest_window(primary, capture.slot)
    except Corrupt:  # verifying finds it; without it the log is known from its beginning, if the slot still has that
        newest = None
    begun = LogPosition(capture, slot, capture.since, (), None)
    position = continued(begun, newest) if newest else begun
    return position if slot.confirmed <= position.end else None


def continued(position: LogPosition, newest: Increment) -> LogPosition:
    """The same log once another window is stored."""
    unseen = tuple((one.xid, lsn_number(one.lsn)) for one in newest.unseen)
    return replace(position, end=lsn_number(newest.end), unseen=unseen, newest=newest)


async def newest_window(primary: Repository, slot: str) -> Increment | None:
    """The last window that was stored of a slot; raises `Corrupt` if its manifest cannot be read."""
    for entry in (await primary.catalogue()).of_kind("incremental")[:1]:
        newest = await primary.backup(entry.id)
        return newest if isinstance(newest, Increment) and newest.slot == slot else None
    return None


def described_for(position: LogPosition, snapshot: Snapshot) -> stored.Capture:
    """In a manifest's words, from where on the log holds what the snapshot does not see."""
    missing = [lsn for xid, lsn in position.unseen if not is_visible(xid, snapshot.xmax, snapshot.in_progress)]
    return stored.Capture(
        slot=position.capture.slot,
        publication=position.capture.publication,
        since=lsn_text(min([position.end, *missing])),
    )
