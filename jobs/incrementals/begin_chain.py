"""Makes ready for the full backup that begins a chain: by the change log, or, where that cannot be, by comparing."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jobs.incrementals.continuation import chosen_table_logs, lost, newest_full
from jobs.incrementals.log_position import log_position
from jobs.incrementals.taking import CaptureOptions, Method
from jobs.postgres.capture import read_slot, set_up, take_down
from jobs.postgres.capture_rights import refuse_standby, require_capture
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.errors import CannotCapture, MissingPrivilege, PostgresError
from jobs.preparing import Chaining
from storage.errors import Corrupt
from storage.manifest import Gap, Manifest
from storage.repository import Repository

COMPARING: tuple[Method, ...] = ("xmin", "timestamp")
A_DAY = timedelta(days=1)
LOSSES = 2
"""Slots that may be lost in a day. Each costs a full backup; after that, comparing is the lesser burden."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a chain is to begin."""

    connection: Connection
    selection: Selection
    primary: Repository
    capture: CaptureOptions

    async def chaining(self, reason: str) -> Chaining:
        """Set up what the next full backup needs, anew. `reason` says why the chain before cannot be continued.

        Raises `CannotCapture` or `MissingPrivilege` if only the change log is wanted and it cannot be had, `Contended`.
        """
        gap = await self._gap(reason)
        obstacle = await self._obstacle(gap)
        if not obstacle:
            try:
                logs = await chosen_table_logs(self.connection, self.selection)
                await set_up(self.connection, list(logs.values()), self.capture.patience)
            except (CannotCapture, MissingPrivilege) as error:
                if self.capture.method == "wal":
                    raise
                obstacle = error.message
        return Chaining(gap, obstacle + await self._left_behind() if obstacle else "")

    async def _left_behind(self) -> str:
        """Take away what was set up before: nobody reads it now. Backups go on if that fails, and say so."""
        try:
            await take_down(self.connection)
        except PostgresError as error:
            return f"; what captured changes before could not be removed, see rowvault doctor: {error.message}"
        return ""

    async def _gap(self, reason: str) -> Gap | None:
        before = await newest_full(self.primary)
        if before is None:
            return None
        slot = await read_slot(self.connection, before.capture.slot) if before.capture else None
        return Gap(reason=reason, slot_lost=before.capture is not None and bool(lost(slot, self.capture.lag_limit)))

    async def _obstacle(self, gap: Gap | None) -> str:
        """Why there is to be comparing instead; empty if the log can do."""
        if self.capture.method in COMPARING:
            return f"ROWVAULT_INCREMENTAL__METHOD is {self.capture.method}"
        try:
            await require_capture(self.connection)
        except CannotCapture as error:
            if self.capture.method == "wal":
                raise
            return error.message
        if self.capture.method == "auto":
            gaps = [gap, *(full.gap for full in await self._fulls_of_a_day())]
            losses = sum(1 for one in gaps if one is not None and one.slot_lost)
            if losses >= LOSSES:
                return f"{losses} replication slots were lost within a day"
        return ""

    async def _fulls_of_a_day(self) -> list[Manifest]:
        since, found = datetime.now(UTC) - A_DAY, list[Manifest]()
        for entry in (await self.primary.catalogue()).entries:
            if entry.kind == "full" and entry.created_at > since:
                with suppress(Corrupt):  # verifying finds it
                    found.append(await self.primary.manifest(entry.id))
        return found


async def begin_capture(source: Source, selection: Selection, primary: Repository, capture: CaptureOptions) -> Chaining:
    """Begin to capture changes, unless they are captured already: the full backup that comes next then begins a chain.

    The job lock is the caller's to hold. Raises `CannotCapture` where incremental backups are not possible in the way
    that is wanted, `Contended`.
    """
    async with session(source, "capture") as connection:
        await refuse_standby(connection)
        beginning = Beginning(connection, selection, primary, capture)
        wanted = {oid for oid, log in (await chosen_table_logs(connection, selection)).items() if log.identity}
        position = await log_position(connection, primary)
        if position is None:
            reason = "changes were not captured before"
        elif position.capture.tables != wanted:
            reason = "other tables are to be captured"
        else:
            reason = lost(position.slot, capture.lag_limit)
        if not reason and capture.method not in COMPARING:
            return Chaining(None)
        chaining = await beginning.chaining(reason or f"ROWVAULT_INCREMENTAL__METHOD is {capture.method}")
        before = await newest_full(primary)
        if chaining.obstacle and before is not None and before.compared:
            return Chaining(None, chaining.obstacle)  # the next one like it
        return chaining
