"""The command that hands data on: export."""

from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue

from daemon import recorded
from daemon.app import App
from daemon.cli.shared import Json, cli, recorder, say
from daemon.command import with_app
from daemon.outcomes import DONE, UsageError
from daemon.output.console import print_json
from daemon.output.export import export_document, plan_document, print_export, print_plan
from daemon.output.progress import progress
from daemon.points import read_point
from jobs.as_of import opened
from jobs.exporting.columns import parse_mask
from jobs.exporting.files import Compression, refuse_unless_empty
from jobs.exporting.plan import ExportScope, plan_export


class Format(StrEnum):
    """The formats of exported files."""

    csv = "csv"
    json = "json"
    sql = "sql"
    parquet = "parquet"


@cli.command()
def export(
    format_: Annotated[Format, typer.Option("--format", help="sql: one file for psql. Else a file for each table.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write to; made if need be.")],
    backup_id: Annotated[str | None, typer.Argument(metavar="BACKUP", help="An id; without one: latest.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As of this time, instead of a BACKUP.")] = None,
    at_lsn: Annotated[str | None, typer.Option(metavar="LSN", help="As of this LSN, its commit included.")] = None,
    before_xid: Annotated[
        str | None, typer.Option(metavar="XID", help="As it was just before this transaction was committed.")
    ] = None,
    table: Annotated[list[str] | None, typer.Option(metavar="TABLE", help="Only this table; repeatable.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="JSON: a line for each row, not an array.")] = False,
    compress: Annotated[
        Compression | None, typer.Option(help="Compress the files; of Parquet, what is in them.")
    ] = None,
    omit: Annotated[
        list[str] | None, typer.Option(metavar="TABLE.COL", help="Leave this column out; repeatable.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE.COL=HOW",
            help="hash: by the key in ROWVAULT_EXPORT__MASK_KEY, alike in all tables. null. fixed:TEXT. Repeatable.",
        ),
    ] = None,
    no_owner: Annotated[
        bool, typer.Option("--no-owner", help="SQL without owners and rights, for servers without the roles.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Write to a folder that is not empty, too; replace files of the same name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Export tables as CSV, JSON, SQL or Parquet, out of a backup or as of any moment, columns left out or masked.

    export.json says what the files are. On failure none is left.

    Examples:
      rowvault export --format csv --out shared
      rowvault export --format parquet --out shared --at 2026-01-31T14:05:00Z
      rowvault export --format csv --out shared --mask orders.email=hash
    """

    async def work(app: App) -> int:
        point = read_point(at, at_lsn, before_xid, app.settings.zone)
        if point is not None and backup_id is not None:
            raise UsageError("name a BACKUP or a moment, not both")
        if lines and format_ != Format.json:
            raise UsageError("--lines goes with --format json")
        if no_owner and format_ != Format.sql:
            raise UsageError("--no-owner goes with --format sql")
        masks = tuple(parse_mask(text) for text in mask or ())
        scope = ExportScope(
            (format_.value,), tuple(table or ()), lines, compress, tuple(omit or ()), masks, owners=not no_owner
        )
        options = app.export_options(replace=yes)
        refuse_unless_empty(out, replace=yes)
        said: dict[str, JsonValue] = {"out": str(out), "formats": [format_.value], "tables": [*scope.tables]}
        async with AsyncExitStack() as stack:
            with progress(quiet=as_json) as on_progress:
                async with recorder(app).planning("export", said, dry_run=dry_run):
                    wanted = backup_id or "latest"
                    opening = opened(app.repositories, wanted, point, scope.tables, app.scratch, on_progress)
                    found = await stack.enter_async_context(opening)
                    plan = await plan_export(found.manifest, scope, options)
            if dry_run:
                if not as_json:
                    print_plan(found, plan, out)
                say(as_json, plan_document(found, plan, out), "dry run: nothing was written")
                return DONE
            with progress(quiet=as_json) as on_progress:
                result = await recorded.export(found, recorder(app), plan, out, options, on_progress)
        if as_json:
            print_json(export_document(result))
        else:
            print_export(result)
        return DONE

    with_app(work, as_json=as_json)
