"""The right to erasure: a subject's rows go out of every backup in every place, and the ledger keeps them out.

The entry in the ledger comes first, so that whatever interrupts an erasure, `resume` finishes it: each backup is
rewritten under its own id with a higher revision, committed, and only then is what it was before removed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.archive_exports import formats_of, store_exports
from jobs.as_of import AsOf
from jobs.copying.table_copy import CopyOptions
from jobs.erasing.damage import NOT_FINISHED
from jobs.erasing.holdings import Held, Holdings, Shapes, read_holdings
from jobs.erasing.ledger import clean_entry, entry_of, marked_in
from jobs.erasing.locks import StillLocked, still_locked
from jobs.erasing.marks import Marked
from jobs.erasing.plan import ErasePlan
from jobs.erasing.rewrite import Rewriter, in_place, revised
from jobs.erasing.search import Searched
from jobs.exporting.plan import ExportOptions
from jobs.places.leasing import leased
from jobs.places.one_database import answering
from jobs.places.sweep import supersede, sweep_revisions
from jobs.progress import OnProgress, Progress
from jobs.results import PlaceOutcome, State
from jobs.verify import require_as_written
from storage.age import Recipients
from storage.erasures import Erasure, share_erasures, write_erasure
from storage.errors import Corrupt, NotFound, StorageError, Unavailable
from storage.increments import AnyBackup
from storage.manifest import Manifest
from storage.names import revision_prefix
from storage.objects import transfer
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Revision:
    """One backup of which something was erased in one place: the SHA-256 of its manifest before, and after."""

    place: str
    backup: str
    revision: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class StillDamaged:
    """A backup in one place of which nothing could be erased, for it is not whole there, and why."""

    place: str
    backup: str
    error: str


@dataclass(frozen=True, slots=True)
class EraseResult:
    """What an erasure came to, or its going on. `places` that could not be reached, and what is `locked` or `damaged`,
    are to come. `notes` say which archives lost exports that could not be made again.

    `subject` proves what was asked for to whoever knows it: the SHA-256 of the ledger's salt and the predicate.
    """

    id: str
    state: State
    subject: str
    revisions: tuple[Revision, ...]
    places: tuple[PlaceOutcome, ...]
    locked: tuple[StillLocked, ...] = ()
    damaged: tuple[StillDamaged, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EraseOptions:
    """How what is written anew is compressed, and how exports of archives are made again, by way of `scratch`."""

    copying: CopyOptions = field(default_factory=CopyOptions)
    exports: ExportOptions = field(default_factory=ExportOptions)
    scratch: Path | None = None


@dataclass(slots=True)
class _Work:
    """One erasure being carried out; `done` are the backups that were rewritten, as they are now, by place and id.

    `copies` says of backups in which place they were rewritten already, and what they are there.
    """

    erasure: Erasure
    marked: Sequence[Marked]
    shapes: Shapes
    searched: Searched
    options: EraseOptions
    on_progress: OnProgress
    done: dict[tuple[str, str], AnyBackup] = field(default_factory=dict)
    revisions: list[Revision] = field(default_factory=list)
    clean: list[Held] = field(default_factory=list)
    copies: dict[str, tuple[Repository, AnyBackup]] = field(default_factory=dict)
    locked: list[StillLocked] = field(default_factory=list)
    damaged: list[StillDamaged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def go_through_all(self, places: Sequence[Repository], holdings: Holdings) -> list[Repository]:
        """Every backup in every place; the places that went on answering. Raises what the first raised if none did."""
        through, failures = list[Repository](), list[Unavailable]()
        for place in places:
            try:
                await self._go_through(place, [one for one in holdings.held if one.repository is place])
            except Unavailable as error:
                failures.append(error)
            else:
                through.append(place)
        if failures and not through:
            raise failures[0]
        return through

    async def _go_through(self, repository: Repository, held: Sequence[Held]) -> None:
        """Every backup of one place, oldest first."""
        for number, one in enumerate(held):
            self.on_progress(
                Progress(f"erasing in {repository.place}", number, len(held), one.manifest.id, counted=True)
            )
            if self.erasure.clears(one.manifest):
                continue
            try:
                await self._erase(repository, one, self._rows_before(one, held))
            except (Corrupt, NotFound) as error:  # others can do without it
                self.damaged.append(StillDamaged(repository.place, one.manifest.id, error.message))

    async def _erase(self, repository: Repository, held: Held, before: dict[int, int]) -> None:
        manifest = held.manifest
        async with leased(repository, manifest.id, "erasure"):
            try:
                made = await self._written(repository, manifest, before)
            except Unavailable:
                raise
            except Exception:
                with suppress(StorageError):  # a full disk should not stay full; resuming removes what this could not
                    await _forget(repository, revision_prefix(manifest.id, manifest.revision + 1))
                raise
            if made is None:
                self.clean.append(held)
                return
            await repository.commit(made)
            superseded = await supersede(repository, manifest.id)
        self.locked += still_locked(repository, superseded.locked)
        _, after = await repository.stored(manifest.id)
        self.copies.setdefault(manifest.id, (repository, made))
        self.done[repository.place, manifest.id] = made
        self.revisions.append(Revision(repository.place, manifest.id, made.revision, held.sha256, after))

    async def _written(self, repository: Repository, manifest: AnyBackup, before: dict[int, int]) -> AnyBackup | None:
        """The next revision, its objects stored and read back; None if nothing of the backup is to change."""
        made = await self._copied(repository, manifest)
        if made is None:
            target = in_place(repository, manifest, self.options.copying)
            rewriter = Rewriter(repository, target, self.marked, self.shapes, self.searched)
            made = await revised(rewriter, manifest, [self.erasure.id], before)
            if isinstance(manifest, Manifest) and isinstance(made, Manifest) and manifest.exports:
                made = await self._with_exports(repository, manifest, made, target.options.recipients)
        if made is not None:
            old = {stored.name for stored in manifest.objects()}
            await require_as_written(repository, made, {one.name for one in made.objects()} - old)
        return made

    async def _with_exports(
        self, repository: Repository, before: Manifest, made: Manifest, recipients: Recipients | None
    ) -> Manifest:
        """An archive whose exports are made again, of what stays; the old ones go, whether that can be done or not."""
        try:
            exports, left_out = await store_exports(
                revision_prefix(made.id, made.revision),
                AsOf((repository,), made, (), made.created_at),
                repository.backend,
                formats_of(before.exports),
                self.options.exports,
                recipients,
                self.options.scratch,
                self.on_progress,
            )
        except (Corrupt, NotFound) as error:  # another table of it is damaged
            exports, left_out = (), (f"its exports could not be made again: {error.message}",)
        self.notes += [f"{made.id} in {repository.place}: {one}" for one in left_out]
        return made.model_copy(update={"exports": exports, "warnings": (*made.warnings, *left_out)})

    async def _copied(self, repository: Repository, manifest: AnyBackup) -> AnyBackup | None:
        """The new revision out of a place where it was made already: made again it would be other bytes, where they are
        encrypted, and places have to hold the same.
        """
        source, made = self.copies.get(manifest.id, (repository, manifest))
        if source is repository or not _continues(made, manifest):
            return None
        there = {stored.name for stored in manifest.objects()}
        try:
            for stored in made.objects():
                if stored.name not in there:
                    await transfer(source.backend, repository.backend, stored.name, stored.sha256)
        except (NotFound, Corrupt):
            return None  # it is damaged there
        return made

    def _rows_before(self, held: Held, every: Sequence[Held]) -> dict[int, int]:
        """How many rows tables had, by oid, in the backup with which this one compared them, as that is now."""
        manifest = held.manifest
        if isinstance(manifest, Manifest) or manifest.beside is None:
            return {}
        wanted = manifest.beside.previous or manifest.base
        stored = next((one.manifest for one in every if one.manifest.id == wanted), None)
        found = self.done.get((held.repository.place, wanted or ""), stored)
        if found is None:
            return {}
        if isinstance(found, Manifest):
            return {table.oid: table.rows for table in found.tables}
        return {table.oid: table.rows for table in (found.beside.tables if found.beside else ())}


async def _forget(repository: Repository, prefix: str) -> None:
    await repository.backend.delete([one.name async for one in repository.backend.list(prefix)])


def _continues(made: AnyBackup, before: AnyBackup) -> bool:
    """Whether a later revision holds all that another place's is to hold, without another object of the same name."""
    there = {stored.name: stored for stored in before.objects()}
    if made.revision <= before.revision or not set(before.erasures) <= set(made.erasures):
        return False
    return all(there.get(stored.name, stored) == stored for stored in made.objects())


async def erase(
    plan: ErasePlan, repositories: Sequence[Repository], options: EraseOptions, on_progress: OnProgress
) -> EraseResult:
    """Carry out a plan in the places it was made of; others are left to `resume`. The job lock is the caller's to hold.

    Raises `UnsafeTarget` if rows are still in the database, and what storage raises; what was begun is finished by
    `resume`.
    """
    plan.require_gone()
    planned = {one.place for one in plan.places}
    there = [repository for repository in repositories if repository.place in planned]
    pending = [repository.place for repository in repositories]
    erasure = entry_of(plan, _untouched(plan), pending).sealed_for(options.copying.recipients)
    for repository in there:
        await write_erasure(repository, erasure)
    marked = [replace(one.marked(), salt=bytes.fromhex(erasure.salt)) for one in plan.found]
    work = _Work(erasure, marked, plan.holdings.shapes, plan.searched, options, on_progress)
    through = await work.go_through_all(there, plan.holdings)
    return await _finish(work, repositories, through)


def _untouched(plan: ErasePlan) -> list[Held]:
    """Backups that hold nothing; one that compared a table may have to count its rows anew."""
    oids = {oid for one in plan.found for oid in one.oids}
    untouched = {}
    touched = set()
    for held in plan.holdings.held:
        beside = None if isinstance(held.manifest, Manifest) else held.manifest.beside
        compared = beside is not None and any(table.oid in oids for table in beside.tables)
        if compared or any(plan.searched.changed(reading) for reading in held.readings):
            touched.add((held.manifest.id, held.manifest.revision))
        else:
            untouched[held.manifest.id, held.manifest.revision] = held
    return [held for name, held in untouched.items() if name not in touched]


async def _finish(work: _Work, repositories: Sequence[Repository], there: Sequence[Repository]) -> EraseResult:
    """Say in the ledger how far it is."""
    names = {repository.place for repository in there}
    pending = tuple(repository.place for repository in repositories if repository.place not in names)
    known = {(one.id, one.revision) for one in work.erasure.clean}
    more = {one.manifest.id: clean_entry(one) for one in work.clean}
    erasure = work.erasure.model_copy(
        update={
            "state": "begun" if pending or work.locked or work.damaged else "done",
            "pending": pending,
            "clean": (*work.erasure.clean, *(one for one in more.values() if (one.id, one.revision) not in known)),
        }
    )
    for repository in there:
        await write_erasure(repository, erasure)
    places = tuple(
        PlaceOutcome(repository.place, "committed")
        if repository.place in names
        else PlaceOutcome(repository.place, "unreachable", "what it holds is still to be erased")
        for repository in repositories
    )
    state: State = "success" if erasure.state == "done" else "warning"
    return EraseResult(
        erasure.id,
        state,
        erasure.subject,
        tuple(work.revisions),
        places,
        tuple(work.locked),
        tuple(work.damaged),
        tuple(work.notes),
    )


async def resume(
    repositories: Sequence[Repository], options: EraseOptions, on_progress: OnProgress
) -> list[EraseResult]:
    """Finish what was interrupted, and erase from backups that were out of reach then: in every place that answers.

    The job lock is the caller's to hold.
    """
    there = await answering(repositories)
    results = []
    locked = [one for place in there for one in still_locked(place, await sweep_revisions(place))]
    for erasure in await share_erasures(there):
        holdings = await read_holdings(there, erasure.moment, NOT_FINISHED)
        if erasure.state == "done" and all(erasure.clears(held.manifest) for held in holdings.held):
            continue
        work = _Work(erasure, marked_in(erasure, there), holdings.shapes, Searched(), options, on_progress)
        work.locked += locked
        rewritten = [held for held in holdings.held if erasure.id in held.manifest.erasures]
        work.copies |= {held.manifest.id: (held.repository, held.manifest) for held in rewritten}
        through = await work.go_through_all(there, holdings)
        results.append(await _finish(work, repositories, through))
    return results


def rewritten(revisions: Sequence[Revision]) -> Mapping[str, int]:
    """How many backups were rewritten in each place."""
    counts: dict[str, int] = {}
    for one in revisions:
        counts[one.place] = counts.get(one.place, 0) + 1
    return counts
