"""The long-term copy: the newest verified state, in objects of its own, so that it outlives every chain.

It needs no source. It is made in one place, committed last like every backup, and copied to the other places that keep
archives; it is verified right after in each.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from jobs.archive_copy import Exporting, Made, Making, bring, make_archive
from jobs.as_of import AsOf, opened
from jobs.copying.table_copy import CopyOptions
from jobs.errors import NoPlace, NotThere
from jobs.exporting.plan import ExportOptions, Format
from jobs.places.catalogue import ask, read_backup
from jobs.places.leasing import leased, leased_for_reading
from jobs.places.ledger import read_ledgers, require_erased
from jobs.places.one_database import bindings
from jobs.places.sweep import discard, sweep
from jobs.preparing import unmounted
from jobs.progress import OnProgress, no_progress
from jobs.results import BackupResult, PlaceOutcome, State, TableOutcome
from jobs.verify import verify_backup
from storage.age import NoIdentity
from storage.errors import Corrupt, NotFound, StorageError
from storage.leases import CLOCKS_APART
from storage.manifest import Manifest, TrailHead
from storage.names import check_label, check_reason, id_kind, id_moment, new_backup_id
from storage.objects import transfer
from storage.repository import Catalogue, OtherSource, Repository
from storage.trail import read_head

PURPOSE = "archive"
TRIES = 4  # older states, should the newest turn out not to be whole


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """What a person or the schedule wants of an archive. Temporary files go to `scratch`.

    `only_newer`: nothing is made of a state that has an archive already. `formats` are those of its exports.
    """

    copying: CopyOptions = field(default_factory=CopyOptions)
    label: str = ""
    reason: str = ""
    keep: bool = False
    only_newer: bool = False
    scratch: Path | None = None
    formats: tuple[Format, ...] = ()
    exporting: ExportOptions = field(default_factory=ExportOptions)


async def archive(
    repositories: Sequence[Repository], options: ArchiveOptions, on_progress: OnProgress = no_progress
) -> BackupResult | None:
    """Take, commit and verify an archive of the newest state that passed its verification.

    The caller holds the job lock. None if there is one of that state, and only a newer one was wanted. Raises
    `NotThere` if there is no such state, `NoPlace` if no place that keeps archives answers, `OtherSource` if places
    belong to different databases, and what reading raises.
    """
    check_label(options.label)
    check_reason(options.reason)
    started = time.monotonic()
    asked = await ask(repositories)
    answering = [one for one in repositories if asked.catalogues[one.place] is not None]
    await bindings(answering)
    targets = [one for one in answering if keeps_archives(one)]
    if not targets:
        raise NoPlace("no place that keeps archives answers", "rowvault doctor looks at each place")
    catalogues = [found for found in asked.catalogues.values() if found is not None]
    states = _verified(catalogues)
    if not states:
        raise NotThere("no backup has passed its verification yet", "take one with: rowvault backup")
    if options.only_newer and id_moment(states[0]) in _archived(catalogues):
        return None
    taking = _Taking(answering, targets, options, on_progress)
    made, outcomes = await taking.newest_of(states)
    silent = [one for one in repositories if one not in answering and keeps_archives(one)]
    outcomes += [PlaceOutcome(one.place, "pending", "did not answer") for one in silent]
    holding = [place for place, found in asked.catalogues.items() if found and found.entries]
    suspicions = unmounted(repositories, holding) if repositories[0] in answering else ()
    return await _finish(made, targets, outcomes, suspicions, options, started, on_progress)


def keeps_archives(repository: Repository) -> bool:
    """Whether a place's policy has room for any."""
    return repository.policy is None or repository.policy.keeps("archive")


def _verified(catalogues: Sequence[Catalogue]) -> list[str]:
    """Ids of backups that passed their verification somewhere, newest first; archives are no states of their own.

    What a wrong clock dated in the future comes last: no later state would ever be archived.
    """
    good = {one.id for found in catalogues for one in found.entries if one.verified == "success"}
    latest = datetime.now(UTC) + CLOCKS_APART
    states = sorted((one for one in good if id_kind(one) != "archive"), reverse=True)
    return sorted(states, key=lambda one: id_moment(one) > latest)


def _archived(catalogues: Sequence[Catalogue]) -> set[object]:
    """The moments of which there are archives that did not fail their verification."""
    entries = (one for found in catalogues for one in found.entries)
    return {one.created_at for one in entries if one.kind == "archive" and one.verified != "failed"}


@dataclass(frozen=True, slots=True)
class _Taking:
    """Places that answer, and those of them that take the archive."""

    answering: Sequence[Repository]
    targets: Sequence[Repository]
    options: ArchiveOptions
    on_progress: OnProgress

    async def newest_of(self, states: Sequence[str]) -> tuple[Made, list[PlaceOutcome]]:
        """Archive the newest state that is whole; after one that is not, only full backups are tried."""
        failures: list[Exception] = []
        fulls = [one for one in states if id_kind(one) == "full" and one != states[0]]
        for state in (states[0], *fulls[: TRIES - 1]):
            try:
                async with self._opened(state) as found:
                    return await self._archive(state, found, failures)
            except (Corrupt, NotFound, NotThere, NoIdentity) as error:
                failures.append(error)
        raise failures[0]

    @asynccontextmanager
    async def _opened(self, state: str) -> AsyncIterator[AsOf]:
        """The state as a backup like any other. A full one is only copied, which takes no identity."""
        if id_kind(state) != "full":
            async with opened(self.answering, state, None, (), self.options.scratch, self.on_progress) as found:
                _refuse_mixed(state, found)
                yield found
            return
        having = [one for one in self.answering if await one.has(state)]
        manifest = await read_backup(having or self.answering, state)
        assert isinstance(manifest, Manifest)
        await require_erased(self.answering, [manifest])
        async with leased_for_reading(having[0], state, PURPOSE):
            yield AsOf(tuple(having), manifest, (), manifest.created_at)

    async def _archive(self, state: str, found: AsOf, failures: Sequence[Exception]) -> tuple[Made, list[PlaceOutcome]]:
        making = await self._making(state, found, failures)
        first, *others = self._nearest_first(found)
        await self._prepare(first, found)
        async with leased(first, making.id, PURPOSE):
            made = await _committed(making, first)
        outcomes = [PlaceOutcome(first.place, "committed")]
        outcomes += [await self._copied_to(other, making, made, first, found) for other in others]
        return made, outcomes

    def _nearest_first(self, found: AsOf) -> list[Repository]:
        """The places that take it, beginning with one that has what is to be copied."""
        near = [one.place for one in found.repositories]
        return sorted(self.targets, key=lambda one: near.index(one.place) if one.place in near else len(near))

    async def _making(self, state: str, found: AsOf, failures: Sequence[Exception]) -> Making:
        manifest, head = found.manifest, await read_head(self.answering)
        known = (await read_ledgers(self.answering)).erasures
        erasures = [one.id for one in known if one.moment >= manifest.created_at]
        fallen = tuple(f"it is of an older state, for a newer one could not be archived: {one}" for one in failures[:1])
        said: dict[str, object] = {
            "label": self.options.label,
            "reason": self.options.reason,
            "trail_head": TrailHead(number=head.number, sha256=head.sha256) if head else None,
            "erasures": tuple(erasures),
        }
        backup_id, options = new_backup_id("archive", manifest.created_at), self.options
        exporting = Exporting(options.formats, options.exporting, options.scratch)
        warnings = (*found.warnings, *fallen)
        return Making(backup_id, found, state, options.copying, exporting, said, warnings, self.on_progress)

    async def _prepare(self, target: Repository, found: AsOf) -> None:
        """Bind a place to the database whose state it is, and sweep what interrupted runs left there."""
        source = found.manifest.source
        await target.bind(source.system_identifier, source.database)
        await sweep(target)

    async def _copied_to(
        self, other: Repository, making: Making, made: Made, first: Repository, found: AsOf
    ) -> PlaceOutcome:
        """Bring the archive to one more place; what an outage prevents, sync makes good."""
        copies = {one.stored.name: one for one in made.copied}
        try:
            await self._prepare(other, found)
            async with leased(other, making.id, PURPOSE), leased_for_reading(first, making.id, PURPOSE):
                await bring(making, made.copied, other, first)
                for stored in made.manifest.objects():
                    if stored.name not in copies:
                        await transfer(first.backend, other.backend, stored.name, stored.sha256)
                await other.commit(made.manifest)
        except OtherSource:
            raise
        except StorageError as error:
            return PlaceOutcome(other.place, "pending", error.message)
        return PlaceOutcome(other.place, "committed")


def _refuse_mixed(state: str, found: AsOf) -> None:
    """An archive has recipients of its own; nobody else may come to read what was not for them."""
    if not found.for_all:
        raise NotThere(
            f"what {state} is made of is encrypted for different recipients, so no archive may hold it together",
            "the next full backup is for the new ones alone: rowvault backup",
        )


async def _committed(making: Making, target: Repository) -> Made:
    """Make it and commit it; on failure what was written is removed, since a full disk should not stay full."""
    try:
        made = await make_archive(making, target)
    except Exception:
        with suppress(StorageError):  # the next sweep removes what this could not
            await discard(target, making.id)
        raise
    await target.commit(made.manifest)
    return made


async def _finish(
    made: Made,
    targets: Sequence[Repository],
    outcomes: list[PlaceOutcome],
    suspicions: tuple[str, ...],
    options: ArchiveOptions,
    started: float,
    on_progress: OnProgress,
) -> BackupResult:
    """Keep it if that was wanted, and read it back."""
    manifest, committed_at = made.manifest, time.monotonic()
    there = [one for one in targets if PlaceOutcome(one.place, "committed") in outcomes]
    if options.keep:
        for repository in there:
            await repository.keep(manifest.id, options.reason)
    verification = await verify_backup(there, manifest.id, on_progress=on_progress)
    lacking = bool(made.left_out) or any(one.state != "committed" for one in outcomes)
    state: State = "failed" if verification.state == "failed" else "warning" if lacking else "success"
    return BackupResult(
        id=manifest.id,
        kind=manifest.kind,
        state=state,
        created_at=manifest.created_at,
        places=tuple(outcomes),
        tables=tuple(
            TableOutcome(one.schema_name, one.name, one.rows, one.bytes_raw, one.bytes_stored)
            for one in manifest.tables
        ),
        duration_seconds=committed_at - started,
        verify_seconds=time.monotonic() - committed_at,
        verification=verification,
        warnings=suspicions + manifest.warnings,
        uncovered_tables=len(manifest.not_covered.tables),
        checksums=tuple(one.checksum for one in manifest.tables),
    )
