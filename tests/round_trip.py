"""Back up and restore as the jobs do it, for tests that look at what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobs.copying.table_copy import CopyOptions
from jobs.full_backup import full_backup
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.postgres.identifiers import parse_pattern
from jobs.postgres.snapshot import LockLimits
from jobs.preparing import BackupOptions
from jobs.progress import OnProgress, no_progress
from jobs.restore import RestoreOptions, RestorePlan, plan_restore, restore
from jobs.results import BackupResult, RestoreResult
from jobs.scope import Scope
from storage.backends.memory import MemoryBackend
from storage.manifest import Manifest
from storage.repository import Repository
from tests.servers import Database

EVERYTHING = ("*.*",)
SMALL_PIECES = CopyOptions(streams=3, pages_per_part=1, roll_at=1)
EVERYWHERE = Scope()
QUICK = BackupOptions(attempts=1, locks=LockLimits(lock_timeout=1.0, give_way_after=0.5))


def memory() -> Repository:
    """A new, empty place."""
    return Repository("memory", MemoryBackend())


def selection(tables: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """A selection as a person writes it."""
    return Selection(tuple(map(parse_pattern, tables)), tuple(map(parse_pattern, exclude)))


@dataclass(frozen=True)
class Taken:
    """A backup that was taken, and where it lies."""

    repository: Repository
    result: BackupResult
    manifest: Manifest

    @property
    def rows(self) -> dict[str, int]:
        """Rows by `schema.table`."""
        return {f"{table.schema}.{table.name}": table.rows for table in self.result.tables}


async def back_up(
    source: Database | str,
    tables: Sequence[str] = EVERYTHING,
    *,
    exclude: Sequence[str] = (),
    options: BackupOptions = QUICK,
    copying: CopyOptions | None = None,
    repository: Repository | None = None,
    on_progress: OnProgress = no_progress,
) -> Taken:
    """Take a full backup into memory, or into the repository given."""
    place = repository or memory()
    dsn = source if isinstance(source, str) else source.dsn
    if copying:
        options = replace(options, copying=copying)
    result = await full_backup(Source(dsn), selection(tables, exclude), [place], options, on_progress)
    return Taken(place, result, await place.manifest(result.id))


async def bring_back(
    taken: Taken, target: Database | Source, scope: Scope = EVERYWHERE, on_progress: OnProgress = no_progress
) -> RestoreResult:
    """Restore a backup into a database, verified first, as the command line does."""
    plan = await plan_to_bring_back(taken, target, scope)
    return await restore(plan, [taken.repository], RestoreOptions(), on_progress)


async def plan_to_bring_back(taken: Taken, target: Database | Source, scope: Scope = EVERYWHERE) -> RestorePlan:
    """What restoring it would do."""
    into = Source(target.dsn) if isinstance(target, Database) else target
    return await plan_restore([taken.repository], taken.manifest, into, scope, RestoreOptions())


async def nothing_committed(repository: Repository) -> bool:
    """Whether the repository lists no backup at all."""
    return (await repository.catalogue()).entries == ()
