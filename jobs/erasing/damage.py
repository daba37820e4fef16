"""What cannot be looked through stands in the way of an erasure: which backups, and how each is got out of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage.errors import Corrupt, StorageError

NOTHING_ERASED = "nothing was erased"
NOT_FINISHED = "what was begun cannot be finished"
NOT_TOLD = "whether anything is left cannot be told"
_MOST_NAMED = 5
_SYNC = "rowvault sync --check read makes good what another place has whole"
_PRUNE = "what is whole in no place goes with: rowvault prune"


@dataclass(frozen=True, slots=True)
class Damage:
    """One backup that cannot be looked through, and why; `elsewhere`: another place has it whole."""

    backup: str
    error: StorageError
    elsewhere: bool


def in_the_way(damages: Iterable[Damage], so: str) -> Corrupt:
    """The error that names every one of them, what that means, and what a person can do."""
    found = sorted(damages, key=lambda one: one.backup)
    lost = [*dict.fromkeys(one.backup for one in found if not one.elsewhere)]
    hints = [_SYNC] if len(lost) < len({one.backup for one in found}) else []
    hints += [f"{_PRUNE} {' '.join(lost)}"] if lost else []
    return Corrupt(f"{so}: {_said(found)}", "; ".join(hints))


def _said(found: Sequence[Damage]) -> str:
    said = [*dict.fromkeys(one.error.message for one in found)]
    more = [f"and {len(said) - _MOST_NAMED} more"] if len(said) > _MOST_NAMED else []
    return "; ".join([*said[:_MOST_NAMED], *more])
