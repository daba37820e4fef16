"""Commands about the process itself: the daemon, the demo, its settings, and whether all is well around it."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from daemon import recorded
from daemon.app import App, Request
from daemon.cli.shared import Adopt, Json, cli, confirmed, recorder, say
from daemon.command import finish, with_app
from daemon.logs import configure_logs
from daemon.outcomes import DONE, FAILED, REFUSED
from daemon.output.advice import print_findings, print_settings
from daemon.output.console import err, out, print_json
from daemon.settings.load import describe_settings, read_keyring
from jobs.teardown import what_is_there


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
def doctor(
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Age identities to try on the newest backup, such as those kept in a safe."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check settings, reach, privileges, versions, clocks and room, and say what to do about each finding.

    Examples:
      rowvault doctor
      rowvault doctor --identity /media/usb/identity.txt
    """
    from jobs.checks.encryption import Encrypting
    from jobs.doctor import examine  # likewise

    async def work(app: App) -> int:
        settings = app.settings
        keyring = read_keyring(identity, "--identity") or app.repositories[0].keyring
        files = (identity, settings.encryption.identity_file, settings.drill.identity_file)
        report = await examine(
            app.source_if_any,
            app.selection,
            app.repositories,
            settings.pg_bin,
            copy_jobs=settings.copy_jobs,
            capture=app.capture_options if settings.schedule.incremental else None,
            encrypting=Encrypting(
                settings.encryption.recipients, keyring, tuple(dict.fromkeys(path for path in files if path))
            ),
        )
        if as_json:
            print_json(report)
        else:
            print_findings(report.findings)
        return DONE if report.healthy else FAILED

    with_app(work, as_json=as_json)


@cli.command()
def settings(as_json: Json = False) -> None:
    """List every setting with its default and meaning.

    Example: rowvault settings
    """
    described = describe_settings()
    if as_json:
        print_json(list(described))
    else:
        print_settings(described)


@cli.command()
def teardown(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove from the source database whatever Rowvault made there. Backups stay; incremental ones begin anew.

    The verification log goes with it; the audit trail in the repository stays.

    Example: rowvault teardown --dry-run
    """

    async def work(app: App) -> int:
        there = await what_is_there(app.source)
        if not as_json:
            for one in there:
                (out if dry_run else err).print(f"  {one}")
        if dry_run or not there:
            say(as_json, {"removed": [], "there": list(there)}, "nothing was removed")
            return DONE
        if not yes and not await confirmed("Remove all this from the database?", as_json):
            return REFUSED
        removed = await recorded.teardown(app, recorder(app))
        say(as_json, {"removed": list(removed), "there": []}, f"{len(removed)} objects were removed")
        return DONE

    with_app(work, as_json=as_json)
