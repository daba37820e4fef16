"""What the ledgers of erasures say, of all places together: what is not finished, and what a copy may still hold."""

from collections.abc import Sequence
from contextlib import suppress

from jobs.errors import UnsafeTarget
from storage.erasures import Erasure, further, read_erasures, share_erasures
from storage.errors import Corrupt, StorageError
from storage.increments import AnyBackup
from storage.repository import Repository


async def known_erasures(repositories: Sequence[Repository]) -> tuple[Erasure, ...]:
    """Every entry of the ledgers of those places that answer. Raises `Corrupt` for one that can be read nowhere."""
    found: dict[str, Erasure] = {}
    damaged: list[Corrupt] = []
    for repository in repositories:
        try:
            for one in await read_erasures(repository):
                found[one.id] = further(found.get(one.id), one)
        except Corrupt as error:
            damaged.append(error)
        except StorageError:
            continue
    if len(damaged) == len(repositories):
        raise damaged[0]
    return tuple(found[one] for one in sorted(found))


async def require_erased(repositories: Sequence[Repository], backups: Sequence[AnyBackup]) -> None:
    """Raise `UnsafeTarget` if one of these backups may still hold what was erased from the others."""
    for erasure in await known_erasures(repositories):
        for backup in backups:
            if not erasure.clears(backup):
                raise UnsafeTarget(
                    f"{backup.id} may still hold rows of erasure {erasure.id}: that was interrupted, "
                    "or did not reach this copy",
                    "finish it first: rowvault erase --resume",
                )


async def missing_from(repositories: Sequence[Repository], backups: Sequence[AnyBackup]) -> tuple[Erasure, ...]:
    """The erasures whose rows some of these backups may still hold: one was interrupted, or did not reach this copy."""
    erasures = await known_erasures(repositories)
    return tuple(one for one in erasures if not all(map(one.clears, backups)))


async def unfinished(repositories: Sequence[Repository]) -> tuple[str, ...]:
    """What a person should know of erasures that are not through; every place gets the entries that it lacks."""
    with suppress(StorageError):  # whoever needs the ledger finds out
        return tuple(
            f"erasure {one.id} is not finished: rowvault erase --resume"
            for one in await share_erasures(repositories)
            if one.state == "begun"
        )
    return ()
