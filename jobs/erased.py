"""Keeps erased rows out of whatever is read of backups that an erasure did not reach: they are filtered on the way."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from jobs.chain import Chain
from jobs.erase_holdings import Shapes
from jobs.erase_ledger import marked_in
from jobs.erase_rewrite import Rewriter, Target
from jobs.erase_search import Searched
from jobs.errors import UnsafeTarget
from jobs.table_copy import CopyOptions
from storage.age import SEALED
from storage.backends.protocol import Backend
from storage.erasures import Erasure, further, read_erasures, share_erasures
from storage.errors import Corrupt, StorageError
from storage.increments import AnyBackup
from storage.names import MADE
from storage.repository import Repository

B = TypeVar("B", bound=AnyBackup)


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


async def without_erased(
    repository: Repository, chain: Chain, erasures: Sequence[Erasure], target: Backend, options: CopyOptions
) -> Chain:
    """A chain without the rows of erasures; what is written anew for that goes to `target`, as temporary objects."""
    for erasure in erasures:
        made = dict[str, AnyBackup]()
        shapes, marked = Shapes([chain.base]), marked_in(erasure, [repository])
        for backup in chain.backups:
            if not erasure.clears(backup) and backup.id not in made:
                rewriter = Rewriter(repository, _beside(target, erasure, options), marked, shapes, Searched())
                made[backup.id] = await rewriter.without(backup, {})
        chain = _replaced(chain, made)
    return chain


def _beside(target: Backend, erasure: Erasure, options: CopyOptions) -> Target:
    return Target(target, lambda name, piece: f"{MADE}{erasure.id}/{piece}/{name.removesuffix(SEALED)}", options)


def _replaced(chain: Chain, made: Mapping[str, AnyBackup]) -> Chain:
    def now(backup: B) -> B:
        found = made.get(backup.id, backup)
        assert isinstance(found, type(backup))
        return found

    return Chain(now(chain.base), tuple(map(now, chain.windows)), tuple(map(now, chain.beside)))


async def unfinished(repositories: Sequence[Repository]) -> tuple[str, ...]:
    """What a person should know of erasures that are not through; every place gets the entries that it lacks."""
    with suppress(StorageError):  # whoever needs the ledger finds out
        return tuple(
            f"erasure {one.id} is not finished: rowvault erase --resume"
            for one in await share_erasures(repositories)
            if one.state == "begun"
        )
    return ()
