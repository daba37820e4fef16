"""Removes the backups that a person names, from every place at once, whatever the policies say of them.

For what is whole in no place and in the way of an erasure, or whose key was stolen. What only builds on one of them
goes too; windows of the change log that a later full backup needs stay.
"""

from collections.abc import Sequence

from jobs.errors import NotThere, UnsafeTarget
from jobs.places.catalogue import Asked, ask
from jobs.places.one_database import bindings
from jobs.places.standing import Deciding
from jobs.places.wanted import all_held
from jobs.progress import OnProgress, no_progress
from jobs.prune import PruneResult, being_read, carry_out, lock_text, row_of
from storage.errors import Unavailable
from storage.repository import Repository
from storage.retention import Held

_LASTING = frozenset({"full", "archive"})


async def plan_removal(repositories: Sequence[Repository], wanted: Sequence[str]) -> PruneResult:
    """What `remove` would do; changes nothing. Raises as `remove`."""
    return (await _plan(repositories, wanted))[1]


async def remove(
    repositories: Sequence[Repository], wanted: Sequence[str], on_progress: OnProgress = no_progress
) -> PruneResult:
    """Remove these backups; the caller holds the job lock.

    Raises `NotThere` for one that no place has; `UnsafeTarget` if one is kept, locked or being read, or if no good full
    backup would be left; `Unavailable` if a place does not answer, whose copies would be brought to the others again.
    """
    asked, planned = await _plan(repositories, wanted)
    return await carry_out(repositories, asked, planned, on_progress)


async def _plan(repositories: Sequence[Repository], wanted: Sequence[str]) -> tuple[Asked, PruneResult]:
    asked = await ask(repositories)
    for place in asked.unreachable:
        raise Unavailable(f"{place.name} does not answer: {place.error}", "what is removed has to go from all places")
    await bindings(repositories)
    held = all_held(asked.catalogues)
    going = await _going(repositories, held, wanted)
    used = await being_read(repositories, asked.catalogues)
    _refuse([one for one in held if one.id in going], frozenset[str]().union(*used.values()))
    if not any(one.good and one.kind in _LASTING for one in held if one.id not in going):
        raise UnsafeTarget("no good full backup would be left", "take one first: rowvault backup")
    copies = [
        (repository, entry)
        for repository in repositories
        if (found := asked.catalogues[repository.place]) is not None
        for entry in found.entries
        if entry.id in going
    ]
    for repository, entry in copies:
        if locked := await repository.backend.lock_of(entry.manifest):  # sync would bring it back from there
            raise UnsafeTarget(f"{entry.id} in {repository.place}: {lock_text(locked)}", "remove it after that")
    rows = [row_of(entry, repository.place) for repository, entry in copies]
    return asked, PruneResult(True, "success", tuple(sorted(rows, key=lambda row: row.id, reverse=True)))


async def _going(repositories: Sequence[Repository], held: Sequence[Held], wanted: Sequence[str]) -> frozenset[str]:
    """What was named, and what builds on it, but for the windows that full backups which stay need."""
    known = {one.id: one for one in held}
    for backup_id in wanted:
        if backup_id not in known:
            raise NotThere(f"there is no backup {backup_id}", "list the backups with: rowvault list")
    named = sorted((known[one] for one in set(wanted)), key=lambda one: one.id)
    ids, deciding = frozenset(wanted), Deciding(repositories)
    bases = sorted(one.id for one in held if one.kind == "full" and one.id not in ids)
    cut = await deciding.needs(bases, [one for one in named if one.kind == "incremental"])
    # Of each of these bases the windows from an id on are of no use any more.
    ends: dict[str | None, str] = {one.base: one.id for one in reversed(named)}
    ends |= dict.fromkeys((*ids, *(base for base in cut if cut[base])), "")
    building = (one for one in held if one.kind == "incremental" and one.id not in ids)
    above = sorted((one for one in building if one.id > ends.get(one.base, one.id)), key=lambda one: one.id)
    needed = await deciding.needs([one for one in bases if not cut.get(one)], above)
    return (ids | {one.id for one in above}) - {one for windows in needed.values() for one in windows}


def _refuse(going: Sequence[Held], used: frozenset[str]) -> None:
    for one in going:
        if one.kept:
            raise UnsafeTarget(f"{one.id} has a keep mark", f"lift it first: rowvault release {one.id}")
        if one.id in used:
            raise UnsafeTarget(f"{one.id} is being read", "wait until that has ended")
