"""How restores and drills look: the plan before, what it came to after."""

from dataclasses import asdict
from typing import Any

from rich.text import Text

from daemon.output.console import as_bytes, err, out, print_table, print_warnings, styled, table
from jobs.as_of import AsOf
from jobs.postgres.identifiers import TableName
from jobs.restore import RestorePlan
from jobs.restoring.plan import SAYS, ChangePlan
from jobs.results import DrillResult, RestoreResult


def print_plan(found: AsOf, plan: RestorePlan, *, as_result: bool) -> None:
    """What a restore is about to do, a table a line: the result of a dry run, else what a person is asked about."""
    to = out if as_result else err
    shown = table(
        f"restore {plan.manifest.id} ({plan.manifest.created_at:%Y-%m-%d %H:%M:%S} UTC) into {plan.target.where}",
        "table", ">rows now", ">rows in the backup", ">COPY text", "what is done",
    )  # fmt: skip
    for one in _planned(plan):
        shown.add_row(
            Text(one["table"]), _known(one["rows_now"]), f"{one['rows']:,}", as_bytes(one["bytes_raw"]), one["does"]
        )
    print_table(shown, to)
    to.print(f"  it will take about {_estimate(plan)}")
    for warning in (*found.warnings, *plan.warnings):
        to.print(Text("  note: ", style="yellow") + Text(warning))


def _known(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


_BYTES_A_SECOND = 40e6  # of COPY text read, verified, loaded, indexed and compared, on a small machine


def _estimate(plan: RestorePlan) -> str:
    found = isinstance(plan, ChangePlan) and plan.rows is not None
    seconds = 0 if found else sum(one["bytes_raw"] for one in _planned(plan)) / _BYTES_A_SECOND
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _planned(plan: RestorePlan) -> list[dict[str, Any]]:
    """A line for each table: what is there, what the backup has, what is done."""
    if isinstance(plan, ChangePlan):
        return [
            {
                "table": str(one.into),
                "schema": one.stored.schema_name,
                "name": one.stored.name,
                "how": one.how,
                "does": SAYS[one.how],
                "rows_now": one.rows_now,
                "rows": plan.rows.number if plan.rows else one.stored.rows,
                "bytes_raw": one.stored.bytes_raw,
                "children": [str(key.table) for key in one.children],
            }
            for one in plan.changes
        ]
    return [
        {
            "table": str(TableName(one.schema_name, one.name)),
            "schema": one.schema_name,
            "name": one.name,
            "how": "create",
            "does": SAYS["create"],
            "rows_now": 0,
            "rows": one.rows,
            "bytes_raw": one.bytes_raw,
            "children": [],
        }
        for one in plan.manifest.tables
    ]


def plan_document(found: AsOf, plan: RestorePlan) -> dict[str, Any]:
    """What a restore would do, as JSON shows it."""
    return {
        "id": plan.manifest.id,
        "target": plan.target.where,
        "dry_run": True,
        "tables": _planned(plan),
        "warnings": [*found.warnings, *plan.warnings],
    }


def print_restore(result: RestoreResult) -> None:
    """What a restore came to."""
    shown = table("", "table", ">added", ">changed", ">removed")
    for one in result.touched:
        shown.add_row(Text(one.table), f"{one.inserted:,}", f"{one.updated:,}", f"{one.deleted:,}")
    print_table(shown)
    out.print(f"restored {result.id} into {result.target} in {result.duration_seconds:.1f} s")
    for check in result.checks:
        said = Text(f": {check.message}" if check.message else "")
        out.print(Text("  ") + styled(check.state) + Text(f"  {check.name}") + said)
    print_warnings(result.warnings)


def restore_document(result: RestoreResult) -> dict[str, Any]:
    """A restore's result as JSON shows it."""
    document = asdict(result)
    if not result.as_it_should_be:
        document["error"] = {"message": "restored, but a check failed", "hint": "see checks"}
    return document


def print_drill(result: DrillResult) -> None:
    """What a drill came to."""
    shown = table(f"drill of {result.id} on {result.server or 'no server'}", "", "check", "found")
    for check in result.checks:
        shown.add_row(styled(check.state), Text(check.name), Text(check.message))
    print_table(shown)
    for unproved in result.not_proved:
        out.print(Text("  not proved: ", style="yellow") + Text(unproved))
    for place in result.places:
        if place.error:
            out.print(Text(f"  the report is not in {place.name}: {place.error}"))
    out.print(Text("drill: ") + styled(result.state) + Text(f" in {result.duration_seconds:.1f} s"))


def drill_document(result: DrillResult) -> dict[str, Any]:
    """A drill's result as JSON shows it."""
    document = asdict(result)
    if result.failures:
        what = "; ".join(f"{check.name}: {check.message}" for check in result.failures)
        document["error"] = {"message": f"the drill failed: {what}", "hint": "see checks"}
    return document
