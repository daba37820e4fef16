"""From which place a backup is restored: the first one where all that is needed is whole."""

from collections.abc import Collection, Sequence

from jobs.errors import Difference
from jobs.places.leasing import leased_for_reading
from jobs.progress import OnProgress, no_progress
from jobs.results import Problem
from jobs.verify import problems_of
from storage.errors import Corrupt, NotFound, StorageError
from storage.manifest import Manifest, Part
from storage.names import MADE
from storage.repository import Repository


async def choose_whole(
    repositories: Sequence[Repository],
    backup_id: str,
    on_progress: OnProgress = no_progress,
    tables: Collection[int] | None = None,
) -> tuple[Repository, Manifest]:
    """The first place where every object of the backup is whole, read through to the end.

    With `tables` (their oids) only those tables' rows and the definitions are read. What was made as of a moment is not
    read: it came from what was checked just then, and loading checks it.

    Raises `Difference` with everything that was found if none is whole, what a place raised if none could be read,
    and `NotFound` if no place has it.
    """
    problems: list[Problem] = []
    failures: list[StorageError] = []
    for repository in repositories:
        try:
            manifest = await repository.manifest(backup_id)
            async with leased_for_reading(repository, backup_id, "restore"):
                found = await problems_of(repository, _narrowed(manifest, tables), on_progress)
        except StorageError as error:
            failures.append(error)
            continue
        if not found:
            return repository, manifest
        problems += found
    if problems or any(isinstance(failure, Corrupt) for failure in failures):
        raise Difference(
            f"backup {backup_id} is not whole in any place: {_first_problem(problems, failures)}",
            "choose an older one (rowvault list); rowvault verify shows everything that was found",
            tuple(problems),
        )
    raise next(
        (failure for failure in failures if not isinstance(failure, NotFound)),
        NotFound(f"no backup {backup_id} in any place", "list the backups with: rowvault list"),
    )


def _narrowed(manifest: Manifest, tables: Collection[int] | None) -> Manifest:
    wanted = [table for table in manifest.tables if tables is None or table.oid in tables]
    stored = [table.model_copy(update={"parts": tuple(filter(_is_stored, table.parts))}) for table in wanted]
    return manifest.model_copy(update={"tables": tuple(stored), "exports": ()})


def _is_stored(part: Part) -> bool:
    return not any(stored.name.startswith(MADE) for stored in part.objects)


def _first_problem(problems: list[Problem], failures: list[StorageError]) -> str:
    if problems:
        return f"{problems[0].object} in {problems[0].place}: {problems[0].kind}"
    return next(failure.message for failure in failures if isinstance(failure, Corrupt))
