"""Commands about the places that hold the backups."""

from enum import StrEnum
from typing import Annotated

import typer

from daemon import recorded
from daemon.app import App
from daemon.cli.shared import Json, cli, confirmed, recorder
from daemon.command import with_app
from daemon.outcomes import DIFFERENCE, DONE, FAILED, REFUSED
from daemon.output.console import err, print_json
from daemon.output.progress import progress
from daemon.output.prune import print_prune, print_rows, prune_document
from daemon.output.report import print_report, report_document
from daemon.output.sync import print_sync, sync_document
from daemon.points import read_time
from jobs.prune import PruneResult, plan_prune
from jobs.removal import plan_removal
from jobs.report import policy_report
from jobs.sync import SyncOptions, SyncResult


class Check(StrEnum):
    """How thoroughly places are compared."""

    size = "size"
    checksum = "checksum"
    read = "read"


@cli.command()
def sync(
    check: Annotated[
        Check,
        typer.Option(
            help="size: one listing a place. checksum: asks the store for each object's hash, a request an object, and"
            " little is read. read: reads every byte, which a store may charge for."
        ),
    ] = Check.size,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Reconcile the places: what one lacks, has in part or differently is made good from another, in either direction.

    The daemon does so by itself, by size, after each backup and when a place answers again. Checksums find what came
    to rest differently; what changed at rest since, only reading finds for sure.

    Examples:
      rowvault sync --dry-run
      rowvault sync --check checksum
    """

    async def work(app: App) -> int:
        options = SyncOptions(check=check.value, dry_run=dry_run)
        with progress(quiet=as_json) as on_progress:
            result = await recorded.reconcile(app, recorder(app), options, on_progress)
        if as_json:
            print_json(sync_document(result))
        else:
            print_sync(result)
        return _code(result)

    with_app(work, as_json=as_json)


@cli.command()
def prune(
    backup_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BACKUP]...", help="These alone, at once, whatever the policies say, after asking."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what becomes of each backup in each place, and why.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Carry retention out: remove from each place what its policy no longer keeps.

    The daemon does so after each backup. Never goes: the newest good backup, what is marked, what a chain that stays
    needs, what another place still lacks, what is being read.

    With BACKUP that one goes from every place, with what builds on it: for what is whole in no place and in the way of
    an erasure, or whose key was stolen. What is marked is released first, and a good full backup must be left.

    Examples:
      rowvault prune --dry-run
      rowvault prune
      rowvault prune 20260131T020000.000Z-full-0a1b2c --dry-run
    """

    async def work(app: App) -> int:
        if backup_ids:
            return await _remove(app, backup_ids, yes=yes, dry_run=dry_run, as_json=as_json)
        if dry_run:
            result = await plan_prune(app.repositories)
        else:
            with progress(quiet=as_json) as on_progress:
                result = await recorded.prune(app, recorder(app), on_progress)
        return _show_prune(result, as_json=as_json)

    with_app(work, as_json=as_json)


async def _remove(app: App, backup_ids: list[str], *, yes: bool, dry_run: bool, as_json: bool) -> int:
    planned = await plan_removal(app.repositories, backup_ids)
    if dry_run:
        return _show_prune(planned, as_json=as_json)
    if not as_json:
        print_rows(planned.backups, err)
    if not yes and not await confirmed("Remove these for good?", as_json):
        return REFUSED
    with progress(quiet=as_json) as on_progress:
        result = await recorded.remove(app, recorder(app), backup_ids, on_progress)
    return _show_prune(result, as_json=as_json)


def _show_prune(result: PruneResult, *, as_json: bool) -> int:
    if as_json:
        print_json(prune_document(result))
    else:
        print_prune(result)
    return FAILED if result.failed else DONE


@cli.command()
def report(
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Tell what was done from this time on. Without: ever.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what is kept in each place, why and until when, and what was done: evidence for whoever checks.

    Backups, verifications, drills, restores, exports, erasures and prunes, by whom and with which outcome; days without
    a good backup; and whether the audit trail is unbroken.

    Example: rowvault report --since 2026-01-01 --json
    """

    async def work(app: App) -> int:
        zone = app.settings.zone
        begin = read_time(since, zone, "--since") if since is not None else None
        found = await policy_report(app.repositories, app.log, zone, begin)
        if as_json:
            print_json(report_document(found))
        else:
            print_report(found)
        if found.trail.problems:
            return DIFFERENCE
        return DONE if found.trail.all_answered else FAILED

    with_app(work, as_json=as_json)


def _code(result: SyncResult) -> int:
    if result.damaged or any(one.problems for one in result.verified):
        return DIFFERENCE
    return FAILED if result.state == "failed" else DONE
