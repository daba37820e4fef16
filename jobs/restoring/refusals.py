"""What forbids a restore, into an empty database or tables that exist: each refusal says why, and what to do."""

from collections.abc import Sequence

from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Connection, Source
from jobs.postgres.ddl import ArchiveEntry
from jobs.postgres.identifiers import TableName
from jobs.postgres.live_tables import LiveTable, read_live_tables
from jobs.postgres.rights import roles_out_of_reach
from jobs.postgres.target import TargetState
from jobs.restoring.entries import owner_of
from jobs.restoring.plan import TableChange
from jobs.scope import Scope
from storage.manifest import Manifest


def refuse_unfinished(target: Source, state: TargetState) -> None:
    """Raise `UnsafeTarget` if the target holds what an interrupted restore left."""
    if state.unfinished:
        raise UnsafeTarget(
            f"{target.where} holds an unfinished restore of {state.unfinished}",
            "drop that database and create it again, then restore",
        )


def refuse_what_is_lacking(manifest: Manifest, target: Source, state: TargetState) -> None:
    """Raise `UnsafeTarget` if the target's server lacks what definitions of the backup need."""
    source_major = manifest.source.server_version_num // 10_000
    if state.major < source_major:
        raise UnsafeTarget(
            f"{target.where} is PostgreSQL {state.major}, the backup comes from {source_major}",
            f"restore into PostgreSQL {source_major} or newer",
        )
    if missing := sorted(set(manifest.dump.roles) - state.roles):
        raise UnsafeTarget(
            f"{target.where} lacks roles that own or may use what is restored: {', '.join(missing)}",
            f"create them first; their definitions are in {manifest.dump.roles_sql.name}",
        )
    if missing := sorted(set(manifest.dump.servers) - state.servers):
        raise UnsafeTarget(
            f"{target.where} lacks foreign servers that foreign tables of the backup need: {', '.join(missing)}",
            "create them first (CREATE SERVER); a backup does not hold them, for their options may be secret",
        )
    wanted = {extension.name for extension in manifest.dump.extensions}
    if missing := sorted(wanted - state.available_extensions - state.existing_extensions):
        raise UnsafeTarget(
            f"{target.where} cannot have extensions of the backup: {', '.join(missing)}",
            "install their packages on that server",
        )


def lacking_tablespaces(manifest: Manifest, state: TargetState) -> list[str]:
    """Tablespaces of the backup that the target's server has not; then none is used."""
    return sorted(set(manifest.dump.tablespaces) - state.tablespaces)


def without_tablespaces(manifest: Manifest, state: TargetState) -> tuple[str, ...]:
    """What a person should know where tablespaces are lacking."""
    lacking = ", ".join(lacking_tablespaces(manifest, state))
    return (f"all goes to the database's own tablespace, for its server lacks {lacking}",) if lacking else ()


ROOM = 1.5
"""Bytes on a server's disk for each byte of COPY text: rows with their headers, indexes, the write-ahead log."""


def refuse_without_room(target: Source, state: TargetState, bytes_raw: int) -> None:
    """Raise `UnsafeTarget` if the target's disk, where it can be seen, has no room for so much COPY text."""
    needed = round(bytes_raw * ROOM)
    if state.free_bytes is not None and state.free_bytes < needed:
        raise UnsafeTarget(
            f"the disk of {target.where} has {state.free_bytes / 1e6:,.1f} MB free,"
            f" and the restore needs about {needed / 1e6:,.1f} MB",
            "make room there, or restore fewer tables (--table)",
        )


def refuse_unless_fit(change: TableChange, scope: Scope) -> None:
    """The table is the role's, is of the shape that the rows want, and has a key where rows are told apart by it."""
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


def refuse_part_of_a_whole(manifest: Manifest, state: TargetState, changes: Sequence[TableChange]) -> None:
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


async def refuse_owners_out_of_reach(
    connection: Connection, state: TargetState, missing: Sequence[ArchiveEntry]
) -> None:
    """What is made must be given to who owned it, which takes a membership in that role."""
    owners = {owner_of(entry.text, state.roles) for entry in missing} - {""}
    if owners and (beyond := await roles_out_of_reach(connection, sorted(owners))):
        raise UnsafeTarget(
            f"the role may not give what is made again to its owners: {', '.join(beyond)}",
            "GRANT these roles to it, or connect as a superuser",
        )


async def refuse_what_is_beside(connection: Connection, schema: str, names: Sequence[TableName]) -> None:
    """What is put beside the live tables takes the place of nothing."""
    beside = [TableName(schema, name.name) for name in names]
    if len(set(beside)) < len(beside):
        raise UnsafeTarget("tables of one name cannot both go into one schema", "restore them one by one: --table")
    there = await read_live_tables(connection, beside)
    if there:
        raise UnsafeTarget(
            f"{', '.join(map(str, there))} is there already", "choose another --into-schema, or drop what is there"
        )
