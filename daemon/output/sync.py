"""How the result of reconciling the places looks."""

from dataclasses import asdict
from typing import Any

from rich.text import Text

from daemon.output.backups import print_problems
from daemon.output.console import as_bytes, err, out, print_table, styled, table
from jobs.sync import SyncResult

_NOWHERE = "something of these is whole in no place"


def sync_document(result: SyncResult) -> dict[str, Any]:
    """The result as JSON shows it."""
    document = asdict(result)
    if result.damaged:
        hint = "rowvault verify shows what is wrong with each, and where"
        document["error"] = {"message": f"{_NOWHERE}: {', '.join(result.damaged)}", "hint": hint}
    return document


def print_sync(result: SyncResult) -> None:
    """The result for people: what was not whole, then what it took."""
    for place in result.unreachable:
        err.print(f"{place.name} does not answer: {place.error}")
    if result.lacking:
        shown = table("", "id", "place", "found", ">objects", ">bytes", "done")
        for row in result.lacking:
            done = styled(row.done) + Text(f" ({row.error})" if row.error else "")
            shown.add_row(row.id, row.place, styled(row.found), f"{row.objects:,}", as_bytes(row.bytes), done)
        print_table(shown)
    out.print(Text(f"places compared by {result.check}: ") + styled(result.state))
    were = "not" if result.dry_run else "were not"
    rows = f"{len({row.id for row in result.backups})} backups, {len(result.lacking)} copies {were} whole"
    out.print(f"  {rows}, {result.marks} marks and reports to bring" if result.dry_run else f"  {rows}")
    for cost in result.costs:
        took = f"{cost.listed:,} names listed, {cost.checksums:,} checksums asked, {as_bytes(cost.bytes_read)} read"
        out.print(f"  {cost.place}: {took}, {as_bytes(cost.bytes_brought)} brought there")
    for verified in result.verified:
        print_problems(verified.problems)
    for backup_id in result.damaged:
        out.print(Text("problem  ", style="red") + Text(f"{backup_id}: {_NOWHERE.replace('these', 'it')}"))
