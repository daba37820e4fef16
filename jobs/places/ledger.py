"""What the ledgers of erasures say, of all places together: what is not finished, and what a copy may still hold."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from jobs.errors import UnsafeTarget
from jobs.results import PlaceOutcome
from storage.erasures import Erasure, further, read_ledger, share_erasures
from storage.errors import Corrupt, StorageError
from storage.increments import AnyBackup
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledgers say together; `silent` are places whose own could not be read, and may say more."""

    erasures: tuple[Erasure, ...]
    silent: tuple[PlaceOutcome, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of whatever is read meanwhile: a place may be away on the day of a disaster."""
        return tuple(
            f"{one.name} could not say what was erased ({one.error}): what was while the other places were away"
            " is not left out here"
            for one in self.silent
        )

    @property
    def unfinished(self) -> tuple[Erasure, ...]:
        """Those that did not go through all places yet, or not to the end."""
        return tuple(one for one in self.erasures if one.state == "begun")

    def not_in(self, backups: Sequence[AnyBackup]) -> tuple[Erasure, ...]:
        """The erasures whose rows some of these may still hold: one was interrupted, or did not reach this copy."""
        return tuple(one for one in self.erasures if not all(map(one.clears, backups)))


async def read_ledgers(repositories: Sequence[Repository]) -> Ledger:
    """Every entry of the ledgers of those places that answer. Raises `Corrupt` for one that can be read in none."""
    found, damaged = dict[str, Erasure](), dict[str, Corrupt]()
    silent = list[PlaceOutcome]()
    for repository in repositories:
        try:
            entries, unreadable = await read_ledger(repository)
        except StorageError as error:
            silent.append(PlaceOutcome(repository.place, "unreachable", error.message))
            continue
        damaged |= unreadable
        for one in entries:
            found[one.id] = further(found.get(one.id), one)
    for lost in damaged.keys() - found.keys():
        raise damaged[lost]
    return Ledger(tuple(found[one] for one in sorted(found)), tuple(silent))


async def require_erased(repositories: Sequence[Repository], backups: Sequence[AnyBackup]) -> Ledger:
    """Raise `UnsafeTarget` if one of these backups may still hold what was erased from the others."""
    ledger = await read_ledgers(repositories)
    for erasure in ledger.erasures:
        for backup in backups:
            if not erasure.clears(backup):
                raise UnsafeTarget(
                    f"{backup.id} may still hold rows of erasure {erasure.id}: that was interrupted, "
                    "or did not reach this copy",
                    "finish it first: rowvault erase --resume",
                )
    return ledger


async def unfinished(repositories: Sequence[Repository]) -> tuple[str, ...]:
    """What a person should know of erasures that are not through; every place gets the entries that it lacks."""
    with suppress(StorageError):  # whoever needs the ledger finds out
        return tuple(
            f"erasure {one.id} is not finished: rowvault erase --resume"
            for one in await share_erasures(repositories)
            if one.state == "begun"
        )
    return ()
