"""Whether the change log can be continued without a gap, and if not, why."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.chains.chain import joined
from jobs.incrementals.difference_chain import Previous, previous_backup
from jobs.incrementals.log_position import LogPosition, log_position
from jobs.postgres.capture import Slot, read_capture, read_slot
from jobs.postgres.catalogue import Selection, choose, read_relations
from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName
from jobs.postgres.lineage import Lineage
from jobs.postgres.pgoutput import lsn_number
from jobs.postgres.table_logs import TableLog, read_table_logs
from storage.errors import Corrupt, NotFound
from storage.increments import Increment
from storage.manifest import Manifest
from storage.repository import Repository

TICK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look: a session on the source, the chosen tables, who the source is, and the place that has the log.

    `lag_limit`: bytes of WAL that the slot may hold back.
    """

    connection: Connection
    selection: Selection
    lineage: Lineage
    primary: Repository
    lag_limit: int


@dataclass(frozen=True, slots=True)
class Continuation:
    """What can be continued: the full backup that it begins with, and how far the log has come since.

    `previous` is what tables that are not in the log are compared with.
    """

    base: Manifest
    log: LogPosition
    previous: Previous

    def next_stop(self, end: int, most: int) -> int:
        """Up to where the next window goes: at most so many bytes of WAL on, but past the base if it is the first."""
        at_least = lsn_number(self.base.snapshot.lsn) if self.log.newest is None else self.log.end
        return min(end, max(self.log.end + most, at_least))

    def known_at(self, stop: int) -> datetime:
        """A moment up to which a window that stops there surely reaches, later than that of the window before."""
        moments = [self.base.created_at] if stop >= lsn_number(self.base.snapshot.lsn) else []
        return max(moments + ([self.log.newest.created_at] if self.log.newest else [])) + TICK


async def continuation(look: Look) -> Continuation | str:
    """The chain that can be continued without a gap, or why there is none."""
    capture = await read_capture(look.connection)
    if capture is None:
        return await _no_capture(look)
    slot = await read_slot(look.connection, capture.slot)
    if reason := lost(slot, look.lag_limit):
        return reason
    log = await log_position(look.connection, look.primary)
    if log is None:
        return "changes were taken from the slot that no backup has, or the one that has them cannot be read"
    base = await newest_full(look.primary)
    if base is None or base.capture is None or base.capture.slot != log.capture.slot:
        return "no full backup that can be read was taken since changes are captured"
    if reason := await changed(look, base):
        return reason
    if not await _is_complete(look.primary, base, log):
        return f"windows since {base.id} are missing, and what comes after them cannot be brought back without them"
    previous = await previous_backup(look.primary, base)
    return previous if isinstance(previous, str) else Continuation(base, log, previous)


def lost(slot: Slot | None, limit: int) -> str:
    """Why a slot is of no use any more; empty if it is."""
    if slot is None:
        return "the replication slot is gone: dropped, or left behind by a failover or a restore"
    if slot.lost:
        return "the server threw away WAL that the replication slot needs (max_slot_wal_keep_size)"
    if slot.lag_bytes > limit:
        return f"the replication slot held back {slot.lag_bytes} bytes of WAL, {limit} is the limit"
    return ""


async def _no_capture(look: Look) -> str:
    """Why there is no capture that is as it was set up: a table that is dropped leaves the publication, too."""
    base = await newest_full(look.primary)
    if base is None or base.capture is None:
        return "changes were not captured before"
    return await changed(look, base) or "the publication is no longer what it was"


async def newest_full(primary: Repository) -> Manifest | None:
    """The newest full backup; None if there is none, or if it cannot be read."""
    for entry in (await primary.catalogue()).of_kind("full")[:1]:
        with suppress(Corrupt):  # verifying finds it; a new one takes its place
            return await primary.manifest(entry.id)
    return None


async def broken(primary: Repository, base: Manifest) -> str:
    """Which backup that the next one would go on from failed its verification, in words; empty if none did."""
    for one in (await primary.catalogue()).of_kind("incremental"):
        if one.verified == "failed" and one.base == base.id:
            return f"{one.id} failed its verification, and what comes after it cannot be brought back without it"
    return ""


async def _is_complete(primary: Repository, base: Manifest, log: LogPosition) -> bool:
    """Whether all windows are there, and are not known to be damaged, that bring the base to where the log is."""
    assert base.capture is not None
    windows, since = list[Increment](), lsn_number(base.capture.since)
    for entry in (await primary.catalogue()).of_kind("incremental"):
        if entry.verified == "failed":
            continue
        with suppress(Corrupt, NotFound):
            window = await primary.incremental(entry.id)
            if isinstance(window, Increment) and window.slot == log.capture.slot:
                windows.append(window)
                if lsn_number(window.start) <= since:
                    break
    chain = joined(base, windows)
    return max((lsn_number(one.end) for one in chain.windows), default=since) >= log.end


async def changed(look: Look, base: Manifest) -> str:
    """Why the tables, or the source, are no longer what they were when the base was taken; empty if they are."""
    lineage = look.lineage
    was = (base.source.system_identifier, base.source.timeline, base.source.token)
    if was != (lineage.system_identifier, lineage.timeline, lineage.token):
        return "the database is of another lineage: it was restored, failed over or cloned, or torn down"
    logs = await chosen_table_logs(look.connection, look.selection)
    known = {table.oid: table for table in base.tables}
    names = {oid: str(TableName(table.schema_name, table.name)) for oid, table in known.items()}
    for oid in known.keys() ^ logs.keys():
        return f"{names.get(oid) or logs[oid].table} came or went"
    for oid, log in logs.items():
        if log.fingerprint != known[oid].fingerprint:
            return f"the definition of {log.table} changed"
        if base.capture is not None and log.identity != known[oid].identity:
            return f"{log.table} can be told apart by other columns than before"
    return ""


async def chosen_table_logs(connection: Connection, selection: Selection) -> dict[int, TableLog]:
    """How each chosen table stands to the change log."""
    with translated("reading the catalogue"):
        chosen = choose(await read_relations(connection), selection)
    return await read_table_logs(connection, [relation.oid for relation in chosen.relations])


async def changed_since(look: Look, chain: Continuation) -> str:
    """Why the chain ends after all; empty if it does not.

    Asked after a window was read: what it holds was committed before any change that is not seen now.
    """
    if await read_capture(look.connection) != chain.log.capture:
        return "the publication was changed"
    return await changed(look, chain.base)
