"""What a restore into tables that exist, or beside them, will do: for a person to look at first."""

from dataclasses import dataclass
from typing import Literal

from jobs.postgres.connection import Source
from jobs.postgres.ddl import ArchiveEntry
from jobs.postgres.identifiers import TableName
from jobs.postgres.live_constraints import (
    LiveConstraint,
    LiveForeignKey,
)
from jobs.postgres.live_tables import LiveTable
from jobs.postgres.target import TargetState
from jobs.postgres.tools import Tools
from jobs.restoring.key import FoundRows
from jobs.scope import Scope
from storage.manifest import Manifest, Table

How = Literal["create", "replace", "change", "insert", "upsert", "beside"]

SAYS: dict[How, str] = {
    "create": "made again, with all that belongs to it",
    "replace": "emptied and filled",
    "change": "changed row by row; rows that are not in the backup are deleted",
    "insert": "rows whose key is gone are added",
    "upsert": "rows are added or changed, none is deleted",
    "beside": "put beside the live table",
}


@dataclass(frozen=True, slots=True)
class TableChange:
    """What happens to one table. `live` is how it is now (None: it is not there), `rows_now` what it holds (None: row
    security hides it until it is locked).

    `children` are foreign keys of tables outside the restore that point to it.
    """

    stored: Table
    how: How
    into: TableName
    live: LiveTable | None
    rows_now: int | None
    children: tuple[LiveForeignKey, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are in the data."""
        return tuple(column.name for column in self.stored.columns if not column.generated)

    @property
    def through_root(self) -> TableName | None:
        """The partitioned table through which its rows go in, as they may belong to another partition here."""
        place = self.stored.load_into
        return TableName(place.schema_name, place.name) if place is not None and self.how != "beside" else None

    @property
    def staged(self) -> bool:
        """Whether its rows go into a temporary table first, to be compared with what is there."""
        return self.how in {"change", "insert", "upsert"}


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """What a restore into an existing database will do, for a person to look at first.

    `aside` are constraints that are taken away for the time of it: foreign keys whose both ends are restored, and what
    is NOT VALID; `keys` all foreign keys from and to the tables. `missing` are definitions that the target lacks,
    `tools` what makes them (None: nothing is to be made), `rows` those of the one key that is wanted.
    """

    manifest: Manifest
    target: Source
    scope: Scope
    state: TargetState
    tools: Tools | None
    changes: tuple[TableChange, ...]
    aside: tuple[LiveConstraint, ...]
    keys: tuple[LiveForeignKey, ...]
    missing: tuple[ArchiveEntry, ...]
    rows: FoundRows | None
    lasting: tuple[str, ...]
    meanwhile: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that a person should know beforehand; `lasting` is what still holds afterwards."""
        return self.lasting + self.meanwhile

    @property
    def bytes_raw(self) -> int:
        """Bytes of COPY text that have to be read."""
        if self.rows is not None:
            return len(self.rows.text)
        return sum(change.stored.bytes_raw for change in self.changes)
