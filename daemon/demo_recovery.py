"""The demo's accident: one row is spoilt and another deleted, and both come back as of just before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from daemon import recorded
from daemon.app import App, Request
from daemon.output.backups import backup_document
from daemon.output.console import out
from daemon.recording import Recorder
from jobs.as_of import AsOf, opened
from jobs.chains.points import At
from jobs.history import Version, history
from jobs.postgres.connection import Connection, session
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.progress import OnProgress
from jobs.restore import plan_restore
from jobs.results import BackupResult
from jobs.scope import Scope


@dataclass(frozen=True, slots=True)
class Accident:
    """What happens to one row of the demo's application: in words, and in SQL that takes the key's value."""

    table: TableName
    column: str
    key: str
    words: str
    sql: str

    @property
    def row(self) -> str:
        """Which row it is."""
        return f"{self.table.name} {self.column}={self.key}"


ACCIDENTS = (
    Accident(
        TableName("public", "agent_states"),
        "agent_key",
        "agent-00042",
        "overwriting the state of agent-00042",
        """UPDATE public.agent_states SET state = '{"step": 0}', version = version + 1 WHERE agent_key = $1""",
    ),
    Accident(
        TableName("public", "AgentFeedback"),
        "Id",
        "42",
        "deleting feedback 42",
        'DELETE FROM public."AgentFeedback" WHERE "Id" = $1::text::bigint',
    ),
)


@dataclass(frozen=True, slots=True)
class Undone:
    """One row that was lost: its history as the backups tell it, and whether it is what it was before."""

    accident: Accident
    versions: tuple[Version, ...]
    back: bool


@dataclass(frozen=True, slots=True)
class Recovery:
    """The incremental backup that holds the accidents, the moment before them, and what became of each row."""

    backup: BackupResult
    at: datetime
    rows: tuple[Undone, ...]

    @property
    def whole(self) -> bool:
        """Whether every row is back."""
        return self.backup.kind == "incremental" and all(one.back for one in self.rows)


async def lose_and_recover(
    app: App, recorder: Recorder, say: Callable[[str], object], on_progress: OnProgress
) -> Recovery:
    """Lose two rows, take an incremental backup, and restore each row into the live database."""
    say(f"{' and '.join(one.words for one in ACCIDENTS)}, then taking an incremental backup …")
    async with session(app.source, "demo") as connection:
        before = [await _row(connection, one) for one in ACCIDENTS]
        at: datetime = await connection.fetchval("SELECT pg_catalog.clock_timestamp()")
        for one in ACCIDENTS:
            await connection.execute(one.sql, one.key)
        backup = await recorded.backup(app, recorder, "incremental", Request(label="demo"), on_progress)
        versions = [await _history(app, one, on_progress) for one in ACCIDENTS]
        say("bringing both rows back as of just before …")
        tables = [qualified(one.table) for one in ACCIDENTS]
        async with opened(app.repositories, "latest", At(at), tables, app.scratch, on_progress) as made:
            for one in ACCIDENTS:
                await _restore(app, recorder, made, one, on_progress)
        after = [await _row(connection, one) for one in ACCIDENTS]
    told = zip(ACCIDENTS, versions, before, after, strict=True)
    return Recovery(
        backup, at, tuple(Undone(one, seen, was is not None and was == now) for one, seen, was, now in told)
    )


async def _row(connection: Connection, of: Accident) -> str | None:
    """All of the row as text, None if there is none."""
    row: str | None = await connection.fetchval(
        f"SELECT t::text FROM {qualified(of.table)} t WHERE {quote(of.column)}::text = $1", of.key
    )
    return row


async def _history(app: App, of: Accident, on_progress: OnProgress) -> tuple[Version, ...]:
    found = await history(app.repositories, qualified(of.table), {of.column: of.key}, app.source, on_progress)
    return found.versions


async def _restore(app: App, recorder: Recorder, made: AsOf, of: Accident, on_progress: OnProgress) -> None:
    scope, options = Scope((qualified(of.table),), {of.column: of.key}), app.restore_options
    plan = await plan_restore(made.repositories, made.manifest, app.source, scope, options, on_progress)
    await recorded.restore(made.repositories, recorder, plan, scope, options, on_progress)


def recovery_document(found: Recovery) -> dict[str, Any]:
    """What was lost and came back, as JSON shows it."""
    return {
        "backup": backup_document(found.backup),
        "at": found.at,
        "rows": [
            {
                "table": str(one.accident.table),
                "key": {one.accident.column: one.accident.key},
                "versions": list(one.versions),
                "back": one.back,
            }
            for one in found.rows
        ],
    }


def show_recovery(found: Recovery) -> None:
    """What was lost and came back, for people: a line for each row."""
    at = f"{_clock(found.at)} UTC"
    out.print(f"incremental backup {found.backup.id} taken; rows brought back as of just before, {at}, compared:")
    for one in found.rows:
        equal = Text("equal", style="green") if one.back else Text("DIFFERENT", style="bold red")
        out.print(Text("  ") + equal + Text(f"  {one.accident.row}: {_told(one.versions)}"))


def _told(versions: Sequence[Version]) -> str:
    """A history in one line."""
    return ", ".join(f"{one.kind} {_clock(one.at)}{_more(one)}" for one in versions)


def _more(version: Version) -> str:
    changed = f" of {', '.join(version.changed)}" if version.kind == "update" else ""
    return f"{changed} in transaction {version.xid}" if version.xid is not None else changed


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S.%f}"[:-3]
