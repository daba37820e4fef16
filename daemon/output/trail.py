"""`rowvault trail`: the audit trail for people and for scripts, and whether it is unbroken."""

import json
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from daemon.app import App
from daemon.outcomes import DIFFERENCE, DONE, FAILED
from daemon.output.console import err, out, print_error, print_json, print_table, styled, table, warn
from jobs.trail import TrailEntry, TrailReport, read_trail, verify_trail

_HINT = "see problems; if the repository was begun anew on purpose, what remembers the old trail may go too"


async def show_trail(app: App, *, verify: bool, as_json: bool) -> int:
    """Print the trail, proved first if `verify`; the exit code."""
    report = await (verify_trail(app.repositories, app.log) if verify else read_trail(app.repositories))
    if as_json:
        print_json(_document(report, verified=verify))
    else:
        _print(report, verified=verify)
    if verify and report.problems:
        return DIFFERENCE
    return FAILED if verify and not report.all_answered else DONE


def _document(report: TrailReport, *, verified: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"entries": report.entries, "places": report.places}
    if not verified:
        return document
    return document | proof_document(report)


def proof_document(report: TrailReport) -> dict[str, Any]:
    """What proving the trail came to, as JSON shows it."""
    document: dict[str, Any] = {
        "state": _state(report),
        "problems": report.problems,
        "recorded_heads": report.recorded_heads,
        "warnings": report.warnings,
    }
    if report.problems:
        first = report.problems[0]
        document["error"] = {"message": f"the trail is broken: {first.place}: {first.message}", "hint": _HINT}
    elif not report.all_answered:
        document["error"] = {"message": "a place does not answer", "hint": "see places; rowvault doctor"}
    return document


def _state(report: TrailReport) -> str:
    if report.problems or not report.all_answered:
        return "failed"
    return "warning" if report.warnings or any(place.behind for place in report.places) else "success"


def _print(report: TrailReport, *, verified: bool) -> None:
    if report.entries:
        print_entries(report.entries)
    else:
        out.print("no entries yet")
    for place in report.places:
        if place.error is not None:
            err.print(f"{place.name} does not answer: {place.error}")
        elif place.behind:
            warn(f"{place.name} lacks {place.behind} entries, which the next job brings there")
    if verified:
        _print_proof(report)


def print_entries(entries: Sequence[TrailEntry]) -> None:
    """Entries of the trail, oldest first."""
    shown = table("", ">number", "when", "who", "what", "outcome", "backup", "details")
    for one in entries:
        details = ", ".join(f"{name} {_short(value)}" for name, value in one.details.items() if value not in _EMPTY)
        shown.add_row(
            str(one.number), f"{one.at:%Y-%m-%d %H:%M:%S}", Text(one.who), Text(one.what), styled(one.outcome),
            one.backup or "", Text(details),
        )  # fmt: skip
    print_table(shown)


MOST_SHOWN = 20
_MOST_LISTED = 10
_EMPTY: tuple[object, ...] = (None, "", [], {}, False)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_short(one)}' for name, one in value.items())})"
    if isinstance(value, list):
        if any(isinstance(one, dict) for one in value):
            return f"{len(value)}, see --json"  # the manifests of an erasure: hashes before and after
        more = [f"{len(value) - _MOST_LISTED} more"] if len(value) > _MOST_LISTED else []
        return f"({', '.join([*map(_short, value[:_MOST_LISTED]), *more])})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print_proof(report: TrailReport) -> None:
    for warning in report.warnings:
        warn(warning)
    for problem in report.problems[:MOST_SHOWN]:
        out.print(Text(f"{problem.kind}: ", style="red") + Text(f"{problem.place}: {problem.message}"))
    if report.problems:
        print_error({"message": f"the trail is broken at entry {report.problems[0].entry}", "hint": _HINT})
    elif report.all_answered:
        count, heads = len(report.entries), report.recorded_heads
        out.print(f"unbroken: {count} entries, and {heads} heads that were recorded elsewhere are among them")
