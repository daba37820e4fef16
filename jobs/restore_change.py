"""Plans a restore into tables that exist, or beside them: what each table would go through, and what forbids it.

Making a plan changes nothing. Whoever carries it out (`restore_existing`) looks again once the tables are locked.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.errors import UnsafeTarget
from jobs.postgres.changing import count_rows
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.ddl import ArchiveEntry, archive_entries, dump_definitions
from jobs.postgres.identifiers import TableName
from jobs.postgres.live_constraints import (
    LiveConstraint,
    LiveForeignKey,
    read_live_foreign_keys,
    read_loose_constraints,
)
from jobs.postgres.live_tables import LiveTable, read_live_tables, read_publications
from jobs.postgres.rights import roles_out_of_reach
from jobs.postgres.target import TargetState
from jobs.postgres.tools import Tools
from jobs.restore_entries import absent, for_tables, owner_of, wanted_entries
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
    `rows` those of the one key that is wanted.
    """

    manifest: Manifest
    target: Source
    scope: Scope
    state: TargetState
    tools: Tools
    changes: tuple[TableChange, ...]
    aside: tuple[LiveConstraint, ...]
    keys: tuple[LiveForeignKey, ...]
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
        loose = await read_loose_constraints(connection, [one.oid for one in live.values()])
        counts = rows.counts if rows else await _counts(connection, live.values())
        publications = await read_publications(connection)
        if scope.into_schema is not None:
            await _refuse_what_is_beside(connection, scope.into_schema, names)
    inside, outside = _split(keys, live)
    changes = tuple(_change(table, scope, live, counts, outside) for table in tables)
    for change in changes:
        _refuse_unless_fit(change, scope)
    _refuse_part_of_a_whole(manifest, state, changes)
    missing = await _missing(manifest, target, state, scope, tools, archive, changes)
    await _refuse_owners_out_of_reach(target, state, missing)
    return ChangePlan(
        manifest=manifest,
        target=target,
        scope=scope,
        state=state,
        tools=tools,
        changes=changes,
        aside=() if scope.into_schema else (*loose, *(() if scope.key else inside)),
        keys=keys,
        missing=missing,
        rows=rows,
        warnings=_warnings(changes, publications),
    )


async def _counts(connection: Connection, tables: Iterable[LiveTable]) -> dict[TableName, int]:
    """The rows of each table, but of those that hide some from this role."""
    return {one.table: await count_rows(connection, one.table) for one in tables if not one.filtered}


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
    """Foreign keys to be taken away for a while, and those by which tables outside are children of restored ones.

    Taken away are those whose both ends are restored, and those of restored tables that rows may break.
    """
    touched = {oid for table in live.values() for oid in table.line}
    inside = tuple(key for key in keys if key.table_oid in touched and (key.references_oid in touched or key.loose))
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
    return TableChange(
        table, _how(scope, there, bool(children)), into, there, counts.get(name, None if there else 0), children
    )


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


def _refuse_part_of_a_whole(manifest: Manifest, state: TargetState, changes: Sequence[TableChange]) -> None:
    """Rows that find their partitions by themselves want all of these, empty."""
    chosen = {change.stored.oid for change in changes}
    for change in changes:
        root = change.through_root
        if root is None or change.staged:
            continue
        if any(one.load_into == change.stored.load_into and one.oid not in chosen for one in manifest.tables):
            raise UnsafeTarget(
                f"rows of {change.into} may belong to another partition of {root} here", f"restore {root} (--table)"
            )
        if change.live is None and root in state.tables:
            raise UnsafeTarget(
                f"{change.into} is gone, and rows of {root} may belong to any of its partitions here",
                f"put the backup beside it with --into-schema, or drop {root} and restore it",
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


async def _refuse_owners_out_of_reach(target: Source, state: TargetState, missing: Sequence[ArchiveEntry]) -> None:
    """What is made must be given to who owned it, which takes a membership in that role."""
    owners = {owner_of(entry.text, state.roles) for entry in missing} - {""}
    if owners:
        async with session(target, "restore") as connection:
            beyond = await roles_out_of_reach(connection, sorted(owners))
        if beyond:
            raise UnsafeTarget(
                f"the role may not give what is made again to its owners: {', '.join(beyond)}",
                "GRANT these roles to it, or connect as a superuser",
            )


def _warnings(changes: Sequence[TableChange], publications: Sequence[str]) -> tuple[str, ...]:
    warnings = []
    for change in changes:
        live = change.live
        if change.how == "create" and publications:
            warnings.append(
                f"{change.into} is in no publication when it is made again: where it was in one, say"
                f" ALTER PUBLICATION … ADD TABLE (there are {', '.join(publications)})"
            )
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
