"""`rowvault diff`: a table a line for people, with keys if they are asked for, and JSON for scripts."""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from rich.text import Text

from daemon.app import App
from daemon.outcomes import DIFFERENCE, DONE
from daemon.output.console import out, print_json, print_table, print_warnings, styled, table
from daemon.output.progress import progress
from jobs.as_of import opened
from jobs.diff import DiffResult, Key, Keys, TableDiff, diff_backups, diff_live
from jobs.diff_sides import LIVE
from jobs.postgres.identifiers import TableName, readable


async def show_diff(app: App, wanted: str, against: str, tables: Sequence[str], *, keys: bool, as_json: bool) -> int:
    """Compare what a person means, show what was found, and say the exit code."""
    source = app.source if against == LIVE else None  # that there is none is said first
    options = app.diff_options(tables, keys=keys)
    async with AsyncExitStack() as stack:
        with progress(quiet=as_json) as on_progress:
            opening = opened(app.repositories, wanted, None, tables, app.scratch, on_progress)
            sides = [one := await stack.enter_async_context(opening)]
            if source is not None:
                limits = app.lock_limits
                result = await diff_live(
                    one.repositories, one.manifest, source, app.selection, limits, options, on_progress
                )
            else:
                opening = opened(app.repositories, against, None, tables, app.scratch, on_progress)
                sides.append(other := await stack.enter_async_context(opening))
                result = await diff_backups(one, other, options, on_progress)
    warnings = [*dict.fromkeys(warning for side in sides for warning in side.warnings)]
    if as_json:
        print_json(diff_document(result) | {"warnings": warnings})
    else:
        print_diff(result)
        print_warnings(warnings)
    return DONE if result.equal else DIFFERENCE


def diff_document(result: DiffResult) -> dict[str, Any]:
    """A comparison as JSON shows it."""
    return {
        "backup": result.backup,
        "against": result.against,
        "tables": [_table_document(one) for one in result.tables],
        "equal": result.equal,
    }


def _table_document(one: TableDiff) -> dict[str, Any]:
    document = {
        name: getattr(one, name)
        for name in ("schema", "name", "missing", "changed", "extra", "rows_backup", "rows_other", "note")
    }
    return document if one.keys is None else document | {"keys": one.keys}


def print_diff(result: DiffResult) -> None:
    """A comparison for people."""
    other = "rows live" if result.against == "live" else "rows in the other"
    shown = table(
        f"{result.backup} against {result.against}",
        "table", ">rows in the backup", f">{other}", ">missing", ">changed", ">extra", "state", "note",
    )  # fmt: skip
    for one in result.tables:
        numbers = (_number(count) for count in (one.rows_backup, one.rows_other, one.missing, one.changed, one.extra))
        shown.add_row(Text(_name(one)), *numbers, styled("ok" if one.equal else "differs"), Text(one.note))
    print_table(shown)
    for one in result.tables:
        if one.keys is not None:
            _print_keys(_name(one), one.keys)
    unequal = sum(not one.equal for one in result.tables)
    out.print("no differences" if result.equal else f"differences in {unequal} of {len(result.tables)} tables")


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _name(one: TableDiff) -> str:
    return str(TableName(one.schema, one.name))


def _print_keys(name: str, keys: Keys) -> None:
    for kind, some in (("missing", keys.missing), ("changed", keys.changed), ("extra", keys.extra)):
        if some:
            out.print(Text(f"{name} {kind}: ", style="bold") + Text(_listed(some)))
    if keys.more:
        out.print(Text(f"{name}: there are more than are shown here"))


def _listed(keys: Sequence[Key]) -> str:
    return ", ".join(" ".join(f"{readable(column)}={as_shown(value)}" for column, value in key.items()) for key in keys)


def as_shown(value: str) -> str:
    """The value, or as JSON writes it where a terminal would take it for something else."""
    return value if value.isprintable() and value.strip() else json.dumps(value)
