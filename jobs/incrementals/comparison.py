"""How each table is compared with what is known of it: by the transactions of its rows, by a column, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from jobs.errors import Unexplained
from jobs.incrementals.difference_chain import Previous
from jobs.postgres.written import stamped_since, written_since
from storage.manifest import Table

STAMP = "timestamp with time zone"


@dataclass(frozen=True, slots=True)
class Stamps:
    """Columns that say when a row was written, the first that a table has counts, and how long before the last backup
    the oldest transaction may have begun whose rows were not there yet.
    """

    columns: Sequence[str] = ("updated_at",)
    overlap: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one table is compared, and why so. `written` is an SQL condition, true of rows that may be new.

    By `timestamp` rows that were changed without their column are not seen.
    """

    method: Literal["xmin", "timestamp", "whole"]
    reason: str
    written: str


def comparison(table: Table, previous: Previous, reason: str, stamps: Stamps | None) -> Comparison:
    """How a table is compared. `reason`: why it is not in the change log; without `stamps` no column is believed.

    Raises `Unexplained` where a column was believed before: what it did not tell of would never be seen.
    """
    how = _comparison(table, previous, reason, stamps)
    if how.method == "xmin" and any(one.method == "timestamp" for one in previous.known(table).since):
        raise Unexplained(
            f"{table.schema_name}.{table.name} was followed by a column, which does not tell of all that changed",
            "a full backup has it",
        )
    return how


def _comparison(table: Table, previous: Previous, reason: str, stamps: Stamps | None) -> Comparison:
    by_xmin = written_since(previous.snapshot.xmin)
    if table.keys is None:
        return Comparison("whole", reason if table.primary_key else "it has no primary key", by_xmin)
    if stamps is None:
        return Comparison("xmin", reason, by_xmin)
    types = {column.name: column.type for column in table.columns}
    column = next((name for name in stamps.columns if types.get(name) == STAMP), None)
    if column is None:
        return Comparison("xmin", f"it has none of the columns {', '.join(stamps.columns)} as {STAMP}", by_xmin)
    return Comparison("timestamp", f"by {column}", stamped_since(column, previous.moment - stamps.overlap))
