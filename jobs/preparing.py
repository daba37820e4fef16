"""What every backup begins with: what is wanted of it, who the source is, and which places can take it now."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jobs.copying.table_copy import CopyOptions
from jobs.errors import UnsafeTarget
from jobs.places.ledger import unfinished
from jobs.places.sweep import ORPHANED_HINT, orphaned_text, sweep
from jobs.postgres.connection import Source, session
from jobs.postgres.lineage import Lineage, read_lineage
from jobs.postgres.pooling import refuse_transaction_pooling
from jobs.postgres.snapshot import LockLimits
from jobs.results import PlaceOutcome
from storage.errors import StorageError
from storage.manifest import Gap, TrailHead
from storage.repository import OtherSource, Repository
from storage.trail import read_head


@dataclass(frozen=True, slots=True)
class Chaining:
    """How incremental backups are to continue a full one: by the change log, or by comparing where `obstacle` says why.

    `gap` says why those before it cannot be continued.
    """

    gap: Gap | None
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """What a person or the schedule wants of a backup. `attempts`: how often to begin again after giving way.

    Without `chaining` it is continued as the full backup before it was.
    """

    copying: CopyOptions = field(default_factory=CopyOptions)
    locks: LockLimits = field(default_factory=LockLimits)
    attempts: int = 10
    pg_bin: Path | None = None
    label: str = ""
    reason: str = ""
    keep: bool = False
    adopt: bool = False
    chaining: Chaining | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The source, and the places that are bound to it and swept.

    `others` can take a copy as the backup is taken; `pending` are those that cannot, and why. `suspicions` are what a
    person should look into.
    """

    lineage: Lineage
    primary: Repository
    others: tuple[Repository, ...]
    pending: tuple[PlaceOutcome, ...]
    suspicions: tuple[str, ...]
    trail_head: TrailHead | None


async def identify(source: Source) -> Lineage:
    """Who the source is; raises what the database raises, `TransactionPooling` among it."""
    await refuse_transaction_pooling(source)
    async with session(source, "identity") as connection:
        return await read_lineage(connection)


async def make_ready(lineage: Lineage, repositories: Sequence[Repository], *, adopt: bool) -> Ready:
    """Bind each place to the source, and sweep what interrupted runs left there.

    `repositories` are the places, the primary one first. Raises what the primary place raises, and `OtherSource` for
    any of them.
    """
    primary, *rest = repositories
    suspicions = await _bind(primary, lineage, adopt)
    others: list[Repository] = []
    pending: list[PlaceOutcome] = []
    for other in rest:
        try:
            suspicions += await _bind(other, lineage, adopt)
            others.append(other)
        except OtherSource:
            raise
        except StorageError as error:
            pending.append(PlaceOutcome(other.place, "pending", str(error)))
    places = [primary, *others]
    suspicions += unmounted(places, await _holding(primary, others)) + await unfinished(places)
    return Ready(lineage, primary, tuple(others), tuple(pending), suspicions, await _trail_head(places))


async def _bind(repository: Repository, lineage: Lineage, adopt: bool) -> tuple[str, ...]:
    """Bind a place to the source and sweep it; return what a person should look into there."""
    await repository.bind(lineage.system_identifier, lineage.database, adopt=adopt)
    orphaned = (await sweep(repository)).orphaned
    return tuple(f"{orphaned_text(repository, one)}: {ORPHANED_HINT}" for one in orphaned)


async def _holding(primary: Repository, others: Sequence[Repository]) -> set[str]:
    """The places that hold backups; the others are only asked if the first one has none."""
    if (await primary.catalogue()).entries:
        return {primary.place}
    holding = set()
    for other in others:
        with suppress(StorageError):  # a place that falls silent now is found out by its copy
            if (await other.catalogue()).entries:
                holding.add(other.place)
    return holding


async def require_mounted(repositories: Sequence[Repository]) -> None:
    """Raise `UnsafeTarget` if the first place is empty beside one that is not: what it holds may be out of sight."""
    if found := unmounted(repositories, await _holding(repositories[0], repositories[1:])):
        raise UnsafeTarget(
            "; ".join(found),
            "mount it, so that it is seen to as well; or, if it is meant to be new, fill it first: rowvault sync",
        )


def unmounted(repositories: Sequence[Repository], holding: Collection[str]) -> tuple[str, ...]:
    """A first place that is empty beside one that is not is most likely a volume that is not mounted."""
    first, *others = (one.place for one in repositories)
    if first in holding:
        return ()
    return tuple(
        f"{first} held no backup, and {other} some: is a volume not mounted?" for other in others if other in holding
    )


async def _trail_head(repositories: list[Repository]) -> TrailHead | None:
    """The newest entry of the audit trail, which the manifest will remember."""
    newest = await read_head(repositories)
    return TrailHead(number=newest.number, sha256=newest.sha256) if newest else None
