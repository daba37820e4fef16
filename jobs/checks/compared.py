"""The part of `doctor` that says which tables are compared instead of followed by the log, and why."""

from collections.abc import Collection

from jobs.checks.findings import Finding, some
from jobs.incrementals.comparison import STAMP
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.capture_rights import Remedy, read_remedies
from jobs.postgres.comparable import Comparable, read_comparable
from jobs.postgres.connection import Connection
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.postgres.table_logs import TableLog

CAPTURE = "change capture"


async def examine_compared(connection: Connection, logs: Collection[TableLog], *, reading: bool) -> list[Finding]:
    """Look at tables that the log cannot have; at all of them if they are compared since it cannot be read."""
    logs = [log for log in logs if log.reason or not reading]
    oids = [log.oid for log in logs]
    comparable = await read_comparable(connection, oids, STAMP)
    remedies = await read_remedies(connection, oids)
    return [finding for log in logs for finding in _judge_beside(log, comparable.get(log.oid), _remedy(log, remedies))]


def _judge_beside(log: TableLog, table: Comparable | None, remedy: str) -> list[Finding]:
    if table is None:  # it was dropped meanwhile
        return []
    if not table.key_is_copied:
        return [_whole(log, table, remedy)]
    if not log.reason:
        return []  # with the log it will be followed
    message = f"{log.table} is compared at each incremental backup: {log.reason}"
    return [Finding(CAPTURE, "warning", message, remedy, table=str(log.table))]


def _whole(log: TableLog, table: Comparable, remedy: str) -> Finding:
    reason = "a generated column is part of its primary key" if table.has_key else "it has no primary key"
    message = f"{log.table} is copied whole whenever it changed: {reason}"
    return Finding(CAPTURE, "warning", message, remedy, table=str(log.table))


async def examine_left_out(connection: Connection, logs: Collection[TableLog]) -> list[Finding]:
    """Look at tables that the log could not have either, were it read."""
    remedies = await read_remedies(connection, [log.oid for log in logs])
    return [
        Finding(
            CAPTURE,
            "warning",
            f"{log.table} cannot be in the log either: {log.reason}",
            _remedy(log, remedies),
            table=str(log.table),
        )
        for log in logs
        if log.reason
    ]


async def examine_comparing(
    connection: Connection, logs: Collection[TableLog], capture: CaptureOptions
) -> list[Finding]:
    """Look at all tables where they are compared because that is wanted: whatever they may be to the log."""
    comparable = await read_comparable(connection, [log.oid for log in logs], STAMP)
    keyed = [log for log in logs if log.oid in comparable and comparable[log.oid].key_is_copied]
    whole = [log for log in logs if log.oid in comparable and not comparable[log.oid].key_is_copied]
    names = capture.stamps.columns if capture.method == "timestamp" else ()
    stamped = [log for log in keyed if comparable[log.oid].columns.intersection(names)]
    return [
        *_judge_stamped(stamped),
        *_judge_by_xmin([log for log in keyed if log not in stamped], len(logs), capture),
        *(_whole(log, comparable[log.oid], _key_remedy(log.table, comparable[log.oid])) for log in whole),
    ]


def _judge_stamped(stamped: Collection[TableLog]) -> list[Finding]:
    if not stamped:
        return []
    message = (
        f"ROWVAULT_INCREMENTAL__METHOD is timestamp: in {some([log.table for log in stamped])}, rows that changed"
        " without their column are not seen until the next full backup"
    )
    return [Finding(CAPTURE, "warning", message, "ROWVAULT_INCREMENTAL__METHOD=auto finds them")]


def _judge_by_xmin(tables: Collection[TableLog], of: int, capture: CaptureOptions) -> list[Finding]:
    if capture.method == "timestamp":
        lacking = f"none of the columns {', '.join(capture.stamps.columns)} as {STAMP}"
        message = f"compared by xmin, for there is {lacking}: {some([log.table for log in tables])}"
        return [Finding(CAPTURE, "ok", message)] if tables else []
    what = f"{len(tables)} of {of} tables are compared at each incremental backup"
    message = f"ROWVAULT_INCREMENTAL__METHOD is xmin: {what}"
    return [Finding(CAPTURE, "ok", message)]


def _key_remedy(table: TableName, comparable: Comparable) -> str:
    return "" if comparable.has_key else f"ALTER TABLE {qualified(table)} ADD PRIMARY KEY (…);"


def _remedy(log: TableLog, remedies: dict[int, Remedy]) -> str:
    """What lets a table into the log; where it needs no more for that, what lets it be compared."""
    remedy, alter = remedies.get(log.oid), f"ALTER TABLE {qualified(log.table)}"
    if remedy is None:
        return ""
    if remedy.unlogged and remedy.has_primary_key:
        return f"{alter} SET LOGGED;"
    if log.reason and remedy.index is not None and not remedy.unlogged:
        using = "DEFAULT" if remedy.index_is_primary else f"USING INDEX {quote(remedy.index)}"
        return f"{alter} REPLICA IDENTITY {using};"
    if not remedy.has_primary_key:
        return f"{alter} ADD PRIMARY KEY (…);"
    if not log.reason:
        return ""
    unique = f"CREATE UNIQUE INDEX … ON {qualified(log.table)} (…);"
    return f"{unique} {alter} REPLICA IDENTITY USING INDEX …; (columns that are NOT NULL, none of them generated)"
