"""Every version of one row, out of all backups: as the oldest full backup has it, then change by change.

Where the log has a gap, the next full backup tells how the row was after it, and that it changed within. So does each
backup that compares the row's table, where that is not in the log.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from jobs.chains.history_stretches import Stretch, key_is_copied, read_backups, stretches, table_meant
from jobs.chains.row_differences import Fields
from jobs.chains.row_steps import Key, RowReading, Step, copied_columns
from jobs.copying.part_reading import require_identity
from jobs.errors import NotThere
from jobs.places.leasing import leased_for_reading, unless_removed
from jobs.places.ledger import require_erased
from jobs.postgres.connection import Source, session
from jobs.postgres.copy_text import escaped, unescaped
from jobs.postgres.errors import Rejected, Unreachable
from jobs.postgres.identifiers import TableName
from jobs.postgres.pgoutput import NULL, lsn_text
from jobs.progress import OnProgress, no_progress
from jobs.restoring.key import check_key, read_key
from storage.errors import Corrupt, StorageError
from storage.manifest import Table
from storage.repository import Repository

VersionKind = Literal["first seen", "insert", "update", "delete", "truncate", "found in a backup"]
Row = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Version:
    """The row after one change: None if it was gone. `changed` are the columns that differ from the version before.

    `at` is when the transaction `xid` was committed, whose commit record is at `lsn`. A version that was found
    in a backup has neither: it came to be at that moment or before, and after the moment `after` if that is known.
    `backup` holds the change. Nobody else ever saw a `passing` version: the same transaction made another one.
    `moved_from` and `moved_to` are keys, where that is what changed.
    """

    kind: VersionKind
    at: datetime
    backup: str
    changed: tuple[str, ...]
    row: Row | None
    after: datetime | None = None
    xid: int | None = None
    lsn: str | None = None
    moved_from: Row | None = None
    moved_to: Row | None = None
    passing: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """Every version of one row, oldest first, up to the moment that the backups reach; what to know beside it."""

    table: TableName
    key: Mapping[str, str]
    versions: tuple[Version, ...]
    reaches: datetime
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is told so far: the versions, the row as it was last, and how far that is known: moments, slot and LSN.

    The row was surely so as of `known`.
    """

    versions: tuple[Version, ...]
    row: Row | None
    reaches: datetime
    known: datetime
    slot: str | None
    end: int


async def history(
    repositories: Sequence[Repository],
    table: str,
    key: Mapping[str, str],
    source: Source | None = None,
    on_progress: OnProgress = no_progress,
) -> History:
    """Tell the history of the row with a primary key. `source`, where it answers, knows how it writes the key's values.

    Raises `BadName` for what is no key of the table, `NotThere` for a table or row that no backup has or tells of,
    `Corrupt` if there are manifests that cannot be read instead.
    """
    backups = await read_backups(repositories)
    ledger = await require_erased(repositories, [*backups.fulls, *backups.incrementals])
    newest, wanted = table_meant(backups.fulls, table)
    name = TableName(wanted.schema_name, wanted.name)
    check_key(wanted, key)
    if not key_is_copied(wanted):
        raise NotThere(
            f"a generated column is part of the primary key of {name}, and no backup has it: its rows have no history",
            f"restore the whole table beside the live one: rowvault restore {newest.id} --table … --into-schema …",
        )
    values, notes = await _written(source, wanted, key)
    notes += ledger.warnings
    notes += tuple(f"as if there were no such backup: {error.message}" for error in backups.damaged)
    told: _Told | None = None
    along = stretches(backups, name, key)
    if any(stretch.by_column for stretch in along):
        notes += (f"{name} was followed by a column: that rows went, or changed without it, full backups alone tell",)
    require_identity(repositories, [one for stretch in along for one in stretch.chain.backups])
    for stretch in along:
        async with unless_removed(repositories, [one.id for one in stretch.chain.backups]):
            told = await _told_on(repositories, stretch, values, told, on_progress)
    if told is None or not told.versions:
        if backups.damaged:
            raise backups.damaged[0]
        raise NotThere(
            f"no backup knows a row of {name} with that key",
            "what was written after the newest backup is in none: rowvault backup incremental",
        )
    return History(name, values, _with_passing(told.versions), told.reaches, notes)


async def _written(
    source: Source | None, table: Table, key: Mapping[str, str]
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """The key's values as the database writes them; as a person wrote them, if there is none to ask."""
    if source is None:
        return key, ("the key was looked for as it was typed: there is no database to ask how it writes it",)
    try:
        async with session(source, "history") as connection:
            return (await read_key(connection, [table], key)).values, ()
    except (Unreachable, Rejected) as error:
        return key, (f"the key was looked for as it was typed: {error.message}",)


async def _told_on(
    repositories: Sequence[Repository],
    stretch: Stretch,
    values: Mapping[str, str],
    before: _Told | None,
    on_progress: OnProgress,
) -> _Told:
    """Go on telling with what a stretch has, out of the first place where all of it is whole."""
    base, failures = stretch.chain.base, list[StorageError]()
    key = {column: escaped(values[column]) for column in stretch.table.primary_key}
    for repository in repositories:
        reading = RowReading(repository, stretch.chain, stretch.table, on_progress)
        try:
            async with leased_for_reading(repository, base.id, "history"):
                return await _read(stretch, reading, key, before)
        except StorageError as error:
            failures.append(error)
    raise next((one for one in failures if isinstance(one, Corrupt)), failures[0])


async def _read(stretch: Stretch, reading: RowReading, key: Key, before: _Told | None) -> _Told:
    """First the row as it was where the telling stopped before, then what became of it."""
    fields = await reading.in_base(key)
    if not stretch.table.identity:
        return await _read_compared(stretch, reading, key, fields, before)
    columns = copied_columns(stretch.table)
    known_to = before.end if before is not None and before.slot == stretch.slot else 0
    row, versions, met = _row(columns, fields), list(before.versions if before else ()), False
    async with aclosing(reading.steps(key, fields)) as steps:
        async for step in steps:
            after = _row(columns, step.left)
            if step.commit.lsn >= known_to:
                versions += [] if met else _met(stretch, before, row)
                versions.append(_version(stretch, columns, step, row, after))
                met = True
            row = after
    versions += [] if met else _met(stretch, before, row)
    return _Told(tuple(versions), row, stretch.reaches, stretch.known, stretch.slot, stretch.end)


async def _read_compared(
    stretch: Stretch, reading: RowReading, key: Key, fields: Fields | None, before: _Told | None
) -> _Told:
    """The same where no log tells: a row that was stored again as it was is no version."""
    columns = copied_columns(stretch.table)
    row = _row(columns, fields)
    versions = [*(before.versions if before else ()), *_met(stretch, before, row)]
    for found in await reading.differences(key, fields):
        was, row = row, _row(columns, found.fields)
        if row != was:
            changed = _changed(was, row)
            versions.append(Version("found in a backup", found.at, found.backup, changed, row, after=found.after))
    return _Told(tuple(versions), row, stretch.reaches, stretch.known, None, 0)


def _met(stretch: Stretch, before: _Told | None, row: Row | None) -> list[Version]:
    """The version that a full backup tells of, if the row is not as it was last known."""
    base = stretch.chain.base
    if before is None:
        return [Version("first seen", base.created_at, base.id, tuple(row), row)] if row is not None else []
    if row == before.row:
        return []
    changed = _changed(before.row, row)
    return [Version("found in a backup", base.created_at, base.id, changed, row, after=before.known)]


def _version(stretch: Stretch, columns: Sequence[str], step: Step, before: Row | None, after: Row | None) -> Version:
    return Version(
        kind=step.kind,
        at=step.commit.time,
        backup=step.window,
        changed=_changed(before, after),
        row=after,
        xid=stretch.xid(step.commit),
        lsn=lsn_text(step.commit.lsn),
        moved_from=_texts(step.came_from),
        moved_to=_texts(step.went_to),
    )


def _changed(before: Row | None, after: Row | None) -> tuple[str, ...]:
    """The columns that differ; all of a row that was not there, none of one that is gone."""
    if before is None or after is None:
        return tuple(after or ())
    both = dict.fromkeys((*after, *before))
    return tuple(one for one in both if one not in before or one not in after or before[one] != after[one])


def _row(columns: Sequence[str], fields: Fields | None) -> Row | None:
    return None if fields is None else _texts(dict(zip(columns, fields, strict=True)))


def _texts(fields: Key | None) -> Row | None:
    if fields is None:
        return None
    return {column: None if field == NULL else unescaped(field) for column, field in fields.items()}


def _with_passing(versions: Sequence[Version]) -> tuple[Version, ...]:
    following = [*versions[1:], None]
    return tuple(
        replace(one, passing=later is not None and one.lsn is not None and one.lsn == later.lsn)
        for one, later in zip(versions, following, strict=True)
    )
