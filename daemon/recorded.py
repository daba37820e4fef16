"""What commands do with backups, each carried out and remembered."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from daemon.app import App, Kind, Request
from daemon.recording import Recorder
from daemon.runner import job_in_places, job_run
from jobs.as_of import AsOf
from jobs.erase import EraseResult
from jobs.erasing.plan import ErasePlan
from jobs.erasing.subject import Children, Predicate
from jobs.export import ExportResult
from jobs.export import export as write_files
from jobs.exporting.plan import ExportOptions, ExportPlan
from jobs.places import catalogue
from jobs.places.one_database import require_of
from jobs.progress import OnProgress
from jobs.prune import PruneResult
from jobs.prune import prune as remove_unwanted
from jobs.remember import (
    Account,
    account_of_backup,
    account_of_drill,
    account_of_erasure,
    account_of_export,
    account_of_prune,
    account_of_restore,
    account_of_sync,
    account_of_verification,
    erasure_details,
    export_details,
    scope_details,
)
from jobs.removal import remove as remove_named
from jobs.restore import RestoreOptions, RestorePlan
from jobs.restore import restore as carry_out
from jobs.results import BackupResult, DrillResult, RestoreResult, VerifyResult
from jobs.scope import Scope
from jobs.sync import SyncOptions, SyncResult, sync
from jobs.teardown import tear_down
from jobs.verify import verify_backup
from storage.repository import Repository

R = TypeVar("R")


async def backup(app: App, recorder: Recorder, kind: Kind, request: Request, on_progress: OnProgress) -> BackupResult:
    """Take a backup under the job lock."""
    take = app.full_backup if kind == "full" else app.incremental_backup

    async def taken() -> BackupResult:
        if kind == "archive":
            return await _archived(app, request, on_progress)
        async with job_run(app.source, f"{kind} backup", app.time_limit):
            return await take(request, on_progress)

    return await recorder.carry_out("backup", taken(), account_of_backup, _said(request))


def _said(request: Request) -> dict[str, JsonValue]:
    return {"label": request.label, "reason": request.reason, "keep": request.keep}


async def _archived(app: App, request: Request, on_progress: OnProgress) -> BackupResult:
    async with job_in_places(app.source_if_any, app.impatient_places, "archive", app.time_limit):
        result = await app.archive(request, on_progress)
    assert result is not None
    return result


async def verify(
    repositories: Sequence[Repository], recorder: Recorder, backup_id: str, share: float, on_progress: OnProgress
) -> VerifyResult:
    """Verify a backup in these places."""
    verified = verify_backup(repositories, backup_id, share, on_progress)
    return await recorder.carry_out("verify", verified, account_of_verification, {"sample": share}, backup_id)


async def restore(
    repositories: Sequence[Repository],
    recorder: Recorder,
    plan: RestorePlan,
    scope: Scope,
    options: RestoreOptions,
    on_progress: OnProgress,
) -> RestoreResult:
    """Carry out what was planned for that scope, out of these repositories."""
    restored = carry_out(plan, repositories, options, on_progress)
    said = scope_details(scope, plan.target.where) | {"as_of": plan.manifest.created_at.isoformat()}
    return await recorder.carry_out("restore", restored, account_of_restore, said, plan.manifest.id)


async def export(
    found: AsOf, recorder: Recorder, plan: ExportPlan, out: Path, options: ExportOptions, on_progress: OnProgress
) -> ExportResult:
    """Write what was planned into a folder."""
    exported = write_files(found, plan, out, options, on_progress)
    said = export_details(plan, out) | {"as_of": found.manifest.created_at.isoformat()}
    return await recorder.carry_out("export", exported, account_of_export, said, found.manifest.id)


async def drill(app: App, recorder: Recorder, on_progress: OnProgress) -> DrillResult:
    """Hold a drill, under the source's lock for drills; where no source is set, there is nobody to share one with."""

    async def held() -> DrillResult:
        known = app.settings.database_url is not None
        async with job_run(app.source, "drill", app.time_limit, "drills") if known else nullcontext():
            return await app.drill(on_progress)

    return await recorder.carry_out("drill", held(), account_of_drill)


async def plan_erasure(
    app: App,
    recorder: Recorder,
    predicate: Predicate,
    children: Children | None,
    on_progress: OnProgress,
    *,
    dry_run: bool,
) -> ErasePlan:
    """Find out what an erasure would do; unless it is only to be shown, what was committed until now is stored first.

    The caller holds the job lock.
    """
    async with recorder.planning("erase", erasure_details(predicate, children), dry_run=dry_run):
        if dry_run:
            return await app.plan_erasure(predicate, children, None, on_progress)
        await app.check_subject(predicate, children)
        request = Request(reason="before an erasure")
        backup = app.incremental_backup(request, on_progress)
        taken = await recorder.carry_out("backup", backup, account_of_backup, _said(request))
        plan = await app.plan_erasure(predicate, children, taken.id, on_progress)
        plan.require_gone()
        return plan


async def erase(app: App, recorder: Recorder, plan: ErasePlan, on_progress: OnProgress) -> EraseResult:
    """Carry out what was planned, under the job lock that was held when it was."""
    said = erasure_details(plan.predicate, plan.children)
    return await recorder.carry_out("erase", app.erase(plan, on_progress), account_of_erasure, said)


async def resume_erasures(app: App, recorder: Recorder, on_progress: OnProgress) -> list[EraseResult]:
    """Finish erasures; each that something was done of is remembered by itself."""
    async with recorder.planning("erase", {"resumed": True}):
        results = await app.resume_erasures(on_progress)
    for result in results:
        if result.revisions or result.state != "warning":
            await recorder.carry_out("erase", already(result), account_of_erasure, {"resumed": True})
    return results


async def already(result: R) -> R:
    """What was done already."""
    return result


async def reconcile(app: App, recorder: Recorder, options: SyncOptions, on_progress: OnProgress) -> SyncResult:
    """Reconcile the places under the job lock."""

    async def reconciled() -> SyncResult:
        async with job_in_places(app.source_if_any, app.impatient_places, "sync", app.time_limit):
            return await sync(app.repositories, options, on_progress)

    return await recorder.carry_out("sync", reconciled(), account_of_sync, {"check": options.check})


async def prune(app: App, recorder: Recorder, on_progress: OnProgress) -> PruneResult:
    """Carry retention out under the job lock; of another database's backups nothing goes."""

    async def pruned() -> PruneResult:
        async with job_in_places(app.source_if_any, app.impatient_places, "prune", app.time_limit):
            if app.source_if_any is not None:
                await require_of(app.source_if_any, app.impatient_places)
            return await remove_unwanted(app.repositories, on_progress=on_progress)

    return await recorder.carry_out("prune", pruned(), account_of_prune)


async def remove(app: App, recorder: Recorder, wanted: Sequence[str], on_progress: OnProgress) -> PruneResult:
    """Remove backups that a person named, under the job lock."""

    async def removed() -> PruneResult:
        async with job_in_places(app.source_if_any, app.impatient_places, "prune", app.time_limit):
            return await remove_named(app.repositories, wanted, on_progress)

    return await recorder.carry_out("prune", removed(), account_of_prune, {"named": [*wanted]})


async def keep(app: App, recorder: Recorder, backup_id: str, reason: str) -> None:
    """Set a keep mark."""
    kept = catalogue.keep(app.repositories, backup_id, reason)
    await recorder.carry_out("keep", kept, lambda _: Account("success", backup_id), {"reason": reason}, backup_id)


async def release(app: App, recorder: Recorder, backup_id: str) -> None:
    """Lift a keep mark."""
    released = catalogue.release(app.repositories, backup_id)
    await recorder.carry_out("release", released, lambda _: Account("success", backup_id), {}, backup_id)


async def teardown(app: App, recorder: Recorder) -> tuple[str, ...]:
    """Remove what Rowvault made in the source; the log there, which goes too, is not written to."""

    async def removed() -> tuple[str, ...]:
        async with job_run(app.source, "teardown", app.time_limit):
            return await tear_down(app.source)

    def account(gone: tuple[str, ...]) -> Account:
        return Account("success", None, {"removed": [*gone]})

    return await recorder.without_log().carry_out("teardown", removed(), account)
