"""Incremental backups out of the change log, a bounded window at a time.

Each window is stored, committed and only then let go by the server, so that nothing is lost if the process dies in
between; what is read twice then is told apart by its LSN.
"""

from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime

from jobs.concurrency import alongside
from jobs.incrementals.continuation import Continuation, changed_since, chosen_table_logs
from jobs.incrementals.differences import beside_log, compare, these, warnings
from jobs.incrementals.log_position import continued
from jobs.incrementals.taking import Taken, Taking
from jobs.incrementals.window_copy import copy_window
from jobs.places.sweep import discard
from jobs.postgres.change_log import LogEnd, WindowTally, advance, is_visible, read_again, read_log_end
from jobs.postgres.errors import Contended
from jobs.postgres.pgoutput import lsn_text
from jobs.postgres.snapshot import open_snapshot
from jobs.progress import Progress
from storage.age import NoIdentity
from storage.increments import Beside, Increment, Log, TableChanges, Unseen
from storage.manifest import Sequence as StoredSequence
from storage.names import log_prefix, new_backup_id

LONGEST = 8  # times the wanted size, where otherwise the same WAL would be read again and again


async def take_windows(taking: Taking, chain: Continuation) -> list[Taken] | str:
    """Store window after window up to the end of the log as it is now; return why not, if tables changed meanwhile."""
    end = await read_log_end(taking.connection)
    first, taken = chain.log.end, list[Taken]()
    while chain.log.end < end.lsn or not taken:
        stop = chain.next_stop(end.lsn, await _window_bytes(taking, chain))
        window = _Window(taking, chain, end, stop)
        one = await window.take()
        if isinstance(one, str):
            return one
        assert isinstance(one.increment, Increment)
        taken.append(one)
        chain = replace(chain, log=continued(chain.log, one.increment))
        taking.on_progress(Progress("reading the change log", stop - first, end.lsn - first, one.increment.id))
    return taken


async def _window_bytes(taking: Taking, chain: Continuation) -> int:
    """How much WAL the next window takes in: no less than the server reads once more before it.

    Else a transaction would be read from its beginning for every window until it commits.
    """
    least = taking.capture.window_bytes
    again = await read_again(taking.connection, chain.log.capture.slot, chain.log.end)
    return max(least, min(again, LONGEST * least))


class _Window:
    """One window to be taken. The last one reaches the moment at which the log's end was read."""

    def __init__(self, taking: Taking, chain: Continuation, end: LogEnd, stop: int) -> None:
        self._taking = taking
        self._chain = chain
        self._end = end
        self._stop = stop
        self._last = stop == end.lsn
        self._unopened = False

    async def take(self) -> Taken | str:
        """Store, commit and let go."""
        slot = self._chain.log.capture.slot
        moment = self._end.moment if self._last else self._chain.known_at(self._stop)
        backup_id = new_backup_id("incremental", moment)
        taken = await self._taking.commit(
            backup_id,
            lambda: self._store(backup_id, moment),
            lambda: advance(self._taking.connection, slot, self._stop),
        )
        return taken if isinstance(taken, str) else replace(taken, unopened=self._unopened)

    async def _store(self, backup_id: str, moment: datetime) -> Increment | str:
        taking, chain = self._taking, self._chain
        tally = WindowTally(chain.log.end, self._end)
        log = await copy_window(
            taking.source,
            chain.log.capture.slot,
            self._stop,
            backup_id,
            taking.ready.primary.backend,
            taking.capture.copying,
            tally,
        )
        async with AsyncExitStack() as locks:
            beside, missing = await self._beside(backup_id, locks) if self._last else (None, ())
            sequences = await taking.sequences(chain.base)
            if reason := await changed_since(taking.look, chain):
                return reason
        described = self._described(backup_id, moment, tally, log, sequences, beside)
        return described.model_copy(update={"warnings": described.warnings + missing})

    async def _beside(self, backup_id: str, locks: AsyncExitStack) -> tuple[Beside | None, tuple[str, ...]]:
        """What became of the tables that are not in the log; they stay locked until their shape was looked at.

        Where somebody holds them, or no identity opens what they are compared with, the log goes on without: a slot
        that is not read fills the server's disk.
        """
        taking, tables = self._taking, beside_log(self._chain.base)
        if not tables:
            return None, ()
        logs = await chosen_table_logs(taking.connection, taking.selection)
        reasons = {oid: log.reason for oid, log in logs.items()}
        try:
            session = await locks.enter_async_context(open_snapshot(taking.source, these(tables), taking.options.locks))
            async with alongside(session.watch()):
                return await compare(taking, session, self._chain.previous, reasons, backup_id), ()
        except (Contended, NoIdentity) as error:
            await locks.aclose()  # nobody waits on our locks for what storage still has to do
            self._unopened = isinstance(error, NoIdentity)
            await discard(taking.ready.primary, backup_id, log_prefix(backup_id))
            return None, (f"tables that are not in the change log were left out this time: {error.message}",)

    def _described(
        self,
        backup_id: str,
        moment: datetime,
        tally: WindowTally,
        log: Log,
        sequences: tuple[StoredSequence, ...],
        beside: Beside | None,
    ) -> Increment:
        chain, end = self._chain, self._end
        unseen = [one for one in chain.log.unseen if not is_visible(one[0], end.xmax, end.in_progress)] + tally.unseen
        return Increment(
            **self._taking.header(chain.base, backup_id, moment),
            method="wal",
            slot=chain.log.capture.slot,
            publication=chain.log.capture.publication,
            start=lsn_text(chain.log.end),
            end=lsn_text(self._stop),
            commits=tally.commits,
            last_commit=tally.last.time if tally.last else None,
            unseen=tuple(Unseen(xid=xid, lsn=lsn_text(lsn)) for xid, lsn in unseen),
            changes=tuple(
                TableChanges(
                    schema_name=table.schema_name,
                    name=table.name,
                    oid=table.oid,
                    changes=tally.changes.get(table.oid, 0),
                )
                for table in chain.base.tables
                if table.identity
            ),
            sequences=sequences,
            log=log,
            beside=beside,
            warnings=warnings(beside.tables if beside else ()),
        )
