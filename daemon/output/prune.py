"""How retention looks: what becomes of each backup, why, and until when."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from daemon.output.backups import until_text
from daemon.output.console import as_bytes, err, out, print_table, shallow, styled, table
from jobs.prune import PruneResult, PruneRow


def prune_document(result: PruneResult) -> dict[str, Any]:
    """The result as JSON shows it."""
    document = shallow(result)
    if result.failed:
        said = "; ".join(f"{place.name}: {place.error}" for place in result.failed)
        hint = "what was removed of a backup by then is swept; rowvault doctor looks at each place"
        document["error"] = {"message": f"retention could not be carried out: {said}", "hint": hint}
    return document


def print_prune(result: PruneResult) -> None:
    """The result for people: each backup in a dry run, else those that did not just stay."""
    for place in result.unreachable:
        err.print(f"{place.name} does not answer: {place.error}")
    for place in result.failed:
        err.print(Text(f"{place.name}: ") + styled("failed") + Text(f": {place.error}"))
    rows = result.backups if result.dry_run else result.doing("removed", "hold back", "remove")
    if rows:
        print_rows(rows)
    word = "would be removed" if result.dry_run else "removed"
    gone = result.doing("remove" if result.dry_run else "removed")
    held = len(result.doing("hold back"))
    out.print(
        f"{len(gone)} copies {word}, {as_bytes(sum(row.bytes_stored for row in gone))};"
        f" {len(result.doing('keep'))} stay" + (f", {held} wait to be removed" if held else "")
    )


def print_rows(rows: Iterable[PruneRow], console: Console = out) -> None:
    """A copy a line."""
    shown = table("", "id", "place", "decision", "tier", "why", "until")
    for row in rows:
        why = row.held_by or ", ".join(reason for reason in row.reasons if reason not in row.tiers)
        until = until_text(row.until, row.reasons) if row.action == "keep" else Text("")
        shown.add_row(row.id, row.place, styled(row.action), ", ".join(row.tiers), Text(why), until)
    print_table(shown, console)
