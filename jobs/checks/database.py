"""The half of `doctor` that looks at the database. Every check is made that can be made, and none changes anything."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from jobs.checks.capture import examine_capture
from jobs.checks.findings import Finding, checked, judge_clock
from jobs.checks.tables import examine_tables
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.catalogue import OWN_SCHEMA, Selection
from jobs.postgres.checkup import (
    OwnSchema,
    Route,
    SessionFacts,
    read_clock_difference,
    read_own_schema,
    read_room,
    read_session,
    route_of,
)
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.errors import PostgresError, TransactionPooling, translated
from jobs.postgres.identifiers import quote
from jobs.postgres.lineage import Lineage, read_lineage
from jobs.postgres.pooling import refuse_transaction_pooling
from jobs.postgres.tools import find_tools

OLDEST, NEWEST = 14, 18
SESSIONS_BESIDE_COPIES = 3  # the job lock, the snapshot, pg_dump


@dataclass(frozen=True, slots=True)
class DatabaseExam:
    """What was found, and what is needed to judge the places: who the database is, and how large the chosen tables."""

    findings: list[Finding]
    lineage: Lineage | None = None
    table_bytes: int | None = None


async def examine_database(
    source: Source, selection: Selection, pg_bin: Path | None, copy_jobs: int, capture: CaptureOptions | None
) -> DatabaseExam:
    """Look at connection, server, programs, rights, tables and change capture; `capture` as `examine` has it."""
    try:
        await refuse_transaction_pooling(source)
    except PostgresError as error:
        # Nothing else is asked through a pooler in transaction mode: our settings would leak to other clients.
        check = "pooling" if isinstance(error, TransactionPooling) else "connection"
        finding = Finding(check, "problem", error.message, error.hint)
        return DatabaseExam([finding, *await checked("programs", _programs(None, pg_bin))])
    try:
        async with session(source, "doctor") as connection:
            return await _examine_session(connection, source, selection, pg_bin, copy_jobs, capture)
    except PostgresError as error:
        return DatabaseExam([Finding("connection", "problem", error.message, error.hint)])


_STATEMENT_TIMEOUT = "30s"  # nothing asked here takes longer on a server that is well


async def _examine_session(
    connection: Connection,
    source: Source,
    selection: Selection,
    pg_bin: Path | None,
    copy_jobs: int,
    capture: CaptureOptions | None,
) -> DatabaseExam:
    with translated("setting up the session"):
        await connection.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'")
    facts = await read_session(connection)
    major = connection.get_server_version().major
    findings = [
        Finding("connection", "ok", f"{source.where} answers, as role {facts.role}"),
        _judge_pooling(facts),
        judge_tls(route_of(source), facts),
        judge_version(major),
        _judge_standby(facts),
        *await checked("programs", _programs(major, pg_bin)),
        *await checked("clock", _clock(connection)),
        *await checked("connections", _connections(connection, copy_jobs)),
        *await checked("own schema", _own_schema(connection, facts)),
    ]
    lineage: Lineage | None = None
    try:
        lineage = await read_lineage(connection, may_write=False)
    except PostgresError as error:
        findings.append(Finding("identity", "problem", error.message, _identity_hint(facts.role)))
    tables = await examine_tables(connection, selection, facts.role)
    findings += tables.findings
    if tables.chosen is not None:
        findings += await examine_capture(connection, tables.chosen, facts.role, capture)
    return DatabaseExam(findings, lineage, tables.total_bytes)


def _judge_pooling(facts: SessionFacts) -> Finding:
    if facts.pooled:
        return Finding("pooling", "ok", "a pooler in session mode stands between, which is no trouble")
    return Finding("pooling", "ok", "the connection is direct")


def judge_tls(route: Route, facts: SessionFacts) -> Finding:
    """Whether others on the way could read along, or answer in the server's place."""
    verify = "add sslmode=verify-full&sslrootcert=FILE (the CA of the server's certificate) to ROWVAULT_DATABASE_URL"
    if route.local:
        return Finding("tls", "ok", "the connection does not leave this machine")
    encrypted = route.sslmode in {"require", "verify-ca", "verify-full"} or (facts.tls and not facts.pooled)
    if not encrypted:
        how = "may not be encrypted" if facts.pooled else "is not encrypted"
        return Finding("tls", "warning", f"the connection {how}: others on the way can read along", verify)
    if route.sslmode not in {"verify-ca", "verify-full"}:
        unproven = "the connection is encrypted, but who answers is not verified"
        return Finding("tls", "warning", f"{unproven} (sslmode={route.sslmode})", verify)
    return Finding("tls", "ok", f"the connection is encrypted and the server is verified (sslmode={route.sslmode})")


def judge_version(major: int) -> Finding:
    """Whether the server is one that backups are tested on."""
    if major < OLDEST:
        message = f"the server is PostgreSQL {major}, and {OLDEST} is the oldest that can be backed up"
        return Finding("server", "problem", message, f"upgrade the server to PostgreSQL {OLDEST} or newer")
    if major > NEWEST:
        message = f"the server is PostgreSQL {major}, and Rowvault is tested up to {NEWEST}"
        return Finding(
            "server", "warning", message, "look for a newer Rowvault, and try a restore before relying on it"
        )
    return Finding("server", "ok", f"the server is PostgreSQL {major}")


def _judge_standby(facts: SessionFacts) -> Finding:
    if not facts.standby:
        return Finding("standby", "ok", "the server is a primary")
    return Finding(
        "standby",
        "warning",
        "the server is a standby: replay may cancel a backup, and no token can be written there",
        "connect to the primary, or set hot_standby_feedback = on and a long max_standby_streaming_delay",
    )


async def _programs(major: int | None, pg_bin: Path | None) -> list[Finding]:
    tools = await asyncio.to_thread(find_tools, major or 0, pg_bin)
    against = "" if major is None else f", which serves PostgreSQL {major}"
    return [Finding("programs", "ok", f"pg_dump is {tools.version} ({tools.folder}){against}")]


async def _clock(connection: Connection) -> list[Finding]:
    return [judge_clock("the server's clock", await read_clock_difference(connection))]


async def _connections(connection: Connection, copy_jobs: int) -> list[Finding]:
    room, needed = await read_room(connection), copy_jobs + SESSIONS_BESIDE_COPIES
    message = f"a backup takes {needed} connections, and {room.limit} leaves {max(room.sessions, 0)}"
    if room.sessions < needed:
        hint = f"lower ROWVAULT_COPY_JOBS ({copy_jobs} now), or raise {room.limit}"
        return [Finding("connections", "problem", message, hint)]
    return [Finding("connections", "ok", message)]


async def _own_schema(connection: Connection, facts: SessionFacts) -> list[Finding]:
    own = await read_own_schema(connection)
    if own.usable:
        state = "is there" if own.has_table else "will be made by the first backup"
        return [Finding("own schema", "ok", f"the token that tells this database from a clone {state}")]
    message = f"the role may not use the schema {OWN_SCHEMA}, so a clone of this database cannot be told from it"
    return [Finding("own schema", "warning", message, _own_schema_sql(own, facts.role))]


def _own_schema_sql(own: OwnSchema, role: str) -> str:
    if own.has_table:
        usage = f"GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO {quote(role)};"
        return f"{usage} GRANT SELECT ON {OWN_SCHEMA}.lineage TO {quote(role)};"
    if own.exists:
        return f"GRANT USAGE, CREATE ON SCHEMA {OWN_SCHEMA} TO {quote(role)};"
    return f"CREATE SCHEMA {OWN_SCHEMA} AUTHORIZATION {quote(role)};"


def _identity_hint(role: str) -> str:
    functions = "pg_catalog.pg_control_system(), pg_catalog.pg_control_checkpoint()"
    return f"GRANT EXECUTE ON FUNCTION {functions} TO {quote(role)};"
