"""Keeps erased rows out of whatever is read of backups that an erasure did not reach: they are filtered on the way."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from jobs.chains.chain import Chain
from jobs.copying.table_copy import CopyOptions
from jobs.erasing.holdings import Shapes
from jobs.erasing.ledger import marked_in
from jobs.erasing.rewrite import Rewriter, Target
from jobs.erasing.search import Searched
from storage.age import SEALED
from storage.backends.protocol import Backend
from storage.erasures import Erasure
from storage.increments import AnyBackup
from storage.names import MADE
from storage.repository import Repository

B = TypeVar("B", bound=AnyBackup)


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
