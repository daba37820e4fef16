"""Compares a backup with the live database, or with another backup: rows missing, changed and extra, table by table.

Parts that have the same hash on both sides are the same rows, and are read no further: what nobody touched costs one
COPY. Of the others rows are told apart by the backup's primary key, as text: a key that is written otherwise now
(numeric 1.0 for 1.00) is another one. A table without a key is compared as a bag of whole lines.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.as_of import AsOf
from jobs.concurrency import task_group
from jobs.copying.giving_way import giving_way
from jobs.diff_sides import (
    LIVE,
    BackupSide,
    Compared,
    OnBytes,
    Shape,
    Side,
    backup_side,
    live_side,
    tables_meant,
)
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.postgres.copy_text import unescaped
from jobs.postgres.identifiers import TableName
from jobs.postgres.snapshot import LockLimits
from jobs.progress import OnProgress, Progress, no_progress
from jobs.row_buckets import FILES, LARGEST, Buckets, Kind, compare
from storage.manifest import Manifest, Part
from storage.repository import Repository

KEYS_SHOWN = 100  # of each kind, of each table

Key = dict[str, str]


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """`tables` are names as a person writes them, none for all. `keys`: tell which rows. `scratch`: see `Buckets`.

    `attempts`: how often to begin again after giving way.
    """

    tables: tuple[str, ...] = ()
    keys: bool = False
    scratch: Path | None = None
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of rows that differ, at most `KEYS_SHOWN` of each kind; `more`: there are others."""

    missing: tuple[Key, ...]
    changed: tuple[Key, ...]
    extra: tuple[Key, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class TableDiff:
    """How many rows of a table are only in the backup, differ, are only on the other side. A side without it has None.

    `keys` were asked for and could be told, for the table has a primary key.
    """

    schema: str
    name: str
    missing: int
    changed: int
    extra: int
    rows_backup: int | None
    rows_other: int | None
    note: str = ""
    same_columns: bool = True
    keys: Keys | None = None

    @property
    def equal(self) -> bool:
        """Whether both sides have the table, its columns and its rows."""
        there = self.rows_backup is not None and self.rows_other is not None
        return there and self.same_columns and not (self.missing or self.changed or self.extra)


@dataclass(frozen=True, slots=True)
class DiffResult:
    """What a comparison came to. `against` is `live` or a backup's id."""

    backup: str
    against: str
    tables: tuple[TableDiff, ...]

    @property
    def equal(self) -> bool:
        """Whether no table differs."""
        return all(table.equal for table in self.tables)


async def diff_live(
    repositories: Sequence[Repository],
    manifest: Manifest,
    source: Source,
    selection: Selection,
    limits: LockLimits,
    options: DiffOptions,
    on_progress: OnProgress = no_progress,
) -> DiffResult:
    """Compare a backup with its tables as they are now, all at one moment, and those that `selection` has beside them.

    Raises `NotThere` for a table that is nowhere, `Corrupt` if what was backed up is whole in no place, `Contended`
    if somebody waits too long on the locks in each attempt.
    """

    async def attempt() -> DiffResult:
        async with (
            backup_side(repositories, manifest) as backup,
            live_side(source, backup, selection, options.tables, limits) as live,
        ):
            return await _diff(backup, live, options, on_progress)

    return await giving_way(attempt, options.attempts, on_progress)


async def diff_backups(
    one: AsOf, other: AsOf, options: DiffOptions, on_progress: OnProgress = no_progress
) -> DiffResult:
    """Compare two backups. Raises `NotThere` for a table that neither has, `Corrupt`."""
    async with (
        backup_side(one.repositories, one.manifest) as backup,
        backup_side(other.repositories, other.manifest) as against,
    ):
        return await _diff(backup, against, options, on_progress)


async def _diff(backup: BackupSide, other: Side, options: DiffOptions, on_progress: OnProgress) -> DiffResult:
    known = [*backup.shapes, *(table for table in other.shapes if table not in backup.shapes)]
    if options.tables:
        meant = tables_meant(options.tables, backup.leaves, other.leaves)
        known = [table for table in known if table in meant]
    shared = [table for table in known if table in backup.shapes and table in other.shapes]
    total = sum(backup.tables[table].bytes_raw for table in shared)
    done = 0
    results = []
    for table in known:

        def read(count: int, table: TableName = table) -> None:
            nonlocal done
            done += count
            on_progress(Progress("comparing", done, total, backup.name, str(table)))

        if table in shared:
            results.append(await _compare(backup, other, table, options, read))
        else:
            results.append(await _on_one_side(backup, other, table))
    return DiffResult(backup.name, other.name, tuple(results))


async def _on_one_side(backup: BackupSide, other: Side, table: TableName) -> TableDiff:
    if table in backup.shapes:
        rows = await backup.count(table)
        return TableDiff(*table, rows, 0, 0, rows, None, f"exists only in the backup, not {_on(other)}")
    rows = await other.count(table)
    return TableDiff(*table, 0, 0, rows, None, rows, f"exists only {_on(other)}")


def _on(side: Side) -> str:
    return "live" if side.name == LIVE else f"in {side.name}"


async def _compare(
    backup: BackupSide, other: Side, table: TableName, options: DiffOptions, on_bytes: OnBytes
) -> TableDiff:
    """Leave out the parts that both sides have, byte for byte; read the others at the same time, then compare."""
    ours, theirs = backup.shapes[table], other.shapes[table]
    columns = tuple(name for name in ours.columns if name in theirs.columns)
    compared = Compared(columns, ours.key if set(ours.key) <= set(columns) else ())
    shown = KEYS_SHOWN if options.keys and compared.key else 0
    mine, others = await _unlike(backup, other, table)
    alike = backup.tables[table].rows - sum(part.rows for part in mine)
    on_bytes(backup.tables[table].bytes_raw - sum(part.bytes for part in mine))
    files = FILES if sum(part.bytes for part in mine) > LARGEST else 1
    with Buckets(options.scratch, files) as one, Buckets(options.scratch, files) as two:
        async with task_group() as group:
            group.create_task(backup.read(table, mine, compared, one, on_bytes))
            group.create_task(other.read(table, others, compared, two, lambda _: None))
        counts, keys = await asyncio.to_thread(compare, one, two, shown)
        return TableDiff(
            *table,
            missing=counts["missing"],
            changed=counts["changed"],
            extra=counts["extra"],
            rows_backup=one.rows + alike,
            rows_other=two.rows + alike,
            note="; ".join(_notes(ours, theirs, compared.key, _on(other))),
            same_columns=ours.columns == theirs.columns,
            keys=_keys(compared.key, counts, keys) if shown else None,
        )


async def _unlike(backup: BackupSide, other: Side, table: TableName) -> tuple[list[Part], list[Part]]:
    """The parts of each side that the other has not, by their hashes; all if their columns differ."""
    mine = backup.tables[table].parts
    columns = list(backup.shapes[table].columns)
    comparable = columns == list(other.shapes[table].columns)
    others = await other.parts(table, columns, mine if comparable else ())
    if not comparable:
        return list(mine), list(others)
    return without_shared(mine, others)


def without_shared(mine: Sequence[Part], others: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Both without the parts that both have; one that is there twice is shared twice only if the other has it twice."""
    shared = Counter(part.sha256 for part in mine) & Counter(part.sha256 for part in others)
    return _without(mine, shared), _without(others, shared)


def _without(parts: Sequence[Part], shared: Counter[str]) -> list[Part]:
    left = Counter(shared)
    kept = []
    for part in parts:
        if left[part.sha256]:
            left[part.sha256] -= 1
        else:
            kept.append(part)
    return kept


def _keys(columns: Sequence[str], counts: Counter[Kind], found: Mapping[Kind, Sequence[bytes]]) -> Keys:
    """Keys as people read them, in an order that suits numbers too."""
    read = {
        kind: tuple(
            dict(zip(columns, map(unescaped, fields), strict=True))
            for fields in sorted((key.split(b"\t") for key in keys), key=lambda fields: [(len(f), f) for f in fields])
        )
        for kind, keys in found.items()
    }
    more = any(counts[kind] > len(keys) for kind, keys in found.items())
    return Keys(read["missing"], read["changed"], read["extra"], more)


def _notes(ours: Shape, theirs: Shape, key: Sequence[str], on_other: str) -> Iterator[str]:
    """What a person should know of how a table was compared."""
    changes = [f"{name} is only in the backup" for name in ours.columns if name not in theirs.columns]
    changes += [f"{name} is only {on_other}" for name in theirs.columns if name not in ours.columns]
    changes += [
        f"{name} is {kind} in the backup and {theirs.columns[name]} {on_other}"
        for name, kind in ours.columns.items()
        if theirs.columns.get(name, kind) != kind
    ]
    if changes:
        yield f"columns differ: {', '.join(changes)}; rows are compared by the columns that both have, as text"
    if not key:
        lacking = "the primary key's columns are not on both sides" if ours.key else "no primary key"
        yield f"{lacking}: whole lines are compared, so that a changed row is one missing and one extra"
