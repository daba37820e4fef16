"""Full backups that are encrypted, with and without an identity at hand, against the same ones in plain."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contenders import Backup, rowvault_backup
from tests.keys import new_key

Place = Callable[[], AbstractContextManager[dict[str, str]]]
"""Settings for a new and empty place, for as long as a block runs."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """Backups of each kind, taken in turns. `sealed`: the daemon has public keys alone; `opened`: an identity too."""

    plain: tuple[Backup, ...]
    sealed: tuple[Backup, ...]
    opened: tuple[Backup, ...]


def encrypted_backups(place: Place, runs: int, folder: Path) -> Encrypted:
    """Take them."""
    key, path = new_key(), folder / "identity"
    path.write_text(key.identity)
    for_one = {"ROWVAULT_ENCRYPTION__RECIPIENTS": key.public}
    kinds: tuple[dict[str, str], ...] = ({}, for_one, for_one | {"ROWVAULT_ENCRYPTION__IDENTITY_FILE": str(path)})
    taken: list[list[Backup]] = [[], [], []]
    for _ in range(runs):
        for kind, into in zip(kinds, taken, strict=True):
            with place() as settings:
                into.append(rowvault_backup(settings | kind, folder))
    return Encrypted(*map(tuple, taken))
