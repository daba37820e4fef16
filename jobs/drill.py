"""The recovery drill: restores the newest backup into a scratch database, proves it, and times every kind of loss.

The newest backup is that of the newest moment; where a chain leads to it, a random one of its moments is proved, too.

Nobody is asked anything, and nothing of the source or of the backup is changed.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from jobs.as_of import AsOf, opened
from jobs.drilling.moment import Covered, bring_back_moment, newest_covered
from jobs.drilling.proof import not_proved, prove_contents, prove_definitions
from jobs.drilling.scenarios import Ground, Recovery, lose_a_row, lose_a_table
from jobs.drilling.scratch import Scratch, World, scratch_database
from jobs.errors import Difference, NotThere, UnsafeTarget
from jobs.places.catalogue import resolve
from jobs.postgres.connection import Source, session
from jobs.postgres.errors import MissingPrivilege, PostgresError, ToolMissing, ToolTrouble
from jobs.postgres.stand_ins import Wanted, stand_ins_among
from jobs.progress import OnProgress, Progress, no_progress
from jobs.restore import RestoreOptions, plan_restore, restore, schema_archive, whole_object
from jobs.restoring.empty import FillPlan
from jobs.results import Check, DrillResult, PlaceOutcome, RestoreResult, Scenario, ScenarioOutcome, TableOutcome
from jobs.scope import Scope
from storage.age import NoIdentity
from storage.drill_reports import DrillRecord, keep_report
from storage.errors import Corrupt, NotFound, StorageError
from storage.manifest import Manifest
from storage.repository import Repository

OBJECTIVES: Mapping[Scenario, float] = {"one_row": 300, "one_table": 1800, "everything": 3600, "complete_loss": 7200}
MOMENT = "random moment"
_MENTIONS_AUTH = b"auth."


def objectives(rto: float | None) -> dict[Scenario, float]:
    """Seconds that recovering from each loss may take; where an `rto` is promised, it holds for the whole."""
    if rto is None:
        return dict(OBJECTIVES)
    whole: dict[Scenario, float] = {"everything": rto, "complete_loss": rto}
    return {name: min(seconds, rto) for name, seconds in OBJECTIVES.items()} | whole


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """How a drill is carried out: restores as `restore` says, on the server that was `given`, else on one of our own.

    `objectives` are in seconds. `moment` chooses one that the newest chain covers, to be brought back as well.
    """

    restore: RestoreOptions = field(default_factory=RestoreOptions)
    given: Source | None = None
    objectives: Mapping[Scenario, float] = field(default_factory=lambda: dict(OBJECTIVES))
    moment: Callable[[Covered], datetime] = Covered.random_moment


@dataclass(frozen=True, slots=True)
class _Found:
    """What a drill saw."""

    checks: tuple[Check, ...]
    server: str = ""
    tables: tuple[TableOutcome, ...] = ()
    scenarios: tuple[ScenarioOutcome, ...] = ()
    not_proved: tuple[str, ...] = ()


async def drill(
    repositories: Sequence[Repository], options: DrillOptions, on_progress: OnProgress = no_progress
) -> DrillResult:
    """Drill the newest backup; what is wrong with it is in the result, and its report in every place.

    Raises `NotThere` if there is no backup, `UnsafeTarget` if there is no server or no room for it.
    """
    began, started_at = time.monotonic(), datetime.now(UTC)
    backup_id = await resolve(repositories, "latest")
    try:
        async with opened(repositories, backup_id, on_progress=on_progress) as newest:
            found = await _carry_out(repositories, newest, options, on_progress)
    except Exception as error:
        if not _is_of_the_backup(error):
            raise
        found = _Found((Check("restore", "failed", str(error)),))
    result = DrillResult(
        id=backup_id,
        state="failed" if any(check.state == "failed" for check in found.checks) else "success",
        started_at=started_at,
        duration_seconds=time.monotonic() - began,
        server=found.server,
        tables=found.tables,
        checks=found.checks,
        scenarios=found.scenarios,
        not_proved=found.not_proved,
    )
    return await _keep(repositories, result)


def _is_of_the_backup(error: Exception) -> bool:
    """Whether it says that the backup cannot be restored, and not that the drill could not be held."""
    if isinstance(error, ToolTrouble):
        return not isinstance(error, ToolMissing)
    return isinstance(error, Difference | Corrupt | NotFound | NotThere) or type(error) is PostgresError


async def _keep(repositories: Sequence[Repository], result: DrillResult) -> DrillResult:
    record = DrillRecord(result.started_at, result.id, result.state)
    report = asdict(result) | {"started_at": result.started_at.isoformat()}
    places = []
    for repository in repositories:
        try:
            await keep_report(repository.backend, record, report)
            places.append(PlaceOutcome(repository.place, "committed"))
        except StorageError as error:
            places.append(PlaceOutcome(repository.place, "failed", error.message))
    short = result.state == "success" and any(place.state == "failed" for place in places)
    return replace(result, places=tuple(places), state="warning" if short else result.state)


async def _carry_out(
    everything: Sequence[Repository], newest: AsOf, options: DrillOptions, on_progress: OnProgress
) -> _Found:
    repositories, manifest = newest.repositories, newest.manifest
    world = await _world(repositories, manifest, options.restore)
    on_progress(Progress("preparing a scratch database", backup=manifest.id))
    async with scratch_database(manifest, world, options.given, options.restore.pg_bin) as scratch:
        began = time.monotonic()
        scope, how = Scope(), options.restore
        plan = await plan_restore(repositories, manifest, scratch.database, scope, how, on_progress)
        if not isinstance(plan, FillPlan):
            raise UnsafeTarget(f"the scratch database is not empty: {', '.join(plan.state.objects)}")
        restored = await _restored(repositories, plan, how, on_progress)
        seconds = time.monotonic() - began
        on_progress(Progress("proving the scratch database", backup=manifest.id))
        async with schema_archive(repositories, manifest) as archive:
            definitions = await prove_definitions(plan, scratch, world, archive)
        contents = await prove_contents(scratch.database, manifest)
        ground, tries = Ground(repositories, manifest, scratch.database, replace(how, statements=())), _Tries()
        await _lose(ground, tries, on_progress)
        await _prove_moment(everything, ground, options.moment, tries, on_progress)
        return _found(
            scratch,
            restored,
            (definitions, *contents, *tries.checks),
            _judged({**tries.timed, **_whole(manifest, seconds, scratch)}, options),
            (
                *scratch.not_proved,
                *await not_proved(scratch.database, plan),
                *newest.warnings,
                *tries.not_proved,
            ),
        )


async def _restored(
    repositories: Sequence[Repository], plan: FillPlan, how: RestoreOptions, on_progress: OnProgress
) -> RestoreResult:
    """Restore; where definitions need more of an extension than a stand-in has, the backup is not to blame."""
    try:
        return await restore(plan, repositories, how, on_progress)
    except ToolTrouble as error:
        async with session(plan.target, "drill") as connection:
            lacking = await stand_ins_among(connection)
        if not lacking:
            raise
        raise UnsafeTarget(
            f"definitions need extensions that the scratch server lacks ({', '.join(lacking)}): {error.message}",
            "install their packages beside the server that drills use, or let ROWVAULT_DRILL__DATABASE_URL name one "
            "with them",
        ) from error


def _found(
    scratch: Scratch,
    restored: RestoreResult,
    proofs: tuple[Check, ...],
    scenarios: tuple[ScenarioOutcome, ...],
    unproved: tuple[str, ...],
) -> _Found:
    equal = Check("content", "ok", f"{len(restored.tables)} tables equal, byte for byte")
    timed = tuple(
        Check(
            f"objective of {one.name}",
            "ok" if one.kept else "failed",
            f"{one.of}: took {one.seconds:.1f} s, may take {one.objective_seconds:g} s",
        )
        for one in scenarios
    )
    return _Found((equal, *restored.checks, *proofs, *timed), scratch.server, restored.tables, scenarios, unproved)


Timed = Mapping[Scenario, tuple[str, float]]
"""What was recovered, and in how many seconds."""


def _whole(manifest: Manifest, seconds: float, scratch: Scratch) -> Timed:
    everything = f"{len(manifest.tables)} tables, {manifest.rows:,} rows"
    return {
        "everything": (everything, seconds),
        "complete_loss": (f"{everything} and their server", seconds + scratch.seconds_to_have),
    }


def _judged(timed: Timed, options: DrillOptions) -> tuple[ScenarioOutcome, ...]:
    return tuple(
        ScenarioOutcome(name, *timed[name], objective)
        for name, objective in options.objectives.items()
        if name in timed
    )


@dataclass(frozen=True, slots=True)
class _Tries:
    """What became of what was tried once everything was restored: what was found before must be told, too."""

    checks: list[Check] = field(default_factory=list)
    timed: dict[Scenario, tuple[str, float]] = field(default_factory=dict)
    not_proved: list[str] = field(default_factory=list)

    @contextmanager
    def trying(self, name: str, doing: str) -> Iterator[None]:
        """What fails in the block because of the backup is a failed check of that name."""
        try:
            yield
        except (MissingPrivilege, NoIdentity) as error:
            self.not_proved.append(f"{doing}: {error.message}")
        except Exception as error:
            if not (_is_of_the_backup(error) or isinstance(error, UnsafeTarget)):
                raise
            self.checks.append(Check(name, "failed", f"{doing}: {error}"))


async def _lose(ground: Ground, tries: _Tries, on_progress: OnProgress) -> None:
    scenarios: Mapping[Scenario, Callable[[Ground], Awaitable[Recovery | None]]] = {
        "one_row": lose_a_row,
        "one_table": lose_a_table,
    }
    for name, play in scenarios.items():
        doing = f"recovering {name.replace('_', ' ')}"
        on_progress(Progress(doing, backup=ground.manifest.id))
        with tries.trying(name.replace("_", " "), doing):
            recovery = await play(ground)
            if recovery is None:
                tries.not_proved.append(f"{doing}: no table allows it")
            else:
                tries.checks.append(recovery.check)
                tries.timed[name] = recovery.of, recovery.seconds


async def _prove_moment(
    repositories: Sequence[Repository],
    ground: Ground,
    choose: Callable[[Covered], datetime],
    tries: _Tries,
    on_progress: OnProgress,
) -> None:
    covered = await newest_covered(repositories)
    if covered is None:
        return
    moment = choose(covered)
    doing = f"as of {moment.isoformat()}"
    on_progress(Progress(f"recovering a random moment, {doing}"))
    with tries.trying(MOMENT, doing):
        done = await bring_back_moment(repositories, covered, moment, ground.scratch, ground.options, on_progress)
        tries.checks.append(Check(MOMENT, "ok", f"{doing}: {done}"))


async def _world(repositories: Sequence[Repository], manifest: Manifest, how: RestoreOptions) -> World:
    """What the definitions need around them, and the roles that checks run as."""
    dump = manifest.dump
    named = {one.role for one in how.statements if one.role is not None}
    auth = "auth" not in dump.schemas and _MENTIONS_AUTH in await whole_object(repositories, dump.sql)
    return World(
        roles=tuple(sorted({*dump.roles, *named})),
        wanted=Wanted({one.name: one.schema_name for one in dump.extensions}, dump.servers, auth),
        most_sessions=4 * how.streams + 10,
    )
