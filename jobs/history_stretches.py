"""Which chains tell the history of a table's rows: each full backup that no change log leads to begins a new one."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.catalogue import list_backups, read_backup
from jobs.chain import AT_ONCE, Chain, joined
from jobs.errors import NotThere
from jobs.postgres.change_log import widened
from jobs.postgres.identifiers import BadName, TableName
from jobs.postgres.pgoutput import Commit, lsn_number
from jobs.restore_scope import chosen_tables
from storage.errors import Corrupt
from storage.increments import AnyBackup, Increment
from storage.manifest import Manifest, Table
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Backups:
    """Every backup that is whole somewhere, oldest first; what is wrong with those that cannot be read."""

    fulls: tuple[Manifest, ...]
    windows: tuple[Increment, ...]
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


async def read_backups(repositories: Sequence[Repository]) -> Backups:
    """The manifests of all backups, those of windows without what is not needed here: there may be thousands."""
    listed = [backup for backup in (await list_backups(repositories)).backups if backup.whole_somewhere]
    fulls: list[Manifest] = []
    windows: list[Increment] = []
    damaged: list[Corrupt] = []
    ids = sorted(backup.id for backup in listed)
    for begin in range(0, len(ids), AT_ONCE):
        for read in await asyncio.gather(*(_read(repositories, one) for one in ids[begin : begin + AT_ONCE])):
            if isinstance(read, Manifest):
                fulls.append(read)
            elif isinstance(read, Corrupt):
                damaged.append(read)
            elif isinstance(read, Increment):
                touched = tuple(one for one in read.changes if one.changes)
                windows.append(read.model_copy(update={"changes": touched, "sequences": (), "beside": None}))
    return Backups(tuple(fulls), tuple(windows), tuple(damaged))


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
        if table is None or set(table.primary_key) != set(key):
            continue
        if not found or not _leads_to(found[-1], base):
            found.append(_stretch(base, table, backups.fulls[number + 1 :], backups.windows))
    return found


def _table(manifest: Manifest, name: TableName) -> Table | None:
    return next((one for one in manifest.tables if (one.schema_name, one.name) == name), None)


def _leads_to(stretch: Stretch, full: Manifest) -> bool:
    """Whether the stretch holds every change that a later full backup has."""
    return _of_log(full, stretch.slot) and stretch.end >= lsn_number(full.snapshot.lsn)


def _of_log(manifest: Manifest, slot: str | None) -> bool:
    return manifest.capture is not None and manifest.capture.slot == slot


def _stretch(base: Manifest, table: Table, later: Sequence[Manifest], windows: Sequence[Increment]) -> Stretch:
    alone = Stretch(Chain(base, ()), table, (base,))
    if alone.slot is None:
        return alone
    return Stretch(joined(base, windows), table, (base, *(one for one in later if _of_log(one, alone.slot))))
