"""The part of `doctor` that looks at change capture. What is lacking is a warning, never more: full backups go on."""

from collections.abc import Collection

from jobs.checks.compared import CAPTURE, examine_compared, examine_comparing, examine_left_out
from jobs.checks.findings import Finding, size, some
from jobs.incrementals.begin_chain import COMPARING
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.capture import Slot, own_slots
from jobs.postgres.capture_rights import (
    SlotLimits,
    Stranger,
    read_left_by_another,
    read_obstacles,
    read_slot_limits,
    read_strangers,
    refuse_standby,
)
from jobs.postgres.catalogue import Chosen
from jobs.postgres.connection import Connection
from jobs.postgres.errors import CannotCapture, PostgresError
from jobs.postgres.identifiers import qualified, quote
from jobs.postgres.table_logs import TableLog, read_table_logs

SLOT = "replication slot"
NONE_AT_ALL = "there can be no incremental backups, only full ones"
COMPARED = "changes cannot be read from the log, so tables are compared"


async def examine_capture(
    connection: Connection, chosen: Chosen, role: str, capture: CaptureOptions | None
) -> list[Finding]:
    """Look at what incremental backups need, and at the slot; `capture` is None where none are scheduled."""
    try:
        slots = await own_slots(connection)
        if capture is None:
            return [_unread(slot) for slot in slots]
        await refuse_standby(connection)
        logs = list((await read_table_logs(connection, [relation.oid for relation in chosen.relations])).values())
        if capture.method in COMPARING:
            return [*await examine_comparing(connection, logs, capture), *map(_not_wanted, slots)]
        return await _examine_log(connection, logs, slots, role, capture)
    except CannotCapture as error:
        return [_lack(NONE_AT_ALL, error.message, error.hint)]
    except PostgresError as error:
        return [Finding(CAPTURE, "warning", error.message, error.hint)]


async def _examine_log(
    connection: Connection, logs: Collection[TableLog], slots: Collection[Slot], role: str, capture: CaptureOptions
) -> list[Finding]:
    limits = await read_slot_limits(connection)
    lacking = await _lacking(connection, [log.oid for log in logs if log.identity], role)
    lacking += _judge_free_slots(limits, len(slots))
    if lacking and capture.method == "wal":
        means, beside = NONE_AT_ALL, await examine_left_out(connection, logs)
    else:
        means, beside = COMPARED, await examine_compared(connection, logs, reading=not lacking)
    return [
        *([_lack(means, *one) for one in lacking] or [_possible(logs)]),
        *beside,
        *(_judge_slot(slot, capture.lag_limit) for slot in slots),
        *([_unlimited(capture.lag_limit)] if limits.unlimited and (slots or not lacking) else []),
    ]


def _possible(logs: Collection[TableLog]) -> Finding:
    captured = sum(1 for log in logs if log.identity)
    return Finding(CAPTURE, "ok", f"changes of {captured} of {len(logs)} tables can be captured from the log")


async def _lacking(connection: Connection, oids: Collection[int], role: str) -> list[tuple[str, str]]:
    """What server and role lack, and what mends it, all at once: mended one by one it takes as many restarts."""
    major = connection.get_server_version().major
    obstacles = [(one.message, one.hint) for one in await read_obstacles(connection)]
    strangers = [_stranger(one, role, major) for one in await read_strangers(connection, oids)]
    left = await read_left_by_another(connection)
    return [*obstacles, *strangers, *([_left(left, role)] if left else [])]


def _lack(means: str, message: str, hint: str) -> Finding:
    return Finding(CAPTURE, "warning", f"{means}: {message}", hint)


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


def _judge_free_slots(limits: SlotLimits, own: int) -> list[tuple[str, str]]:
    if limits.taken - own < limits.most:
        return []
    message = f"no replication slot is free: max_replication_slots is {limits.most}, and {limits.taken - own} are taken"
    more = f"ALTER SYSTEM SET max_replication_slots = {limits.taken + 1}; then restart the server"
    return [(message, f"drop a slot that nobody reads, or as superuser: {more}")]


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


def _not_wanted(slot: Slot) -> Finding:
    message = f"{slot.name} holds back {size(slot.lag_bytes)} of WAL, and nobody reads it where tables are compared"
    return Finding(SLOT, "warning", message, "the next incremental backup drops it; or do it now: rowvault teardown")


def _unlimited(lag_limit: int) -> Finding:
    megabytes = 2 * lag_limit // 1024**2 + 1
    return Finding(
        SLOT,
        "warning",
        "max_slot_wal_keep_size is -1: if the daemon is stopped for long, nothing keeps the slot from filling the disk",
        f"as superuser: ALTER SYSTEM SET max_slot_wal_keep_size = '{megabytes}MB'; then SELECT pg_reload_conf();"
        f" (while it runs, the daemon drops the slot past {size(lag_limit)})",
    )
