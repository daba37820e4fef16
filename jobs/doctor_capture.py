"""The part of `doctor` that looks at change capture. What is lacking is a warning, never more: full backups go on."""

from collections.abc import Collection

from jobs.findings import Finding, size, some
from jobs.postgres.capture import Slot, own_slots
from jobs.postgres.capture_rights import (
    Remedy,
    SlotLimits,
    Stranger,
    read_left_by_another,
    read_obstacles,
    read_remedies,
    read_slot_limits,
    read_strangers,
)
from jobs.postgres.catalogue import Chosen
from jobs.postgres.connection import Connection
from jobs.postgres.errors import PostgresError
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.postgres.table_logs import TableLog, read_table_logs

CAPTURE, SLOT = "change capture", "replication slot"


async def examine_capture(connection: Connection, chosen: Chosen, role: str, lag_limit: int | None) -> list[Finding]:
    """Look at what incremental backups need, and at the slot.

    `lag_limit` are the bytes of WAL that the slot may hold back; None where incremental backups are not scheduled.
    """
    try:
        slots = await own_slots(connection)
        if lag_limit is None:
            return [_unread(slot) for slot in slots]
        logs = (await read_table_logs(connection, [relation.oid for relation in chosen.relations])).values()
        limits = await read_slot_limits(connection)
        lacking = await _lacking(connection, [log.oid for log in logs if log.identity], role)
        lacking += _judge_free_slots(limits, len(slots))
        return [
            *(lacking or [_possible(logs)]),
            *await _left_out(connection, [log for log in logs if log.reason]),
            *(_judge_slot(slot, lag_limit) for slot in slots),
            *([_unlimited(lag_limit)] if limits.unlimited and (slots or not lacking) else []),
        ]
    except PostgresError as error:
        return [Finding(CAPTURE, "warning", error.message, error.hint)]


def _possible(logs: Collection[TableLog]) -> Finding:
    captured = sum(1 for log in logs if log.identity)
    return Finding(CAPTURE, "ok", f"changes of {captured} of {len(logs)} tables can be captured from the log")


async def _lacking(connection: Connection, oids: Collection[int], role: str) -> list[Finding]:
    """What server and role lack, all of it at once: what is mended one by one takes as many restarts."""
    major = connection.get_server_version().major
    obstacles = [(one.message, one.hint) for one in await read_obstacles(connection)]
    strangers = [_stranger(one, role, major) for one in await read_strangers(connection, oids)]
    left = await read_left_by_another(connection)
    return [_impossible(*one) for one in [*obstacles, *strangers, *([_left(left, role)] if left else [])]]


def _impossible(message: str, hint: str) -> Finding:
    return Finding(CAPTURE, "warning", f"there can be no incremental backups, only full ones: {message}", hint)


def _stranger(stranger: Stranger, role: str, major: int) -> tuple[str, str]:
    message = f"role {role} does not own {some(stranger.tables)}, and only {stranger.owner} may publish"
    if stranger.superuser:
        # As a member it could become the superuser.
        example = f"ALTER TABLE {qualified(stranger.tables[0])} OWNER TO …;"
        return message, f"as superuser, for each of them: {example} (a role that {role} is a member of)"
    inheriting = " WITH INHERIT TRUE" if major >= 16 else ""
    return message, f"as superuser: GRANT {quote(stranger.owner)} TO {quote(role)}{inheriting};"


def _left(what: list[str], role: str) -> tuple[str, str]:
    """Another role took backups before, and this one cannot take its things away to begin anew."""
    altering = " ".join(f"ALTER {one} OWNER TO {quote(role)};" for one in what)
    return f"another role made {', '.join(one.lower() for one in what)}", f"as superuser: {altering}"


def _judge_free_slots(limits: SlotLimits, own: int) -> list[Finding]:
    if limits.taken - own < limits.most:
        return []
    message = f"no replication slot is free: max_replication_slots is {limits.most}, and {limits.taken - own} are taken"
    more = f"ALTER SYSTEM SET max_replication_slots = {limits.taken + 1}; then restart the server"
    return [_impossible(message, f"drop a slot that nobody reads, or as superuser: {more}")]


async def _left_out(connection: Connection, logs: Collection[TableLog]) -> list[Finding]:
    remedies = await read_remedies(connection, [log.oid for log in logs])
    return [
        Finding(
            CAPTURE,
            "warning",
            f"changes of {log.table} are in no incremental backup: {log.reason}",
            _remedy(log.table, remedies[log.oid]) if log.oid in remedies else "",
            table=str(log.table),
        )
        for log in logs
    ]


def _remedy(table: TableName, remedy: Remedy) -> str:
    alter = f"ALTER TABLE {qualified(table)}"
    if remedy.unlogged:
        return f"{alter} SET LOGGED;"
    if remedy.index is not None:
        using = "DEFAULT" if remedy.index_is_primary else f"USING INDEX {quote(remedy.index)}"
        return f"{alter} REPLICA IDENTITY {using};"
    if not remedy.has_primary_key:
        return f"{alter} ADD PRIMARY KEY (…);"
    unique = f"CREATE UNIQUE INDEX … ON {qualified(table)} (…);"
    return f"{unique} {alter} REPLICA IDENTITY USING INDEX …; (columns that are NOT NULL, none of them generated)"


def _judge_slot(slot: Slot, lag_limit: int) -> Finding:
    again = "the next incremental backup begins a new chain with a full one"
    if slot.lost:
        return Finding(SLOT, "warning", f"{slot.name} lost WAL that it needs: {again}", "raise max_slot_wal_keep_size")
    message = f"{slot.name} holds back {size(slot.lag_bytes)} of WAL; past {size(lag_limit)} it is dropped"
    if slot.lag_bytes > lag_limit / 2:
        hint = "see that the daemon runs, or read it now: rowvault backup incremental"
        return Finding(SLOT, "warning", message, hint)
    return Finding(SLOT, "ok", message)


def _unread(slot: Slot) -> Finding:
    message = f"{slot.name} holds back {size(slot.lag_bytes)} of WAL, and no incremental backup is scheduled to read it"
    return Finding(SLOT, "warning", message, "set ROWVAULT_SCHEDULE__INCREMENTAL, or remove it: rowvault teardown")


def _unlimited(lag_limit: int) -> Finding:
    megabytes = 2 * lag_limit // 1024**2 + 1
    return Finding(
        SLOT,
        "warning",
        "max_slot_wal_keep_size is -1: if the daemon is stopped for long, nothing keeps the slot from filling the disk",
        f"as superuser: ALTER SYSTEM SET max_slot_wal_keep_size = '{megabytes}MB'; then SELECT pg_reload_conf();"
        f" (while it runs, the daemon drops the slot past {size(lag_limit)})",
    )
