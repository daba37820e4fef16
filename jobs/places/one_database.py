"""Whose backups the places hold: what is decided of them together must be about one database."""

from collections.abc import Mapping, Sequence

from jobs.postgres.connection import Source, session
from jobs.postgres.errors import Rejected, Unreachable
from jobs.postgres.lineage import read_lineage
from storage.errors import Corrupt, StorageError
from storage.repository import Identity, OtherSource, Repository


async def bindings(repositories: Sequence[Repository]) -> dict[str, Identity]:
    """What each place that answers is bound to; a new one to nothing.

    Raises `OtherSource` if they belong to different databases, `Corrupt` only if none can say.
    """
    bound = dict[str, Identity]()
    failure: Corrupt | None = None
    for repository in repositories:
        try:
            if (identity := await repository.identity()) is not None:
                bound[repository.place] = identity
        except Corrupt as error:
            failure = error
        except StorageError:
            continue
    if failure is not None and not bound:
        raise failure
    _require_one(bound)
    return bound


def _require_one(bound: Mapping[str, Identity]) -> None:
    oldest = min(bound.values(), key=lambda one: one.created_at, default=None)
    for place, identity in bound.items():
        if oldest is not None and not identity.same_database(oldest):
            raise OtherSource(
                f"{place} holds backups of database {identity.database!r}, and another place of {oldest.database!r}",
                "give each database folders and prefixes of its own",
            )


async def require_of(source: Source, repositories: Sequence[Repository]) -> None:
    """Raise `OtherSource` unless the places belong to the source, as far as that and they answer."""
    try:
        async with session(source, "identity") as connection:
            lineage = await read_lineage(connection, may_write=False)
    except (Unreachable, Rejected):
        return
    for place, identity in (await bindings(repositories)).items():
        if (identity.system_identifier, identity.database) != (lineage.system_identifier, lineage.database):
            raise OtherSource(
                f"{place} holds backups of database {identity.database!r} of system {identity.system_identifier}, "
                f"not of {lineage.database!r} of system {lineage.system_identifier}",
                "choose another ROWVAULT_LOCAL_PATH or ROWVAULT_S3__PREFIX; or, if this database took the other's "
                "place, let the next backup --adopt it",
            )


async def answering(repositories: Sequence[Repository]) -> list[Repository]:
    """The places that answer now; raises what the first of them raised if none does, and `OtherSource` if they belong
    to different databases.
    """
    there, failures = list[Repository](), list[StorageError]()
    for repository in repositories:
        try:
            await repository.catalogue()
        except StorageError as error:
            failures.append(error)
        else:
            there.append(repository)
    if not there:
        raise failures[0]
    await bindings(there)
    return there
