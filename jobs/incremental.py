"""An incremental backup: what was committed since the last one, out of the change log or found by comparing.

Where no chain can be continued, a full backup begins one.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from jobs.copying.giving_way import giving_way
from jobs.copying.row_stream import NO_ROWS
from jobs.errors import Unexplained
from jobs.full_backup import full_backup
from jobs.incrementals.begin_chain import COMPARING, Beginning
from jobs.incrementals.continuation import Continuation, broken, changed, continuation, newest_full
from jobs.incrementals.difference_chain import previous_backup, too_old
from jobs.incrementals.differences import take_difference
from jobs.incrementals.log_windows import take_windows
from jobs.incrementals.taking import CaptureOptions, Taken, Taking
from jobs.postgres.capture_rights import refuse_standby, require_capture
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source, session
from jobs.postgres.errors import CannotCapture
from jobs.postgres.identifiers import TableName
from jobs.preparing import BackupOptions, identify, make_ready
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import BackupResult, PlaceOutcome, State, TableOutcome
from jobs.verify import verify_backup
from storage.increments import Increment, Incremental, TableDifference
from storage.manifest import Manifest, StoredFile
from storage.names import check_label, check_reason
from storage.repository import Repository


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
    it; a second place that fails is `pending`. Raises `CannotCapture` where incremental backups are not possible in the
    way that is wanted, `NoIdentity` where tables are compared with what no identity opens.
    """
    check_label(options.label)
    check_reason(options.reason)
    started = time.monotonic()
    ready = await make_ready(await identify(source), repositories, adopt=options.adopt)
    async with session(source, "capture") as connection:
        await refuse_standby(connection)
        taking = Taking(source, selection, connection, ready, capture, options, on_progress)
        try:
            taken = await _continue(taking)
        except Unexplained as error:
            taken = error.message
        if not isinstance(taken, str):
            return await _result(taken, taking, repositories, started)
        on_progress(Progress(f"a new chain begins: {taken}"))
        chaining = await Beginning(connection, selection, ready.primary, capture).chaining(taken)
    result = await full_backup(source, selection, repositories, replace(options, chaining=chaining), on_progress)
    compared = (f"incremental backups will compare tables: {chaining.obstacle}",) if chaining.obstacle else ()
    return replace(result, warnings=(f"a full backup was taken: {taken}", *compared, *result.warnings))


async def _continue(taking: Taking) -> list[Taken] | str:
    """Continue the newest full backup in the way for which it was taken; why not, if that cannot be done."""
    method, base = taking.capture.method, await newest_full(taking.ready.primary)
    if base is not None and (reason := await broken(taking.ready.primary, base)):
        return reason
    if base is not None and base.compared and method != "wal":
        return await _compare(taking, base)
    if method in COMPARING:
        return "the full backup before was not taken to be compared with"
    try:
        await require_capture(taking.connection)
    except CannotCapture as error:
        if method == "wal":
            raise
        return error.message
    found = await continuation(taking.look)
    return await take_windows(taking, found) if isinstance(found, Continuation) else found


async def _compare(taking: Taking, base: Manifest) -> list[Taken] | str:
    if reason := await changed(taking.look, base):
        return reason
    previous = await previous_backup(taking.ready.primary, base)
    if isinstance(previous, str):
        return previous
    if reason := await too_old(taking.connection, previous):
        return reason
    taken = await giving_way(lambda: take_difference(taking, previous), taking.options.attempts, taking.on_progress)
    return taken if isinstance(taken, str) else [taken]


async def _result(
    taken: list[Taken], taking: Taking, repositories: Sequence[Repository], started: float
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
        state=_state(outcomes, verification.state, unopened=last.unopened),
        created_at=last.increment.created_at,
        places=last.outcomes,
        tables=tuple(tables),
        duration_seconds=committed - started,
        verify_seconds=time.monotonic() - committed,
        verification=verification,
        warnings=taking.ready.suspicions + last.increment.warnings + verification.notes,
        checksums=tuple(tables.values()),
    )


def _state(outcomes: Sequence[PlaceOutcome], verified: State, *, unopened: bool) -> State:
    if verified == "failed":
        return "failed"
    return "success" if not unopened and all(outcome.state == "committed" for outcome in outcomes) else "warning"


def _table_outcomes(increments: Sequence[Incremental]) -> dict[TableOutcome, str]:
    """Changes by table, and the SHA-256 that proves them: of the last window, or of what was stored of the table.

    A window is one stream, so its bytes belong to no table; they stand with the first.
    """
    windows = [one for one in increments if isinstance(one, Increment)]
    raw, stored = sum(one.log.bytes for one in windows), sum(_bytes(one.log.objects) for one in windows)
    totals: dict[TableName, int] = {}
    for window in windows:
        for table in window.changes:
            name = TableName(table.schema_name, table.name)
            totals[name] = totals.get(name, 0) + table.changes
    logged = {
        TableOutcome(name.schema, name.name, changes, 0 if number else raw, 0 if number else stored): windows[
            -1
        ].log.sha256
        for number, (name, changes) in enumerate(totals.items())
    }
    last = increments[-1].beside
    return logged | {_compared(table): _checksum(table) for table in (last.tables if last else ())}


def _compared(table: TableDifference) -> TableOutcome:
    parts = table.stored()
    stored = sum(_bytes(part.objects) for part in parts)
    return TableOutcome(table.schema_name, table.name, table.changes, sum(part.bytes for part in parts), stored)


def _checksum(table: TableDifference) -> str:
    return next((part.sha256 for part in (*table.parts, table.added, table.removed) if part), NO_ROWS.sha256)


def _bytes(objects: Sequence[StoredFile]) -> int:
    return sum(one.bytes for one in objects)
