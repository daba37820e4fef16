"""Plans a restore into tables that exist, or beside them: what each table would go through, and what forbids it.

Making a plan changes nothing. Whoever carries it out (`restore_existing`) looks again once the tables are locked.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from jobs.postgres.changing import count_rows
from jobs.postgres.connection import Connection, Source
from jobs.postgres.ddl import ArchiveEntry, archive_entries, dump_definitions
from jobs.postgres.identifiers import TableName
from jobs.postgres.live_constraints import (
    LiveForeignKey,
    read_live_foreign_keys,
    read_loose_constraints,
)
from jobs.postgres.live_tables import LiveTable, read_live_tables, read_publications
from jobs.postgres.target import TargetState
from jobs.postgres.tools import Tools
from jobs.restoring.entries import absent, for_tables, wanted_entries
from jobs.restoring.key import count_key
from jobs.restoring.plan import ChangePlan, How, TableChange
from jobs.restoring.refusals import (
    refuse_owners_out_of_reach,
    refuse_part_of_a_whole,
    refuse_unless_fit,
    refuse_what_is_beside,
    without_tablespaces,
)
from jobs.scope import Mode, Scope, chosen_tables
from jobs.temporary import temporary_folder
from storage.manifest import Manifest, Table


async def plan_change(
    manifest: Manifest,
    target: Source,
    connection: Connection,
    state: TargetState,
    scope: Scope,
    archive: AbstractAsyncContextManager[Path],
    find_tools: Callable[[], Tools],
) -> ChangePlan:
    """Look at the target's tables and decide what happens to each; raises `UnsafeTarget` where it would do harm.

    The archive and the tools are needed only where definitions may be missing. The rows of a key are found later.
    """
    tables = chosen_tables(manifest, scope.tables)
    names = [TableName(table.schema_name, table.name) for table in tables]
    live = await read_live_tables(connection, names)
    keys = await read_live_foreign_keys(connection, [oid for one in live.values() for oid in one.line])
    loose = await read_loose_constraints(connection, [one.oid for one in live.values()])
    counts = await _counts(connection, live.values(), scope.key)
    publications = await read_publications(connection)
    if scope.into_schema is not None:
        await refuse_what_is_beside(connection, scope.into_schema, names)
    inside, outside = _split(keys, live)
    changes = tuple(_change(table, scope, live, counts, outside) for table in tables)
    for change in changes:
        refuse_unless_fit(change, scope)
    refuse_part_of_a_whole(manifest, state, changes)
    missing: tuple[ArchiveEntry, ...] = ()
    tools: Tools | None = None
    if scope.is_everything or any(change.how == "create" for change in changes):
        tools = await asyncio.to_thread(find_tools)
        async with archive as path:
            missing = await _missing(manifest, target, state, scope, tools, path, changes)
        await refuse_owners_out_of_reach(connection, state, missing)
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
        rows=None,
        lasting=_lasting(changes, publications) + (without_tablespaces(manifest, state) if missing else ()),
        meanwhile=_meanwhile(changes),
    )


async def _counts(connection: Connection, tables: Iterable[LiveTable], key: Mapping[str, str]) -> dict[TableName, int]:
    """The rows of each table, or those of the key, but of tables that hide some from this role."""
    seen = [one for one in tables if not one.filtered]
    if key:
        return {one.table: await count_key(connection, one, key) for one in seen}
    return {one.table: await count_rows(connection, one.table) for one in seen}


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
    schemas = manifest.dump.schemas
    entries = wanted_entries(
        await archive_entries(tools, archive), schemas, state.existing_schemas, state.existing_extensions, ()
    )
    with temporary_folder() as folder:
        there = folder / "there.dump"
        existing = sorted(state.existing_schemas & set(schemas))
        found: list[ArchiveEntry] = []
        if existing:  # without a schema, pg_dump takes all there are
            await dump_definitions(tools, target, existing, there)
            found = await archive_entries(tools, there)
        lacking = absent((*entries.making, *entries.rights), found, state.roles)
    return lacking if scope.is_everything else for_tables(lacking, gone, state.roles)


def _lasting(changes: Sequence[TableChange], publications: Sequence[str]) -> tuple[str, ...]:
    """What is to be known after the restore as well."""
    warnings = []
    for change in changes:
        if change.how == "create" and publications:
            warnings.append(
                f"{change.into} is in no publication when it is made again: where it was in one, say"
                f" ALTER PUBLICATION … ADD TABLE (there are {', '.join(publications)})"
            )
        live = change.live
        if live is None or change.how == "beside":
            continue
        known = {column.name for column in change.stored.columns}
        if more := [column.name for column in live.columns if column.name not in known and not column.generated]:
            how = "get their defaults" if change.how == "replace" else "stay as they are, new rows get defaults"
            warnings.append(f"columns of {live.table} that are newer than the backup {how}: {', '.join(more)}")
    return tuple(warnings)


def _meanwhile(changes: Sequence[TableChange]) -> tuple[str, ...]:
    """What is to be known before a person says yes, and is over afterwards."""
    notices = []
    for change in changes:
        live = change.live
        if live is None or change.how == "beside":
            continue
        if live.publications:
            notices.append(f"changes of {live.table} are broadcast by publication {', '.join(live.publications)}")
        if change.how == "change" and change.children:
            children = ", ".join(sorted({str(key.table) for key in change.children}))
            notices.append(
                f"{children} refer to {live.table}: if they need a row that the backup does not have, nothing is done"
            )
        if change.how == "replace":
            notices.append(f"{live.table} can be neither read nor written until all is restored")
        if change.how == "replace" and live.readers:
            notices.append(f"views that read {live.table} show the restored rows: {', '.join(live.readers)}")
    return tuple(notices)
