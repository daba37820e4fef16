"""Commands about backups: taking, keeping, listing, showing and verifying them."""

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from daemon import recorded
from daemon.app import App, Request
from daemon.cli.shared import Adopt, Backup, Json, cli, recorder, say
from daemon.command import with_app
from daemon.outcomes import DIFFERENCE, DONE, FAILED, UsageError
from daemon.output.backups import backup_document, print_backup, print_list, print_verification
from daemon.output.console import err, print_json
from daemon.output.manifest import print_manifest
from daemon.output.progress import progress
from jobs.places import catalogue
from jobs.places.standing import standing
from jobs.places.sweep import orphaned
from jobs.results import VerifyResult
from storage.names import check_label, check_reason


class Kind(StrEnum):
    """The kinds of backup that can be taken now."""

    full = "full"
    incremental = "incremental"
    archive = "archive"


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

    A full one holds every row. An incremental one holds what was committed since the backup before it; where there is
    none that it could continue, a full one is taken. An archive is a long-term copy of the newest state that passed its
    verification; it needs no source. Of the archives of a week or a month the first stays: say --keep for one beside.

    Examples:
      rowvault backup --label before-2.0 --reason "migration 41" --keep
      rowvault backup archive
    """

    async def work(app: App) -> int:
        request = Request(check_label(label), check_reason(reason), keep, adopt)
        if kind is Kind.archive and adopt:
            raise UsageError("--adopt goes with backups of a source, not with an archive")
        _ = app.selection  # what cannot be meant is said before anybody is asked
        with progress(quiet=as_json) as on_progress:
            result = await recorded.backup(app, recorder(app), kind.value, request, on_progress)
        if kind is Kind.archive:
            result = replace(result, warnings=(*result.warnings, *await _fate(app, result.id)))
        if as_json:
            document = backup_document(result)
            if result.state == "failed":
                document["error"] = {"message": f"backup {result.id} is not whole", "hint": "see problems"}
            print_json(document)
        else:
            print_backup(result)
        return DIFFERENCE if result.state == "failed" else DONE

    with_app(work, as_json=as_json)


async def _fate(app: App, backup_id: str) -> list[str]:
    """What a person should know of an archive that no policy keeps: it would be gone after the next backup."""
    backups = (await standing(app.repositories)).listing.backups
    if all(one.reasons for one in backups if one.id == backup_id):
        return []
    return [f"it fills no slot, so the next prune removes it: rowvault keep {backup_id} lets it stay"]


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
        await recorded.keep(app, recorder(app), found, check_reason(reason))
        say(as_json, {"id": found, "kept": True}, f"{found} is kept until: rowvault release {found}")
        return DONE

    with_app(work, as_json=as_json)


@cli.command()
def release(backup_id: Backup, as_json: Json = False) -> None:
    """Lift a keep mark.

    Example: rowvault release 20260101T020000.000Z-full-0a1b2c
    """

    async def work(app: App) -> int:
        found = await catalogue.resolve(app.repositories, backup_id)
        await recorded.release(app, recorder(app), found)
        say(as_json, {"id": found, "kept": False}, f"{found} is no longer kept")
        return DONE

    with_app(work, as_json=as_json)


@cli.command(name="list")
def list_(as_json: Json = False) -> None:
    """List the backups of all places, newest first; how far each reaches, which slot it fills, until when it stays.

    Example: rowvault list --json | jq '.[0].id'
    """

    async def work(app: App) -> int:
        listing = (await standing(app.repositories)).listing
        for place in listing.unreachable:
            err.print(f"{place.name} does not answer: {place.error}")
        for stray in listing.strays:
            err.print(f"not a manifest: {stray}")
        if as_json:
            print_json(list(listing.backups))
        else:
            print_list(listing.backups)
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
            print_json(manifest.model_dump(mode="json", by_alias=True))
        else:
            print_manifest(manifest)
        return DONE

    with_app(work, as_json=as_json)


@cli.command()
def verify(
    backup_id: Annotated[str | None, typer.Argument(metavar="BACKUP", help="An id, or: latest.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Verify every backup.")] = False,
    sample: Annotated[str, typer.Option(help="Read only this share of the objects, such as 10%.")] = "100%",
    as_json: Json = False,
) -> None:
    """Read a backup back from every place, hash every object, count every row, and compare with its manifest.

    Examples:
      rowvault verify latest
      rowvault verify --all --sample 10%
    """

    async def work(app: App) -> int:
        if all_ == (backup_id is not None):
            raise UsageError("name one BACKUP, or say --all")
        share = _share(sample)
        if backup_id is not None:
            wanted = [await catalogue.resolve(app.repositories, backup_id)]
        else:
            listed = [one.id for one in (await catalogue.list_backups(app.repositories)).backups]
            wanted = [*listed, *sorted(await orphaned(app.repositories) - set(listed))]
        places = await catalogue.concerned(app.repositories, wanted)
        with progress(quiet=as_json) as on_progress:
            results = [
                await recorded.verify(where, recorder(app), one, share, on_progress)
                for one, where in zip(wanted, places, strict=True)
            ]
        if as_json:
            print_json(results if all_ else results[0])
        else:
            for result in results:
                print_verification(result)
        return max((_verify_code(result) for result in results), default=DONE)

    with_app(work, as_json=as_json)


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
