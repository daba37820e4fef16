"""An incremental backup: what was committed since the last one, out of the change log, a bounded window at a time.

Each window is stored, committed and only then let go by the server, so that nothing is lost if the process dies in
between; what is read twice then is told apart by its LSN. Where no chain can be continued, a full backup begins one.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

from jobs.continuation import Continuation, Look, changed_since, chosen_table_logs, continuation, lost
from jobs.describe import describe_sequences, describe_source
from jobs.full_backup import BackupOptions, full_backup
from jobs.leasing import leased
from jobs.log_position import continued, log_position
from jobs.offsite import mirrored
from jobs.postgres.capture import set_up
from jobs.postgres.capture_rights import require_capture
from jobs.postgres.catalogue import Selection, SequenceState, read_relations, read_sequences
from jobs.postgres.change_log import LogEnd, WindowTally, advance, is_visible, read_again, read_log_end
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.identifiers import TableName
from jobs.postgres.pgoutput import lsn_text
from jobs.preparing import Ready, identify, make_ready
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import BackupResult, PlaceOutcome, State, TableOutcome
from jobs.sweep import discard
from jobs.table_copy import CopyOptions
from jobs.verify import verify_backup
from jobs.window_copy import copy_window
from storage.errors import StorageError
from storage.manifest import Increment, Log, Manifest, TableChanges, Unseen
from storage.names import check_label, new_backup_id
from storage.repository import Repository

WINDOW_BYTES = 512 * 1024 * 1024
LONGEST = 8  # times that, where otherwise the same WAL would be read again and again


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How changes are captured. `patience`: seconds to wait for transactions that were at work when it begins.

    `lag_limit`: bytes of WAL that the slot may hold back; past it the slot is dropped, and a full backup begins anew.
    `window_bytes`: about how much WAL is read at a time; the server needs as much room for temporary files, or twice.
    """

    copying: CopyOptions = field(default_factory=CopyOptions)
    patience: float = 60.0
    lag_limit: int = 10 * 1024**3
    window_bytes: int = WINDOW_BYTES


async def incremental_backup(
    source: Source,
    selection: Selection,
    repositories: Sequence[Repository],
    capture: CaptureOptions,
    options: BackupOptions,
    on_progress: OnProgress = no_progress,
) -> BackupResult:
    """Store, commit and verify what was committed since the last backup; take a full one where that has no chain.

    The job lock is the caller's to hold. What it stores is committed in the primary place before the server lets go of
    it; a second place that fails is `pending`. Raises `CannotCapture` where changes cannot be captured at all.
    """
    check_label(options.label)
    started = time.monotonic()
    ready = await make_ready(await identify(source), repositories, adopt=options.adopt)
    async with session(source, "capture") as connection:
        await require_capture(connection)
        taking = _Taking(source, selection, connection, ready, capture, options, on_progress)
        found = await continuation(taking.look)
        if isinstance(found, Continuation):
            taken = await _take_windows(taking, found)
            if not isinstance(taken, str):
                return await _result(taken, taking, repositories, started)
            found = taken
        on_progress(Progress(f"a new chain begins: {found}"))
        await _begin_anew(taking)
    result = await full_backup(source, selection, repositories, options, on_progress)
    return replace(result, warnings=(f"a full backup was taken: {found}", *result.warnings))


async def begin_capture(source: Source, selection: Selection, primary: Repository, capture: CaptureOptions) -> None:
    """Begin to capture changes, unless they are captured already: the full backup that comes next then begins a chain.

    The job lock is the caller's to hold. Raises `CannotCapture`.
    """
    async with session(source, "capture") as connection:
        await require_capture(connection)
        logs = await chosen_table_logs(connection, selection)
        wanted = {oid for oid, log in logs.items() if log.identity}
        position = await log_position(connection, primary)
        if position is None or lost(position.slot, capture.lag_limit) or position.capture.tables != wanted:
            await set_up(connection, list(logs.values()), capture.patience)


@dataclass(frozen=True, slots=True)
class _Taking:
    """What every window needs; `connection` looks after slot and publication."""

    source: Source
    selection: Selection
    connection: Connection
    ready: Ready
    capture: CaptureOptions
    options: BackupOptions
    on_progress: OnProgress

    @property
    def look(self) -> Look:
        """Where to look whether the log can be continued."""
        return Look(self.connection, self.selection, self.ready.lineage, self.ready.primary, self.capture.lag_limit)


@dataclass(frozen=True, slots=True)
class _Taken:
    """One window that was committed, and how each place took it."""

    increment: Increment
    outcomes: tuple[PlaceOutcome, ...]


async def _begin_anew(taking: _Taking) -> None:
    logs = await chosen_table_logs(taking.connection, taking.selection)
    await set_up(taking.connection, list(logs.values()), taking.capture.patience)


async def _take_windows(taking: _Taking, chain: Continuation) -> list[_Taken] | str:
    """Store window after window up to the end of the log as it is now; return why not, if tables changed meanwhile."""
    end = await read_log_end(taking.connection)
    first, taken = chain.log.end, list[_Taken]()
    while chain.log.end < end.lsn or not taken:
        stop = chain.next_stop(end.lsn, await _window_bytes(taking, chain))
        one = await _take_window(taking, chain, end, stop)
        if isinstance(one, str):
            return one
        taken.append(one)
        chain = replace(chain, log=continued(chain.log, one.increment))
        taking.on_progress(Progress("reading the change log", stop - first, end.lsn - first, one.increment.id))
    return taken


async def _window_bytes(taking: _Taking, chain: Continuation) -> int:
    """How much WAL the next window takes in: no less than the server reads once more before it.

    Else a transaction would be read from its beginning for every window until it commits.
    """
    least = taking.capture.window_bytes
    again = await read_again(taking.connection, chain.log.capture.slot, chain.log.end)
    return max(least, min(again, LONGEST * least))


async def _take_window(taking: _Taking, chain: Continuation, end: LogEnd, stop: int) -> _Taken | str:
    """Store, commit and let go one window. The last one reaches the moment at which the log's end was read."""
    primary = taking.ready.primary
    moment = end.moment if stop == end.lsn else chain.known_at(stop)
    backup_id = new_backup_id("incremental", moment)
    tally = WindowTally(chain.log.end, end)
    async with (
        leased(primary, backup_id, "incremental backup"),
        mirrored(primary, taking.ready.others, backup_id) as mirrors,
    ):
        try:
            log = await copy_window(
                taking.source, chain.log.capture.slot, stop, backup_id, primary.backend, taking.capture.copying, tally
            )
            sequences = await _sequences(taking.connection, chain.base)
            if reason := await changed_since(taking.look, chain):
                await discard(primary, backup_id)
                return reason
        except Exception:
            with suppress(StorageError):  # the next run's sweep removes what this could not
                await discard(primary, backup_id)
            raise
        increment = _describe(taking, chain, backup_id, moment, end, stop, tally, log, sequences)
        for mirror in mirrors:
            mirror.offer(log.objects)
        await primary.commit(increment)
        await advance(taking.connection, chain.log.capture.slot, stop)
        outcomes = [PlaceOutcome(primary.place, "committed")]
        outcomes += [await mirror.finish(increment) for mirror in mirrors]
    return _Taken(increment, (*outcomes, *taking.ready.pending))


async def _sequences(connection: Connection, base: Manifest) -> tuple[SequenceState, ...]:
    """Where the base's sequences stand; those that are gone since were changed with the definitions."""
    names = [TableName(one.schema_name, one.name) for one in base.sequences]
    there = {relation.table for relation in await read_relations(connection) if relation.kind == "S"}
    return await read_sequences(connection, [name for name in names if name in there])


def _describe(
    taking: _Taking,
    chain: Continuation,
    backup_id: str,
    moment: datetime,
    end: LogEnd,
    stop: int,
    tally: WindowTally,
    log: Log,
    sequences: tuple[SequenceState, ...],
) -> Increment:
    unseen = [one for one in chain.log.unseen if not is_visible(one[0], end.xmax, end.in_progress)] + tally.unseen
    return Increment(
        id=backup_id,
        kind="incremental",
        created_at=moment,
        finished_at=datetime.now(UTC),
        base=chain.base.id,
        label=taking.options.label,
        reason=taking.options.reason,
        program=f"rowvault {version('rowvault')}",
        source=describe_source(taking.ready.lineage),
        fingerprint=chain.base.fingerprint,
        slot=chain.log.capture.slot,
        publication=chain.log.capture.publication,
        start=lsn_text(chain.log.end),
        end=lsn_text(stop),
        commits=tally.commits,
        last_commit=tally.last.time if tally.last else None,
        unseen=tuple(Unseen(xid=xid, lsn=lsn_text(lsn)) for xid, lsn in unseen),
        changes=tuple(
            TableChanges(
                schema_name=table.schema_name, name=table.name, oid=table.oid, changes=tally.changes.get(table.oid, 0)
            )
            for table in chain.base.tables
            if table.identity
        ),
        sequences=describe_sequences(sequences),
        log=log,
        trail_head=taking.ready.trail_head,
        warnings=_warnings(chain.base),
    )


def _warnings(base: Manifest) -> tuple[str, ...]:
    return tuple(
        f"changes of {table.schema_name}.{table.name} are in no incremental backup: nothing tells its rows apart"
        for table in base.tables
        if not table.identity
    )


async def _result(
    taken: list[_Taken], taking: _Taking, repositories: Sequence[Repository], started: float
) -> BackupResult:
    """Verify every window where it was committed, and tell of all as of one backup, the last."""
    committed = time.monotonic()
    last = taken[-1]
    for one in taken:
        there = [place for place in repositories if PlaceOutcome(place.place, "committed") in one.outcomes]
        if taking.options.keep:
            for place in there:
                await place.keep(one.increment.id, taking.options.reason)
        verification = await verify_backup(there, one.increment.id, on_progress=taking.on_progress)
        if verification.state == "failed":
            last = one
            break
    outcomes = [outcome for one in taken for outcome in one.outcomes]
    tables = _table_outcomes([one.increment for one in taken])
    return BackupResult(
        id=last.increment.id,
        kind="incremental",
        state=_state(outcomes, verification.state),
        created_at=last.increment.created_at,
        places=last.outcomes,
        tables=tables,
        duration_seconds=committed - started,
        verify_seconds=time.monotonic() - committed,
        verification=verification,
        warnings=taking.ready.suspicions + last.increment.warnings,
        checksums=(last.increment.log.sha256,) * len(tables),
    )


def _state(outcomes: Sequence[PlaceOutcome], verified: State) -> State:
    if verified == "failed":
        return "failed"
    return "success" if all(outcome.state == "committed" for outcome in outcomes) else "warning"


def _table_outcomes(increments: Sequence[Increment]) -> tuple[TableOutcome, ...]:
    """Changes by table. A window is one stream, so its bytes belong to no table; they stand with the first."""
    raw, stored = sum(one.log.bytes for one in increments), sum(one.bytes_stored for one in increments)
    totals: dict[TableName, int] = {}
    for increment in increments:
        for table in increment.changes:
            name = TableName(table.schema_name, table.name)
            totals[name] = totals.get(name, 0) + table.changes
    return tuple(
        TableOutcome(name.schema, name.name, changes, 0 if number else raw, 0 if number else stored)
        for number, (name, changes) in enumerate(totals.items())
    )
