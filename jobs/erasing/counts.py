"""What an erasure comes to in figures: rows and changes of tables, objects in places, and what holds the same bytes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.erasing.holdings import Holdings
from jobs.erasing.search import Searched
from jobs.erasing.subject import Found
from jobs.postgres.identifiers import TableName
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What becomes of one table: `keys` rows as their primary key tells them apart, so many versions of them in backups
    by kind, `changes` of them in windows; `unlinked` rows lose a reference to them.
    """

    table: TableName
    how: str
    keys: int
    rows: dict[str, int]
    changes: int
    unlinked: int


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """What is to be written anew in one place; `kept` of the backups have a keep mark, which is no hindrance."""

    place: str
    backups: int
    kept: int
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Mention:
    """Rows, or changes, that hold the same bytes and stay: how many, in which column, in backups of this kind."""

    kind: str
    table: str
    column: str
    count: int


def table_plan(found: Found, holdings: Holdings, searched: Searched) -> TablePlan:
    """What was found of one table."""
    rows: Counter[str] = Counter()
    changes = unlinked = 0
    # A backup's copies in several places are one, unless they were rewritten apart.
    once = {(held.manifest.id, one.key): one for held in holdings.held for one in held.readings}
    for reading in once.values():
        if reading.what == "window" and reading.key in searched.windows:
            number = searched.windows[reading.key].changes.get(found.table, 0)
            changes += number if found.is_sought else 0
            unlinked += 0 if found.is_sought else number
        elif reading.table is not None and reading.table.oid in found.oids and reading.key in searched.rows:
            count = searched.rows[reading.key]
            rows[reading.kind] += count.concerned if reading.what == "rows" else 0
            unlinked += count.unlinked
    keys = len(found.values.listed(found.keys[0])) if found.keys and found.is_sought else 0
    does = ("erased" if found.how == "drop" else "anonymised") if found.is_sought else "unlinked"
    return TablePlan(found.table, does, keys, dict(rows), changes, unlinked)


def place_plans(repositories: Sequence[Repository], holdings: Holdings, searched: Searched) -> tuple[PlacePlan, ...]:
    """What would be written anew in each place."""
    plans = []
    for repository in repositories:
        backups, kept, objects, size = set(), set(), 0, 0
        for held in holdings.held:
            for reading in held.readings if held.repository is repository else ():
                if searched.changed(reading):
                    backups.add(held.manifest.id)
                    kept |= {held.manifest.id} if held.kept else set()
                    objects += len(reading.part.objects)
                    size += reading.bytes
        plans.append(PlacePlan(repository.place, len(backups), len(kept), objects, size))
    return tuple(plans)


def mentions(holdings: Holdings, searched: Searched) -> tuple[Mention, ...]:
    """Rows and changes elsewhere that hold the same bytes; counted once, however many backups and places share them."""
    found: Counter[tuple[str, str, str]] = Counter()
    for key, reading in holdings.readings.items():
        if reading.what == "window" and key in searched.windows:
            for (table, column), count in searched.windows[key].mentions.items():
                found["window", table, column] += count
        elif reading.table is not None and key in searched.rows:
            name = str(TableName(reading.table.schema_name, reading.table.name))
            for column, count in searched.rows[key].mentions.items():
                found[reading.kind, name, column] += count
    return tuple(Mention(*where, count) for where, count in sorted(found.items()))


def in_definitions(count: int) -> tuple[Mention, ...]:
    """So many different sets of definitions hold the same bytes: in a comment, a default, a partition's bound."""
    return (Mention("full", "schema.sql", "", count),) if count else ()
