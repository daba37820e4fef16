"""`rowvault report`: one document for whoever has to check how backups are kept, and what was done with them."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from daemon.output.backups import until_text
from daemon.output.console import as_bytes, out, print_table, print_warnings, shallow, styled, table
from daemon.output.trail import MOST_SHOWN, print_entries, proof_document
from jobs.report import Activity, PolicyReport, ReportedPlace
from storage.retention import Policy

# Access to what is in backups, what changed them, and who decided that they stay.
TOLD = frozenset({"restore", "export", "erase", "prune", "keep", "release", "drill", "archive", "teardown"})


def report_document(report: PolicyReport) -> dict[str, Any]:
    """The report as JSON shows it."""
    document = shallow(report)
    document["places"] = [shallow(one) | {"policy": _policy(one.policy)} for one in report.places]
    document["gaps"] = [{"first": str(gap.first), "last": str(gap.last)} for gap in report.gaps]
    proof = proof_document(report.trail)
    if (error := proof.pop("error", None)) is not None:
        document["error"] = error
    document["trail"] = {"entries": len(report.trail.entries), "places": report.trail.places} | proof
    return document


def _policy(policy: Policy | None) -> dict[str, Any] | None:
    if policy is None:
        return None
    return shallow(policy) | {"zone": str(policy.zone), "kinds": sorted(policy.kinds)}


def print_report(report: PolicyReport) -> None:
    """The report for people."""
    of = f" of {report.database.database} (system {report.database.system_identifier})" if report.database else ""
    out.print(Text(f"Report on the backups{of}, {report.created_at:%Y-%m-%d %H:%M:%S} UTC", style="bold"))
    out.print(f"What was done since {report.since:%Y-%m-%d %H:%M:%S %Z}\n" if report.since else "")
    _print_places(report.places)
    print_warnings(report.notes)
    _print_backups(report)
    _print_activities(report.activities)
    told = [one for one in report.entries if one.what in TOLD or one.outcome in {"failed", "refused"}]
    if told:
        out.print(Text("\nwho did what with them, and what went wrong", style="bold"))
        print_entries(told)
    _print_gaps(report)
    _print_trail(report)


def _print_places(places: Sequence[ReportedPlace]) -> None:
    shown = table(
        "policy and contents of each place",
        "place", ">daily", ">weekly", ">monthly", ">days of changes", ">backups", ">stored", "oldest", "newest",
    )  # fmt: skip
    for one in places:
        policy = one.policy
        figures = [policy.daily, policy.weekly, policy.monthly, policy.incremental_days] if policy else ["all"] * 4
        moments = [f"{moment:%Y-%m-%d %H:%M}" if moment else "" for moment in (one.oldest, one.newest)]
        held = [str(one.backups), as_bytes(one.bytes_stored), *moments]
        shown.add_row(one.name, *map(str, figures), *(held if one.error is None else ["", "", one.error, ""]))
    print_table(shown)


def _print_backups(report: PolicyReport) -> None:
    shown = table("\nwhat is kept, why, and until when at least", "id", "place", "verified", "tier", "why", "until")
    for row in report.backups:
        why = ", ".join(reason for reason in row.reasons if reason not in row.tiers)
        gone = f"to be removed{f': {row.held_by}' if row.held_by else ''}" if row.action != "keep" else ""
        shown.add_row(
            row.id, row.place, styled(row.verified or "not yet"), ", ".join(row.tiers), Text(why or gone),
            until_text(row.until, row.reasons),
        )  # fmt: skip
    print_table(shown)
    if report.overdue:
        out.print(
            f"{len(report.overdue)} copies are kept by no policy: rowvault prune --dry-run says what they wait for"
        )


def _print_activities(activities: Sequence[Activity]) -> None:
    shown = table("\nwhat was done", "what", ">success", ">warning", ">failed", ">refused", "last")
    for one in activities:
        counts = (str(count) for count in (one.success, one.warning, one.failed, one.refused))
        shown.add_row(one.what, *counts, f"{one.last:%Y-%m-%d %H:%M:%S}")
    print_table(shown)


def _print_gaps(report: PolicyReport) -> None:
    gaps = report.gaps
    if not gaps:
        out.print("\nno day without a good backup" if report.backups else "\nno backup yet")
        return
    days = sum((gap.last - gap.first).days + 1 for gap in gaps)
    said = ", ".join(str(gap.first) if gap.first == gap.last else f"{gap.first} to {gap.last}" for gap in gaps)
    out.print(Text(f"\n{days} days without a good backup: ", style="yellow") + Text(said))


def _print_trail(report: PolicyReport) -> None:
    trail = report.trail
    for warning in trail.warnings:
        out.print(Text("  note: ", style="yellow") + Text(warning))
    for problem in trail.problems[:MOST_SHOWN]:
        out.print(Text(f"{problem.kind}: ", style="red") + Text(f"{problem.place}: {problem.message}"))
    if len(trail.problems) > MOST_SHOWN:
        out.print(f"and {len(trail.problems) - MOST_SHOWN} more problems: rowvault trail --verify --json")
    state = "broken" if trail.problems else "unbroken" if trail.all_answered else "not proved: a place does not answer"
    heads = f"{len(trail.entries)} entries, {trail.recorded_heads} heads remembered elsewhere"
    out.print(f"audit trail: {state} ({heads})")
