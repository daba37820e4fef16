"""Brings back a random moment that the newest chain covers, and proves it: not only the newest point must be one.

The tables that had changed by then are loaded beside what a drill restored, one after the other, and compared byte for
byte. All else is read through.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.as_of import AsOf, opened
from jobs.chains.chain import chain_to
from jobs.chains.points import At
from jobs.places.catalogue import list_backups, read_backup
from jobs.postgres.connection import Source, session
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.progress import OnProgress
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.restoring.choose_place import choose_whole
from jobs.scope import Scope
from storage.manifest import Manifest, Table
from storage.names import MADE
from storage.repository import Repository

_TICK = timedelta(microseconds=1)
_LISTED = timedelta(milliseconds=1)  # a backup is listed with the moment that its id tells, cut to so much


@dataclass(frozen=True, slots=True)
class Covered:
    """The moments that incremental backups add to a full one: those after `begins`, up to `ends`; or only these `few`,
    where tables were compared.
    """

    begins: datetime
    ends: datetime
    few: tuple[datetime, ...] = ()

    def random_moment(self) -> datetime:
        """Any of them, each as likely."""
        if self.few:
            return secrets.choice(self.few)
        return self.begins + (1 + secrets.randbelow((self.ends - self.begins) // _TICK)) * _TICK


async def newest_covered(repositories: Sequence[Repository]) -> Covered | None:
    """What the newest chain covers; None where no incremental backup continues a full one."""
    backups = (await list_backups(repositories)).backups
    for backup in backups:
        begins = backup.created_at + _LISTED
        if backup.kind == "full" and backup.whole_somewhere and backup.recoverable_to > begins:
            base = await read_backup(repositories, backup.id)
            compared = isinstance(base, Manifest) and bool(base.compared)
            ends = backup.recoverable_to
            few = [one.created_at for one in backups if compared and one.base == backup.id and one.created_at <= ends]
            return Covered(begins, ends, tuple(few))
    return None


async def bring_back_moment(
    repositories: Sequence[Repository],
    covered: Covered,
    moment: datetime,
    scratch: Source,
    how: RestoreOptions,
    on_progress: OnProgress,
) -> str:
    """Make everything as of the moment and load what had changed, beside what is there; say what was done.

    Raises what says that it cannot be had: `NotThere` for a gap anywhere in the chain, `Corrupt`, `Difference`.
    """
    await chain_to(repositories, At(covered.ends))
    async with opened(repositories, "", At(moment), on_progress=on_progress) as made:
        await choose_whole(made.repositories, made.manifest.id, on_progress)
        changed = [table for table in made.manifest.tables if _is_made(table)]
        for table in changed:
            await _load_beside(made, table, scratch, how, on_progress)
    rest = len(made.manifest.tables) - len(changed)
    return f"{len(changed)} tables that had changed were loaded and are equal, {rest} others are whole"


def _is_made(table: Table) -> bool:
    return any(stored.name.startswith(MADE) for part in table.parts for stored in part.objects)


async def _load_beside(made: AsOf, table: Table, scratch: Source, how: RestoreOptions, on_progress: OnProgress) -> None:
    """Restore a table into a schema of its own, which proves it, and drop that again."""
    name, schema = TableName(table.schema_name, table.name), f"rowvault_{secrets.token_hex(8)}"
    scope = Scope(tables=(qualified(name),), into_schema=schema)
    plan = await plan_restore(made.repositories, made.manifest, scratch, scope, how, on_progress)
    await restore(plan, made.repositories, how, on_progress)
    async with session(scratch, "drill") as connection:
        with translated(f"dropping schema {schema}"):
            await connection.execute(f"DROP SCHEMA {quote(schema)} CASCADE")
