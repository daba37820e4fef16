"""What a person wants restored: everything, tables, or the rows of one key; in which way, and where to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs.errors import NotThere
from jobs.postgres.identifiers import TableName, parse_table
from storage.manifest import Manifest, Table

Mode = Literal["replace", "insert-missing", "upsert"]


@dataclass(frozen=True, slots=True)
class Scope:
    """No `tables` means everything. `key` are values by column, of one table alone.

    `replace` makes tables (or the row) what they were; `insert-missing` adds rows whose key is gone; `upsert` also
    changes those whose key is there, and deletes none. `into_schema`: beside the live tables, to be looked at first.
    """

    tables: tuple[str, ...] = ()
    key: Mapping[str, str] = field(default_factory=dict)
    mode: Mode = "replace"
    into_schema: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether it is the whole backup, as it was."""
        return not self.tables and self.mode == "replace" and self.into_schema is None


def chosen_tables(manifest: Manifest, names: Sequence[str]) -> tuple[Table, ...]:
    """The backup's tables that are meant; a partitioned table stands for its leaves.

    Raises `NotThere` for one that the backup does not have, `BadName` for what is no table's name.
    """
    if not names:
        return manifest.tables
    leaves = tables_by_name(manifest)
    chosen: dict[int, Table] = {}
    for text in names:
        try:
            name = parse_table(text, tuple(leaves))
        except LookupError as error:
            raise NotThere(
                f"backup {manifest.id} has no table {text}", f"rowvault show {manifest.id} lists its tables"
            ) from error
        chosen |= {table.oid: table for table in leaves[name]}
    return tuple(table for table in manifest.tables if table.oid in chosen)


def tables_by_name(manifest: Manifest) -> dict[TableName, list[Table]]:
    """What each name in a backup stands for: the table itself, or the leaves of a partitioned one."""
    return {TableName(table.schema_name, table.name): [table] for table in manifest.tables} | _partitioned(manifest)


def _partitioned(manifest: Manifest) -> dict[TableName, list[Table]]:
    """The leaves of every partitioned table, through all levels."""
    roots = {TableName(one.schema_name, one.name) for one in manifest.schema_only if one.kind == "partitioned table"}
    parents = {str(name): name for name in roots}
    above = {str(TableName(one.schema_name, one.name)): one.partition_of for one in manifest.schema_only}
    found: dict[TableName, list[Table]] = {name: [] for name in roots}
    for table in manifest.tables:
        parent = table.partition_of
        while parent is not None and parent in parents:
            found[parents[parent]].append(table)
            parent = above.get(parent)
    return found
