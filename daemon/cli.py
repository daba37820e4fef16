"""The `rowvault` command: one thin function a command. Exit codes and JSON keys are a contract with scripts."""

import asyncio
import signal
import sys
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from daemon import output, recorded
from daemon.app import App, Request
from daemon.command import finish, guarded, with_app
from daemon.diff_output import show_diff
from daemon.logs import configure_logs
from daemon.outcomes import DIFFERENCE, DONE, FAILED, REFUSED, UsageError
from daemon.recording import Recorder, person
from daemon.settings import describe_settings
from daemon.targets import read_dsn
from daemon.trail_output import show_trail
from jobs import catalogue
from jobs.diff_sides import LIVE
from jobs.doctor import examine
from jobs.postgres.identifiers import parse_key
from jobs.restore import plan_restore
from jobs.restore_scope import Mode, Scope
from jobs.results import VerifyResult
from storage.names import check_label

cli = typer.Typer(
    name="rowvault",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Backs up PostgreSQL tables, proves every backup by reading it back, and brings it back.",
    epilog="Settings come from the environment and a .env file, as ROWVAULT_DATABASE_URL and others: see `rowvault"
    " settings`. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 a difference was found, 4 not found,"
    " 5 refused for safety.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Backup = Annotated[str, typer.Argument(metavar="BACKUP", help="A backup's id, or: latest.")]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="Bind the repository to this database, which took the place of another.")
]


class Kind(StrEnum):
    """The kinds of backup that can be taken now."""

    full = "full"


@cli.command()
def run(adopt: Adopt = False) -> None:
    """Run the daemon: backups on schedule, health and metrics over HTTP, until SIGTERM.

    Example: ROWVAULT_DATABASE_URL=postgresql://… ROWVAULT_LOCAL_PATH=/var/lib/rowvault rowvault run
    """

    from daemon.service import Service  # what only the daemon needs would make every other command start late

    async def work(app: App) -> int:
        configure_logs(app.settings.log_level, app.settings.log_format)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        _ = app.source, app.selection  # what cannot be right is said now, not at the first run
        await Service(app, Request(adopt=adopt)).run(stop)
        return DONE

    with_app(work, as_json=False)


@cli.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the jobs instead of serving.")] = False,
    as_json: Json = False,
) -> None:
    """Show everything on embedded parts: PostgreSQL with sample tables, an S3 server, a backup, a restore, the daemon.

    Example: rowvault demo --once
    """
    from daemon.demo import run_demo  # likewise

    finish(lambda: run_demo(once=once, as_json=as_json), as_json=as_json)


@cli.command()
def backup(
    kind: Annotated[Kind, typer.Argument(help="Which kind.")] = Kind.full,
    label: Annotated[str, typer.Option(help="A short name, shown in the list.")] = "",
    reason: Annotated[str, typer.Option(help="Why it is taken; kept in the manifest.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep it until it is released.")] = False,
    adopt: Adopt = False,
    as_json: Json = False,
) -> None:
    """Take a backup now and verify it in every place.

    Example: rowvault backup --label before-2.0 --reason "migration 41" --keep
    """

    async def work(app: App) -> int:
        request = Request(check_label(label), reason, keep, adopt)
        _ = app.selection  # what cannot be meant is said before anybody is asked
        with output.progress(quiet=as_json) as on_progress:
            result = await recorded.backup(app, _recorder(app), f"{kind.value} backup", request, on_progress)
        if as_json:
            document = output.backup_document(result)
            if result.state == "failed":
                document["error"] = {"message": f"backup {result.id} is not whole", "hint": "see problems"}
            output.print_json(document)
        else:
            output.print_backup(result)
        return DIFFERENCE if result.state == "failed" else DONE

    with_app(work, as_json=as_json)


@cli.command()
def keep(
    backup_id: Backup,
    reason: Annotated[str, typer.Option(help="Why it is kept.")] = "",
    as_json: Json = False,
) -> None:
    """Set a keep mark: the backup stays until it is released.

    Example: rowvault keep latest --reason "before the audit"
    """

    async def work(app: App) -> int:
        found = await catalogue.resolve(app.repositories, backup_id)
        await recorded.keep(app, _recorder(app), found, reason)
        _say(as_json, {"id": found, "kept": True}, f"{found} is kept until: rowvault release {found}")
        return DONE

    with_app(work, as_json=as_json)


@cli.command()
def release(backup_id: Backup, as_json: Json = False) -> None:
    """Lift a keep mark.

    Example: rowvault release 20260101T020000.000Z-full-0a1b2c
    """

    async def work(app: App) -> int:
        found = await catalogue.resolve(app.repositories, backup_id)
        await recorded.release(app, _recorder(app), found)
        _say(as_json, {"id": found, "kept": False}, f"{found} is no longer kept")
        return DONE

    with_app(work, as_json=as_json)


@cli.command(name="list")
def list_(as_json: Json = False) -> None:
    """List the backups of all places, newest first.

    Example: rowvault list --json | jq '.[0].id'
    """

    async def work(app: App) -> int:
        listing = await catalogue.list_backups(app.repositories)
        for place in listing.unreachable:
            output.err.print(f"{place.name} does not answer: {place.error}")
        for stray in listing.strays:
            output.err.print(f"not a manifest: {stray}")
        if as_json:
            output.print_json(list(listing.backups))
        else:
            output.print_list(listing.backups)
        return DONE

    with_app(work, as_json=as_json)


@cli.command()
def show(backup_id: Backup, as_json: Json = False) -> None:
    """Show one backup's manifest: what, when, rows, bytes, checksums, snapshot, versions.

    Example: rowvault show latest
    """

    async def work(app: App) -> int:
        manifest = await catalogue.read_resolved(app.repositories, backup_id)
        if as_json:
            output.print_json(manifest.model_dump(mode="json", by_alias=True))
        else:
            output.print_manifest(manifest)
        return DONE

    with_app(work, as_json=as_json)


@cli.command()
def verify(
    backup_id: Annotated[str | None, typer.Argument(metavar="[BACKUP]", help="An id, or: latest.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Verify every backup.")] = False,
    sample: Annotated[str, typer.Option(help="Read only this share of the objects, such as 10%.")] = "100%",
    as_json: Json = False,
) -> None:
    """Read a backup back from every place, hash every object, count every row, and compare with its manifest.

    Examples: rowvault verify latest · rowvault verify --all --sample 10%
    """

    async def work(app: App) -> int:
        if all_ == (backup_id is not None):
            raise UsageError("name one BACKUP, or say --all")
        share = _share(sample)
        if backup_id is not None:
            wanted = [await catalogue.resolve(app.repositories, backup_id)]
        else:
            wanted = [one.id for one in (await catalogue.list_backups(app.repositories)).backups]
        with output.progress(quiet=as_json) as on_progress:
            results = [await recorded.verify(app, _recorder(app), one, share, on_progress) for one in wanted]
        if as_json:
            output.print_json(results if all_ else results[0])
        else:
            for result in results:
                output.print_verification(result)
        return max((_verify_code(result) for result in results), default=DONE)

    with_app(work, as_json=as_json)


@cli.command()
def restore(
    backup_id: Annotated[str, typer.Argument(metavar="[BACKUP]", help="An id; without one: latest.")] = "latest",
    table: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="Only this table; repeatable.")] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="COL=VALUE", help="Only the row with this primary key; repeatable.")
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(help="replace: as it was. insert-missing: only rows that are gone. upsert: delete none."),
    ] = "replace",
    into_schema: Annotated[
        str | None, typer.Option(metavar="S", help="Put the tables beside the live ones, into this schema.")
    ] = None,
    to: Annotated[str, typer.Option(metavar="DSN", help="Where to: a DSN, env:NAME, or @FILE that holds one.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Restore everything, tables, or one row, after showing what will be done and asking.

    A database that has something in it is changed in one transaction or not at all.

    Examples: rowvault restore --to env:NEW_DSN --dry-run · rowvault restore --table orders --to env:APP_DSN ·
    rowvault restore --table orders --key id=7 --to env:APP_DSN
    """

    async def work(app: App) -> int:
        target, options = app.database(read_dsn(to, output.err.print)), app.restore_options
        scope = Scope(tuple(table or ()), _key(key or []), mode, into_schema)
        manifest = await catalogue.read_resolved(app.repositories, backup_id)
        with output.progress(quiet=as_json) as on_progress:
            plan = await plan_restore(app.repositories, manifest, target, scope, options, on_progress)
        if not as_json:
            output.print_plan(plan)
        if dry_run:
            _say(as_json, output.plan_document(plan), "dry run: nothing was done")
            return DONE
        if not yes and not _confirmed(as_json):
            return REFUSED
        with output.progress(quiet=as_json) as on_progress:
            result = await recorded.restore(app, _recorder(app), plan, scope, options, on_progress)
        if as_json:
            output.print_json(output.restore_document(result))
        else:
            output.print_restore(result)
        return DONE if result.as_it_should_be else DIFFERENCE

    with_app(work, as_json=as_json)


@cli.command()
def diff(
    backup_id: Backup,
    against: Annotated[
        str, typer.Option(metavar="live|BACKUP", help="The database as it is now, or another backup.")
    ] = LIVE,
    table: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="Only this table; repeatable.")] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Tell which rows: up to 100 of each kind a table.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a backup with the database as it is now, or with another backup: rows missing, changed and extra.

    Missing rows are only in the backup, extra ones only on the other side.

    Examples: rowvault diff latest · rowvault diff latest --table orders --keys
    """

    async def work(app: App) -> int:
        return await show_diff(app, backup_id, against, table or (), keys=keys, as_json=as_json)

    with_app(work, as_json=as_json)


@cli.command()
def drill(as_json: Json = False) -> None:
    """Restore the newest backup into a scratch database, prove it, and time every kind of recovery.

    The scratch database is on a PostgreSQL server started for it, or on the one that DRILL__DATABASE_URL names.

    Example: rowvault drill
    """

    async def work(app: App) -> int:
        with output.progress(quiet=as_json) as on_progress:
            result = await recorded.drill(app, _recorder(app), on_progress)
        if as_json:
            output.print_json(output.drill_document(result))
        else:
            output.print_drill(result)
        return DIFFERENCE if result.state == "failed" else DONE

    with_app(work, as_json=as_json)


@cli.command()
def doctor(as_json: Json = False) -> None:
    """Check settings, reach, privileges, versions, clocks and room, and say what to do about each finding.

    Example: rowvault doctor
    """

    async def work(app: App) -> int:
        report = await examine(
            app.source, app.selection, app.repositories, app.settings.pg_bin, copy_jobs=app.settings.copy_jobs
        )
        if as_json:
            output.print_json(report)
        else:
            output.print_report(report)
        return DONE if report.healthy else FAILED

    with_app(work, as_json=as_json)


@cli.command()
def settings(as_json: Json = False) -> None:
    """List every setting with its default and meaning.

    Example: rowvault settings
    """
    described = describe_settings()
    if as_json:
        output.print_json(list(described))
    else:
        output.print_settings(described)


@cli.command()
def trail(
    verify: Annotated[bool, typer.Option("--verify", help="Prove it unbroken, in every place.")] = False,
    as_json: Json = False,
) -> None:
    """Show the audit trail, newest last: who did what, when, with which outcome.

    Examples: rowvault trail · rowvault trail --verify
    """

    async def work(app: App) -> int:
        return await show_trail(app, verify=verify, as_json=as_json)

    with_app(work, as_json=as_json)


def _recorder(app: App) -> Recorder:
    return app.recorder(person(), output.warn)


def _verify_code(result: VerifyResult) -> int:
    if result.problems or any(place.state == "failed" for place in result.places):
        return DIFFERENCE
    return FAILED if result.state == "failed" else DONE


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not text.endswith("%") or not 0 < share <= 1:
        raise UsageError("--sample wants a share such as 10%")
    return share


def _key(pairs: list[str]) -> dict[str, str]:
    """Each column's value; raises `UsageError` for a column given twice."""
    key: dict[str, str] = {}
    for text in pairs:
        column, value = parse_key(text)
        if column in key:
            raise UsageError(f"--key {column} is given twice")
        key[column] = value
    return key


def _confirmed(as_json: bool) -> bool:
    """Ask on the terminal; without one, say that --yes is needed."""
    if as_json or not sys.stdin.isatty():
        error = {"message": "restoring needs a yes, and there is no terminal to ask on", "hint": "say --yes"}
        output.print_json({"error": error}) if as_json else output.print_error(error)
        return False
    try:
        if typer.confirm("Restore now?", err=True):
            return True
    except typer.Abort:
        output.err.print()
    output.err.print("nothing was done")
    return False


def _say(as_json: bool, document: object, text: str) -> None:
    if as_json:
        output.print_json(document)
    else:
        output.out.print(text)


def main() -> None:
    """The entry point."""
    arguments = sys.argv[1:] or ["--help"]
    command = partial(cli, arguments, prog_name="rowvault", standalone_mode=False)
    sys.exit(guarded(lambda: command() or DONE, "--json" in arguments))
