"""The command for the right to erasure."""

from typing import Annotated

import typer

from daemon import recorded
from daemon.app import App
from daemon.cli.shared import Json, cli, confirmed, recorder, say
from daemon.command import with_app
from daemon.outcomes import DIFFERENCE, DONE, REFUSED, UsageError, describe
from daemon.output import erase as erase_output
from daemon.output.console import print_error
from daemon.output.progress import progress
from daemon.runner import job_in_places
from jobs.erasing.checking import check, superseded, the_erasure
from jobs.erasing.plan import ErasePlan
from jobs.erasing.subject import Children, Predicate
from jobs.errors import UnsafeTarget
from jobs.postgres.identifiers import parse_key


@cli.command()
def erase(
    where: Annotated[str, typer.Option(metavar="COL=VALUE", help="Whose rows: those that hold this value.")] = "",
    table: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="Of this table; repeatable.")] = None,
    json_path: Annotated[
        str, typer.Option(metavar="A.B.C", help="The value is at this path in the column's JSON.")
    ] = "",
    children: Annotated[
        Children | None,
        typer.Option(
            help="Rows that point to erased ones: erase them too, take the reference from them, or"
            " keep the erased rows with nothing but their keys."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish what was interrupted, or did not reach a place.")
    ] = False,
    check_: Annotated[
        str, typer.Option("--check", metavar="ERASURE", help="Look whether anything of this erasure is still there.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased, and erase nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Erase one subject's rows from every backup in every place, after showing what will be erased and asking.

    A dry run counts; then delete the rows in the database, and erase. What is erased cannot be had back. Kept backups
    are erased from, too.

    Examples:
      rowvault erase --where email=a@example.org --table customers --dry-run
      rowvault erase --resume
      rowvault erase --check 20260131T140500.000Z-erasure-0a1b2c
    """

    async def work(app: App) -> int:
        if [bool(where), resume, bool(check_)].count(True) != 1:
            raise UsageError("say one of --where, --resume and --check")
        if not where and (table or json_path or children or dry_run):
            raise UsageError(
                "--table, --json-path, --children and --dry-run go with --where",
                "--resume goes on with what was said then",
            )
        if check_:
            return await _check(app, check_, as_json=as_json)
        if resume:
            return await _resume(app, as_json=as_json)
        column, value = parse_key(where)
        predicate = Predicate(column, value, tuple(table or ()), _path(json_path))
        async with job_in_places(app.source, app.impatient_places, "erasure", app.time_limit):
            with progress(quiet=as_json) as on_progress:
                if not dry_run:
                    await recorded.resume_erasures(app, recorder(app), on_progress)
                plan = await recorded.plan_erasure(
                    app, recorder(app), predicate, children, on_progress, dry_run=dry_run
                )
            if dry_run:
                return _show_dry_run(plan, as_json=as_json)
            if not as_json:
                erase_output.print_plan(plan, as_result=False)
            if not yes and not await confirmed("Erase all this for good?", as_json):
                return REFUSED
            with progress(quiet=as_json) as on_progress:
                result = await recorded.erase(app, recorder(app), plan, on_progress)
        erase_output.show_results([result], plan, as_json=as_json)
        return DONE

    with_app(work, as_json=as_json)


def _show_dry_run(plan: ErasePlan, *, as_json: bool) -> int:
    """What would be erased, and then what is in the way."""
    shown = erase_output.plan_document(plan)
    if not as_json:
        erase_output.print_plan(plan, as_result=True)
    try:
        plan.require_gone()
    except UnsafeTarget as refusal:
        shown["error"] = describe(refusal)
        if not as_json:
            print_error(shown["error"])
    say(as_json, shown, "dry run: nothing was erased")
    return REFUSED if "error" in shown else DONE


async def _resume(app: App, *, as_json: bool) -> int:
    async with job_in_places(app.source_if_any, app.impatient_places, "erasure", app.time_limit):
        with progress(quiet=as_json) as on_progress:
            results = await recorded.resume_erasures(app, recorder(app), on_progress)
    erase_output.show_results(results, None, as_json=as_json)
    return DONE


async def _check(app: App, erasure_id: str, *, as_json: bool) -> int:
    erasure = await the_erasure(app.repositories, erasure_id)
    with progress(quiet=as_json) as on_progress:
        remaining = await check(app.repositories, erasure, on_progress)
        earlier = await superseded(app.repositories, erasure)
    erase_output.show_check(erasure, remaining, earlier, as_json=as_json)
    return DIFFERENCE if remaining or earlier else DONE


def _path(text: str) -> tuple[str, ...]:
    """The steps of a path; raises `UsageError`."""
    path = tuple(text.split(".")) if text else ()
    if not all(path):
        raise UsageError(
            f"--json-path {text!r} has an empty step", "write it as a.b.c, a number for an array's element"
        )
    return path
