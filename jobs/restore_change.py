"""Plans a restore into tables that exist, or beside them: what each table would go through, and what forbids it.

Making a plan changes nothing. Whoever carries it out (`restore_existing`) looks again once the tables are locked.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.errors import UnsafeTarget
from jobs.postgres.changing import count_rows
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.ddl import ArchiveEntry, archive_entries, dump_definitions
from jobs.postgres.identifiers import TableName
from jobs.postgres.live_tables import (
    LiveForeignKey,
    LiveTable,
    read_live_foreign_keys,
    read_live_tables,
)
from jobs.postgres.target import TargetState
from jobs.postgres.tools import Tools
from jobs.restore_entries import absent, for_tables, wanted_entries
from jobs.restore_key import FoundRows
from jobs.restore_scope import Mode, Scope, chosen_tables
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
    """What happens to one table. `live` is how it is now (None: it is not there), `rows_now` what it holds.

    `children` are foreign keys of tables outside the restore that point to it.
    """

    stored: Table
    how: How
    into: TableName
    live: LiveTable | None
    rows_now: int
    children: tuple[LiveForeignKey, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are in the data."""
        return tuple(column.name for column in self.stored.columns if not column.generated)

    @property
    def staged(self) -> bool:
        """Whether its rows go into a temporary table first, to be compared with what is there."""
        return self.how in {"change", "insert", "upsert"}


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """What a restore into an existing database will do, for a person to look at first.

    `keys_inside` are foreign keys whose both ends are restored, `missing` the definitions that the target lacks, `rows`
    those of the one key that is wanted.
    """

    manifest: Manifest
    target: Source
    scope: Scope
    state: TargetState
    tools: Tools
    changes: tuple[TableChange, ...]
    keys_inside: tuple[LiveForeignKey, ...]
    missing: tuple[ArchiveEntry, ...]
    rows: FoundRows | None
    warnings: tuple[str, ...]

    @property
    def bytes_raw(self) -> int:
        """Bytes of COPY text that have to be read."""
        return sum(change.stored.bytes_raw for change in self.changes)


async def plan_change(
    manifest: Manifest,
    target: Source,
    state: TargetState,
    scope: Scope,
    tools: Tools,
    archive: Path,
    rows: FoundRows | None,
) -> ChangePlan:
    """Look at the target's tables and decide what happens to each; raises `UnsafeTarget` where it would do harm."""
    tables = chosen_tables(manifest, scope.tables)
    names = [TableName(table.schema_name, table.name) for table in tables]
    async with session(target, "restore") as connection:
        live = await read_live_tables(connection, names)
        keys = await read_live_foreign_keys(connection, [oid for one in live.values() for oid in one.line])
        counts = rows.counts if rows else {name: await count_rows(connection, name) for name in live}
        if scope.into_schema is not None:
            await _refuse_what_is_beside(connection, scope.into_schema, names)
    inside, outside = _split(keys, live)
    changes = tuple(_change(table, scope, live, counts, outside) for table in tables)
    for change in changes:
        _refuse_unless_fit(change, scope)
    missing = await _missing(manifest, target, state, scope, tools, archive, changes)
    return ChangePlan(
        manifest=manifest,
        target=target,
        scope=scope,
        state=state,
        tools=tools,
        changes=changes,
        keys_inside=() if scope.key or scope.into_schema else inside,
        missing=missing,
        rows=rows,
        warnings=_warnings(changes, missing),
    )


async def _refuse_what_is_beside(connection: Connection, schema: str, names: Sequence[TableName]) -> None:
    beside = [TableName(schema, name.name) for name in names]
    if len(set(beside)) < len(beside):
        raise UnsafeTarget("tables of one name cannot both go into one schema", "restore them one by one: --table")
    there = await read_live_tables(connection, beside)
    if there:
        raise UnsafeTarget(
            f"{', '.join(map(str, there))} is there already", "choose another --into-schema, or drop what is there"
        )


def _split(
    keys: Sequence[LiveForeignKey], live: Mapping[TableName, LiveTable]
) -> tuple[tuple[LiveForeignKey, ...], tuple[LiveForeignKey, ...]]:
    """Foreign keys whose both ends are restored, and those by which tables outside are children of restored ones."""
    touched = {oid for table in live.values() for oid in table.line}
    inside = tuple(key for key in keys if key.table_oid in touched and key.references_oid in touched)
    outside = tuple(key for key in keys if key.table_oid not in touched)
    return inside, outside


def _change(
    table: Table,
    scope: Scope,
    live: Mapping[TableName, LiveTable],
    counts: Mapping[TableName, int],
    outside: Sequence[LiveForeignKey],
) -> TableChange:
    name = TableName(table.schema_name, table.name)
    there = live.get(name)
    children = tuple(key for key in outside if there and key.references_oid in there.line)
    into = TableName(scope.into_schema, table.name) if scope.into_schema is not None else name
    return TableChange(table, _how(scope, there, bool(children)), into, there, counts.get(name, 0), children)


def _how(scope: Scope, live: LiveTable | None, has_children: bool) -> How:
    if scope.into_schema is not None:
        return "beside"
    if live is None:
        return "create"
    by_mode: dict[Mode, How] = {"insert-missing": "insert", "upsert": "upsert"}
    if scope.mode in by_mode:
        return by_mode[scope.mode]
    if scope.key:
        return "upsert"
    return "change" if has_children else "replace"


def _refuse_unless_fit(change: TableChange, scope: Scope) -> None:
    live, name = change.live, TableName(change.stored.schema_name, change.stored.name)
    if change.how in {"create", "beside"} or live is None:
        return
    if not live.owned:
        raise UnsafeTarget(
            f"the role does not own {name}, so it cannot hold its triggers and foreign keys still",
            "connect as its owner, or a role that is a member of it",
        )
    if live.kind != "r":
        raise UnsafeTarget(f"{name} is no ordinary table any more", "use --into-schema to put the backup beside it")
    _refuse_other_shape(change, live)
    if change.staged and not live.key:
        why = f"{change.children[0].table} refers to it" if change.how == "change" else f"--mode {scope.mode}"
        raise UnsafeTarget(
            f"{name} has no primary key, by which its rows could be told apart ({why})",
            "use --into-schema to put the backup beside it",
        )
    if change.staged and change.stored.load_into:
        raise UnsafeTarget(
            f"rows of {name} may belong to another partition here, so they cannot be compared with what is there",
            "use --into-schema to put the backup beside it",
        )


def _refuse_other_shape(change: TableChange, live: LiveTable) -> None:
    hint = "use --into-schema to put the backup beside it, and bring over by hand what fits"
    for column in change.stored.columns:
        there = live.column(column.name)
        if there is None:
            raise UnsafeTarget(f"{live.table} has no column {column.name} any more", hint)
        if (there.type, there.generated) != (column.type, column.generated):
            raise UnsafeTarget(
                f"column {column.name} of {live.table} is {there.type} now, and was {column.type} in the backup", hint
            )
    known = {column.name for column in change.stored.columns}
    for there in live.columns:
        if there.required and there.name not in known:
            raise UnsafeTarget(
                f"column {there.name} of {live.table} is new, may not be null and has no default",
                f"give it a default for the time of the restore, or {hint}",
            )


async def _missing(
    manifest: Manifest,
    target: Source,
    state: TargetState,
    scope: Scope,
    tools: Tools,
    archive: Path,
    changes: Sequence[TableChange],
) -> tuple[ArchiveEntry, ...]:
    """The definitions to make: of tables that are gone and what belongs to them, or of all that is gone."""
    gone = [change.into for change in changes if change.how == "create"]
    if not gone and not scope.is_everything:
        return ()
    schemas = manifest.dump.schemas
    entries = wanted_entries(
        await archive_entries(tools, archive), schemas, state.existing_schemas, state.existing_extensions, ()
    )
    with tempfile.TemporaryDirectory(prefix="rowvault-") as folder:
        there = Path(folder) / "there.dump"
        existing = sorted(state.existing_schemas & set(schemas))
        found: list[ArchiveEntry] = []
        if existing:  # without a schema, pg_dump takes all there are
            await dump_definitions(tools, target, existing, there)
            found = await archive_entries(tools, there)
        lacking = absent((*entries.making, *entries.rights), found, state.roles)
    return lacking if scope.is_everything else for_tables(lacking, gone, state.roles)


def _warnings(changes: Sequence[TableChange], missing: Sequence[ArchiveEntry]) -> tuple[str, ...]:
    warnings = []
    for change in changes:
        live = change.live
        if live is None or change.how == "beside":
            continue
        known = {column.name for column in change.stored.columns}
        if more := [column.name for column in live.columns if column.name not in known and not column.generated]:
            how = "get their defaults" if change.how == "replace" else "stay as they are, new rows get defaults"
            warnings.append(f"columns of {live.table} that are newer than the backup {how}: {', '.join(more)}")
        if live.publications:
            warnings.append(f"changes of {live.table} are broadcast by publication {', '.join(live.publications)}")
        if change.how == "replace" and live.readers:
            warnings.append(f"views that read {live.table} show the restored rows: {', '.join(live.readers)}")
    return tuple(warnings)
