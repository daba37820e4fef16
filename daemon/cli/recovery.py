"""Commands for the day something is gone, and for being ready: restore, diff, drill, and what was done."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated

import typer

from daemon import recorded
from daemon.app import App
from daemon.cli.shared import Backup, Json, cli, confirmed, recorder, say
from daemon.command import with_app
from daemon.outcomes import DIFFERENCE, DONE, REFUSED, UsageError
from daemon.output import restore as restore_output
from daemon.output.console import err, print_json
from daemon.output.diff import show_diff
from daemon.output.history import show_history
from daemon.output.progress import progress
from daemon.output.trail import show_trail
from daemon.points import read_point
from daemon.targets import read_dsn
from jobs.as_of import opened
from jobs.diff_sides import LIVE
from jobs.postgres.identifiers import parse_key
from jobs.remember import scope_details
from jobs.restore import plan_restore
from jobs.scope import Mode, Scope


@cli.command()
def restore(
    backup_id: Annotated[str | None, typer.Argument(metavar="BACKUP", help="An id; without one: latest.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As of this time, instead of a BACKUP.")] = None,
    at_lsn: Annotated[str | None, typer.Option(metavar="LSN", help="As of this LSN, its commit included.")] = None,
    before_xid: Annotated[
        str | None, typer.Option(metavar="XID", help="As it was just before this transaction was committed.")
    ] = None,
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

    Examples:
      rowvault restore --to env:NEW_DSN --dry-run
      rowvault restore --table orders --to env:APP_DSN
      rowvault restore --before-xid 740 --table orders --key id=7 --to env:APP_DSN
    """

    async def work(app: App) -> int:
        target, options = app.database(read_dsn(to, err.print), "--to"), app.restore_options
        scope = Scope(tuple(table or ()), _key(key or []), mode, into_schema)
        point = read_point(at, at_lsn, before_xid, app.settings.zone)
        if point is not None and backup_id is not None:
            raise UsageError("name a BACKUP or a moment, not both")
        async with AsyncExitStack() as stack:
            with progress(quiet=as_json) as on_progress:
                async with recorder(app).planning("restore", scope_details(scope, target.where), dry_run=dry_run):
                    wanted = backup_id or "latest"
                    opening = opened(app.repositories, wanted, point, scope.tables, app.scratch, on_progress)
                    found = await stack.enter_async_context(opening)
                    plan = await plan_restore(found.repositories, found.manifest, target, scope, options, on_progress)
            if not as_json:
                restore_output.print_plan(found, plan, as_result=dry_run)
            if dry_run:
                say(as_json, restore_output.plan_document(found, plan), "dry run: nothing was done")
                return DONE
            if not yes and not await confirmed("Restore now?", as_json):
                return REFUSED
            with progress(quiet=as_json) as on_progress:
                result = await recorded.restore(found.repositories, recorder(app), plan, scope, options, on_progress)
        result = replace(result, warnings=(*found.warnings, *result.warnings))
        if as_json:
            print_json(restore_output.restore_document(result))
        else:
            restore_output.print_restore(result)
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

    Examples:
      rowvault diff latest
      rowvault diff latest --table orders --keys
    """

    async def work(app: App) -> int:
        return await show_diff(app, backup_id, against, table or (), keys=keys, as_json=as_json)

    with_app(work, as_json=as_json)


@cli.command()
def history(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table, or SCHEMA.TABLE.")],
    key: Annotated[
        list[str] | None, typer.Option(metavar="COL=VALUE", help="The row with this primary key; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell every version of one row, oldest first: when and in which transaction it changed, and what changed.

    To bring one back, give restore its LSN as --at-lsn, or the BACKUP that has it where it has no LSN.

    Example: rowvault history orders --key id=7
    """

    async def work(app: App) -> int:
        return await show_history(app, table, _key(key or []), as_json=as_json)

    with_app(work, as_json=as_json)


@cli.command()
def drill(as_json: Json = False) -> None:
    """Restore the newest backup into a scratch database, prove it, and time every kind of recovery.

    The scratch database is on a PostgreSQL server started for it, or on the one that ROWVAULT_DRILL__DATABASE_URL
    names.

    Example: rowvault drill
    """

    async def work(app: App) -> int:
        with progress(quiet=as_json) as on_progress:
            result = await recorded.drill(app, recorder(app), on_progress)
        if as_json:
            print_json(restore_output.drill_document(result))
        else:
            restore_output.print_drill(result)
        return DIFFERENCE if result.state == "failed" else DONE

    with_app(work, as_json=as_json)


@cli.command()
def trail(
    verify: Annotated[bool, typer.Option("--verify", help="Prove it unbroken, in every place.")] = False,
    as_json: Json = False,
) -> None:
    """Show the audit trail, newest last: who did what, when, with which outcome.

    Examples:
      rowvault trail
      rowvault trail --verify
    """

    async def work(app: App) -> int:
        return await show_trail(app, verify=verify, as_json=as_json)

    with_app(work, as_json=as_json)


def _key(pairs: list[str]) -> dict[str, str]:
    """Each column's value; raises `UsageError` for a column given twice."""
    key: dict[str, str] = {}
    for text in pairs:
        column, value = parse_key(text)
        if column in key:
            raise UsageError(f"--key {column} is given twice")
        key[column] = value
    return key
