"""How an erasure looks: what it would do before, what it came to after. No value of any row is shown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from daemon.output.console import (
    as_bytes,
    err,
    out,
    places_text,
    print_json,
    print_table,
    print_warnings,
    styled,
    table,
)
from jobs.erase import EraseResult, rewritten
from jobs.erasing.checking import Remaining
from jobs.erasing.counts import Mention, TablePlan
from jobs.erasing.locks import StillLocked, Superseded, by_place, last_until
from jobs.erasing.plan import ErasePlan
from storage.erasures import Erasure


def print_plan(plan: ErasePlan, *, as_result: bool) -> None:
    """What an erasure is about to do: a table a line, then a place a line, then what stays.

    It is the result of a dry run, else what a person is asked about.
    """
    to = out if as_result else err
    shown = table("erase from the backups", "table", "what becomes of them", ">keys", ">rows", ">changes", ">unlinked")
    for one in plan.tables:
        shown.add_row(
            Text(str(one.table)), one.how, f"{one.keys:,}", _rows(one), f"{one.changes:,}", f"{one.unlinked:,}"
        )
    print_table(shown, to)
    for place in plan.places:
        to.print(
            f"  in {place.place}: {place.objects:,} objects of {place.backups:,} backups"
            f" are written anew ({as_bytes(place.bytes)})"
            + (f"; {place.kept:,} of them are kept, and erased from all the same" if place.kept else "")
        )
    for name, locked in by_place(plan.locked).items():
        to.print(Text(f"  in {name}: ") + Text(_locked_text(locked), style="yellow"))
    for mention in plan.mentions:
        to.print(
            Text("  stays: ", style="yellow")
            + Text(f"the same bytes in {mention.count:,} of {_where(mention)} ({mention.kind})")
        )

    for said in plan.not_looked_through:
        to.print(Text("  not looked through for the same bytes: ", style="yellow") + Text(said))


def _locked_text(locked: Sequence[StillLocked]) -> str:
    ends = _ends(locked)
    return f"{len(locked):,} of the objects are locked, the last {ends}: rowvault erase --resume removes them then"


def _ends(locked: Sequence[StillLocked]) -> str:
    until = last_until(locked)
    return f"until {until.isoformat(timespec='seconds')}" if until else "until a hold is lifted"


def _by_backup(locked: Sequence[StillLocked]) -> dict[tuple[str, str], list[StillLocked]]:
    """By place and backup: there may be thousands; each is in the JSON."""
    found: dict[tuple[str, str], list[StillLocked]] = {}
    for one in locked:
        found.setdefault((one.place, one.object.split("/")[1]), []).append(one)
    return found


def _where(mention: Mention) -> str:
    return f"{mention.table}.{mention.column}" if mention.column else f"the definitions, {mention.table}"


def _rows(one: TablePlan) -> str:
    return ", ".join(f"{count:,} in {kind}" for kind, count in one.rows.items() if count) or "0"


def plan_document(plan: ErasePlan) -> dict[str, Any]:
    """What an erasure would do, as JSON shows it."""
    return {
        "moment": plan.until.moment,
        "alive": [asdict(one) | {"table": str(one.table)} for one in plan.alive],
        "tables": [asdict(one) | {"table": str(one.table)} for one in plan.tables],
        "places": [asdict(one) for one in plan.places],
        "elsewhere": [asdict(one) for one in plan.mentions],
        "not_looked_through": [*plan.not_looked_through],
        "locked": [asdict(one) for one in plan.locked],
        "dry_run": True,
    }


def show_results(results: Sequence[EraseResult], plan: ErasePlan | None, *, as_json: bool) -> None:
    """What erasures came to; `plan` is that of the only one, if it was not resumed."""
    documents = [asdict(one) for one in results]
    if as_json:
        print_json(documents if plan is None else plan_document(plan) | documents[0] | {"dry_run": False})
        return
    for result in results:
        told = ", ".join(f"{count} in {place}" for place, count in rewritten(result.revisions).items())
        out.print(Text(f"{result.id}: ") + styled(result.state) + Text(f"; backups rewritten: {told or 'none'}"))
        out.print(Text("  ") + places_text(result.places))
        for (place, backup_id), locked in _by_backup(result.locked).items():
            told = f"{place}: {len(locked):,} objects of {backup_id} are locked, the last {_ends(locked)}"
            out.print(Text(f"  {told}", style="yellow"))
        for damaged in result.damaged:
            out.print(Text(f"  {damaged.place}: {damaged.backup} is not whole: {damaged.error}", style="yellow"))
        if result.damaged:
            lost = " ".join(dict.fromkeys(damaged.backup for damaged in result.damaged))
            out.print(f"  make them good by rowvault sync --check read, or let them go: rowvault prune {lost}")
        print_warnings(result.notes)
        if result.state == "warning":
            out.print("  what could not be reached or removed is still to come: rowvault erase --resume")
    if not results:
        out.print("there is nothing to finish")


def show_check(
    erasure: Erasure, remaining: Sequence[Remaining], earlier: Sequence[Superseded], *, as_json: bool
) -> None:
    """What is left of an erasure: in backups, and in objects of earlier revisions that could not be removed yet."""
    if as_json:
        print_json(
            {
                "id": erasure.id,
                "state": erasure.state,
                "remaining": [asdict(one) for one in remaining],
                "earlier_revisions": [
                    {"place": one.place, "object": one.object, "locked": one.lock is not None}
                    | {"until": one.lock.until if one.lock else None}
                    for one in earlier
                ],
            }
        )
        return
    for one in remaining:
        out.print(Text(f"{one.place}: {one.object}: {one.count} of {one.backup}", style="red"))
    for place, count in Counter(one.place for one in earlier).items():
        locked = [StillLocked(place, one.object, one.lock.until) for one in earlier if one.place == place and one.lock]
        why = f", {len(locked):,} of them locked, the last {_ends(locked)}" if locked else ""
        out.print(Text(f"{place}: {count:,} objects of earlier revisions are still there{why}", style="red"))
    left = "something is left: rowvault erase --resume" if remaining or earlier else "nothing is left"
    out.print(f"{erasure.id}: {left}")
