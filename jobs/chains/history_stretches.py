"""Which chains tell the history of a table's rows: each full backup that no change log leads to begins a new one.

Where the table is not in the log, it goes on with the backups that compare it with the full one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from jobs.chains.beside_log import differences_of
from jobs.chains.chain import AT_ONCE, Chain, joined
from jobs.errors import NotThere
from jobs.places.catalogue import list_backups, read_backup
from jobs.postgres.change_log import widened
from jobs.postgres.identifiers import BadName, TableName
from jobs.postgres.pgoutput import Commit, lsn_number
from jobs.scope import chosen_tables
from storage.errors import Corrupt
from storage.increments import AnyBackup, Increment, Incremental
from storage.manifest import Manifest, Table
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Backups:
    """Every backup that is whole somewhere, oldest first; what is wrong with those that cannot be read."""

    fulls: tuple[Manifest, ...]
    incrementals: tuple[Incremental, ...]
    damaged: tuple[Corrupt, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A chain, the table as its base has it, and the full backups of the same change log from the base on."""

    chain: Chain
    table: Table
    fulls: tuple[Manifest, ...]

    @property
    def end(self) -> int:
        """The LSN up to which the log was read."""
        return lsn_number(self.chain.windows[-1].end) if self.chain.windows else 0

    def xid(self, commit: Commit) -> int:
        """A transaction's 64-bit id: the one that is nearest to what the last full backup before it knew."""
        before = [one for one in self.fulls if lsn_number(one.snapshot.lsn) <= commit.lsn] or [self.chain.base]
        return widened(commit.xid, before[-1].snapshot.xmax)

    @property
    def slot(self) -> str | None:
        """Whose log holds the table's changes; None if none does."""
        capture = self.chain.base.capture
        return capture.slot if capture is not None and self.table.identity else None

    @property
    def reaches(self) -> datetime:
        """The newest moment of which the row is told."""
        return self.chain.reaches if self.table.identity else self.chain.beside_moment

    @property
    def known(self) -> datetime:
        """The newest moment as of which the row was surely as it is told; what a column does not tell may be later."""
        moment = self.chain.base.created_at
        for step in self.chain.beside:
            if step.beside is None or self._by_column(step):
                return moment
            moment = step.beside.moment
        return self.reaches

    @property
    def by_column(self) -> bool:
        """Whether rows that were changed without their column are not seen."""
        return any(map(self._by_column, self.chain.beside))

    def _by_column(self, step: Incremental) -> bool:
        return any(one.method == "timestamp" for one in differences_of([step], self.table.oid))


async def read_backups(repositories: Sequence[Repository]) -> Backups:
    """The manifests of all backups but archives, of incremental ones without what is not needed here: there may be
    thousands.
    """
    every = (await list_backups(repositories)).backups
    listed = [backup for backup in every if backup.whole_somewhere and backup.kind != "archive"]
    fulls: list[Manifest] = []
    incrementals: list[Incremental] = []
    damaged: list[Corrupt] = []
    ids = sorted(backup.id for backup in listed)
    for begin in range(0, len(ids), AT_ONCE):
        for read in await asyncio.gather(*(_read(repositories, one) for one in ids[begin : begin + AT_ONCE])):
            if isinstance(read, Manifest):
                fulls.append(read)
            elif isinstance(read, Corrupt):
                damaged.append(read)
            else:
                incrementals.append(_what_is_needed(read))
    return Backups(tuple(fulls), tuple(incrementals), tuple(damaged))


def _what_is_needed(read: Incremental) -> Incremental:
    update: dict[str, object] = {"sequences": ()}
    if isinstance(read, Increment):
        update["changes"] = tuple(one for one in read.changes if one.changes)
    if read.beside is not None:
        tables = tuple(one for one in read.beside.tables if one.changes or one.method == "timestamp")
        update["beside"] = read.beside.model_copy(update={"tables": tables})
    return read.model_copy(update=update)


async def _read(repositories: Sequence[Repository], backup_id: str) -> AnyBackup | Corrupt:
    try:
        return await read_backup(repositories, backup_id)
    except Corrupt as error:
        return error


def table_meant(fulls: Sequence[Manifest], text: str) -> tuple[Manifest, Table]:
    """The one table that a person names, in the newest full backup that has it; raises `NotThere` and `BadName`."""
    if not fulls:
        raise NotThere("there is no full backup yet", "take one with: rowvault backup")
    for manifest in reversed(fulls):
        try:
            tables = chosen_tables(manifest, [text])
        except NotThere:
            continue
        if len(tables) != 1:
            names = ", ".join(str(TableName(one.schema_name, one.name)) for one in tables) or "it has none"
            raise BadName(f"{text} is partitioned: a row's history is that of its partition", f"name one: {names}")
        return manifest, tables[0]
    raise NotThere(f"no backup has a table {text}", "rowvault show BACKUP lists the tables of a backup")


def stretches(backups: Backups, name: TableName, key: Mapping[str, object]) -> list[Stretch]:
    """The chains in which the table has this primary key, oldest first; none begins with what another leads to."""
    found: list[Stretch] = []
    for number, base in enumerate(backups.fulls):
        table = _table(base, name)
        if table is None or set(table.primary_key) != set(key) or not key_is_copied(table):
            continue
        if not found or not _leads_to(found[-1], base):
            found.append(_stretch(base, table, backups.fulls[number + 1 :], backups.incrementals))
    return found


def key_is_copied(table: Table) -> bool:
    """Whether backups hold the primary key of a table's rows: no generated column, which may be part of it."""
    return not any(column.generated and column.name in table.primary_key for column in table.columns)


def _table(manifest: Manifest, name: TableName) -> Table | None:
    return next((one for one in manifest.tables if (one.schema_name, one.name) == name), None)


def _leads_to(stretch: Stretch, full: Manifest) -> bool:
    """Whether the stretch holds every change that a later full backup has."""
    return _of_log(full, stretch.slot) and stretch.end >= lsn_number(full.snapshot.lsn)


def _of_log(manifest: Manifest, slot: str | None) -> bool:
    return manifest.capture is not None and manifest.capture.slot == slot


def _stretch(base: Manifest, table: Table, later: Sequence[Manifest], incrementals: Sequence[Incremental]) -> Stretch:
    alone = Stretch(Chain(base, ()), table, (base,))
    if not table.identity:
        return replace(alone, chain=Chain(base, (), _compared_with(base, incrementals)))
    if alone.slot is None:
        return alone
    windows = [one for one in incrementals if isinstance(one, Increment)]
    return Stretch(joined(base, windows), table, (base, *(one for one in later if _of_log(one, alone.slot))))


def _compared_with(base: Manifest, incrementals: Sequence[Incremental]) -> tuple[Incremental, ...]:
    """The newest line of backups, none of them missing, that compare tables with a full one; oldest first."""
    beside = {one.id: one.beside for one in incrementals if one.base == base.id and one.beside is not None}
    by_id = {one.id: one for one in incrementals}
    for newest in sorted(beside, reverse=True):
        line, at = list[Incremental](), str(newest)
        while (step := beside.get(at)) is not None:
            line.insert(0, by_id[at])
            if step.previous is None:
                return tuple(line)
            at = step.previous
    return ()
