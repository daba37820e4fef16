"""A full backup: every row of the chosen tables as of one moment, committed last, verified right after.

With two places the local one takes the stream, and each finished object is copied off-site while the next are made, so
that slow storage never holds the snapshot.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from jobs.concurrency import alongside, task_group
from jobs.copying.giving_way import giving_way
from jobs.copying.schema_copy import SchemaFiles, copy_schema, store_dump
from jobs.copying.table_copy import copy_tables, parts_by_table
from jobs.describe import (
    describe_encryption,
    describe_not_covered,
    describe_schema_only,
    describe_sequences,
    describe_snapshot,
    describe_source,
    describe_tables,
    describe_warnings,
)
from jobs.incrementals.continuation import newest_full
from jobs.incrementals.key_lists import store_key_lists
from jobs.incrementals.log_position import LogPosition, described_for, log_position
from jobs.places.leasing import leased
from jobs.places.offsite import Mirror, mirrored
from jobs.places.sweep import discard
from jobs.postgres.catalogue import Chosen, Selection, TableShape
from jobs.postgres.connection import Source, session
from jobs.postgres.copying import PartPlan, plan_copying
from jobs.postgres.identifiers import TableName
from jobs.postgres.inventory import Inventory, Scope, read_chosen_shapes, read_inventory, read_scope
from jobs.postgres.role_settings import read_role_settings
from jobs.postgres.snapshot import Snapshot, SnapshotSession, open_snapshot
from jobs.postgres.tools import Tools, newest_for, tools_at_hand
from jobs.preparing import BackupOptions, Ready, identify, make_ready
from jobs.progress import OnProgress, Progress, no_progress
from jobs.results import BackupResult, PlaceOutcome, State, TableOutcome, VerifyResult
from jobs.verify import verify_backup
from storage.errors import OutOfSpace, StorageError
from storage.manifest import Dump, Manifest, Part, Table
from storage.manifest import Sequence as StoredSequence
from storage.names import check_label, check_reason, new_backup_id
from storage.repository import Repository

Shapes = Mapping[int, TableShape]


async def full_backup(
    source: Source,
    selection: Selection,
    repositories: Sequence[Repository],
    options: BackupOptions,
    on_progress: OnProgress = no_progress,
) -> BackupResult:
    """Take, commit and verify one full backup. The job lock is the caller's to hold.

    `repositories` are the places, the primary one first. A second place that fails is `pending`, not a failure.
    Raises what the database and the primary place raise; nothing is committed then.
    """
    check_label(options.label)
    check_reason(options.reason)
    started = time.monotonic()
    async with task_group() as group:
        at_hand = group.create_task(asyncio.to_thread(tools_at_hand, options.pg_bin))
        lineage = await identify(source)
    tools = newest_for(lineage.major, at_hand.result())
    ready = await make_ready(lineage, repositories, adopt=options.adopt)
    taking = await _taking(source, selection, ready, tools, options, on_progress)
    manifest, committed = await giving_way(lambda: _attempt(taking), options.attempts, on_progress)
    outcomes = [*committed, *ready.pending]
    committed_at = time.monotonic()
    there = [repository for repository in repositories if _committed(repository, outcomes)]
    if options.keep:
        for repository in there:
            await repository.keep(manifest.id, options.reason)
    verification = await verify_backup(there, manifest.id, on_progress=on_progress)
    return BackupResult(
        id=manifest.id,
        kind=manifest.kind,
        state=_state(outcomes, verification),
        created_at=manifest.created_at,
        places=tuple(outcomes),
        tables=_table_outcomes(manifest),
        duration_seconds=committed_at - started,
        verify_seconds=time.monotonic() - committed_at,
        verification=verification,
        warnings=ready.suspicions + manifest.warnings + verification.notes,
        uncovered_tables=len(manifest.not_covered.tables),
        checksums=tuple(table.checksum for table in manifest.tables),
    )


@dataclass(frozen=True, slots=True)
class _Taking:
    """What every attempt at one backup needs. `log` is how far the change log has come, if there is one to continue it;
    `keys`: whether lists of keys are stored of the tables that are not in it, `compared`: why all are to be compared.
    """

    source: Source
    selection: Selection
    ready: Ready
    tools: Tools
    options: BackupOptions
    on_progress: OnProgress
    log: LogPosition | None
    keys: bool
    compared: str

    @property
    def primary(self) -> Repository:
        return self.ready.primary

    @property
    def logged(self) -> Collection[int]:
        return self.log.capture.tables if self.log else ()


async def _taking(
    source: Source,
    selection: Selection,
    ready: Ready,
    tools: Tools,
    options: BackupOptions,
    on_progress: OnProgress,
) -> _Taking:
    """How the backup is to be continued: as it was asked for, else as the full one before."""
    if options.chaining is not None:
        keys, compared = True, options.chaining.obstacle
    else:
        before = await newest_full(ready.primary)
        keys = before is not None and any(table.keys is not None for table in before.tables)
        compared = before.compared if before else ""
    log = None
    if not compared:
        async with session(source, "change log") as connection:
            log = await log_position(connection, ready.primary)
    return _Taking(source, selection, ready, tools, options, on_progress, log, keys, compared)


async def _attempt(taking: _Taking) -> tuple[Manifest, list[PlaceOutcome]]:
    primary, others = taking.primary, taking.ready.others
    async with AsyncExitStack() as locks:
        session = await locks.enter_async_context(open_snapshot(taking.source, taking.selection, taking.options.locks))
        await locks.enter_async_context(alongside(session.watch()))
        backup_id = new_backup_id("full", session.snapshot.moment)
        async with (
            leased(primary, backup_id, "full backup"),
            mirrored(primary, others, backup_id) as mirrors,
        ):
            manifest = await _copy(taking, session, locks, backup_id, mirrors)
            await _commit(primary, manifest)
            outcomes = [PlaceOutcome(primary.place, "committed")]
            outcomes += [await mirror.finish(manifest) for mirror in mirrors]
            return manifest, outcomes


async def _commit(primary: Repository, manifest: Manifest) -> None:
    """Commit; if there is no room for the manifest, no object of the backup stays either."""
    try:
        await primary.commit(manifest)
    except OutOfSpace:
        # After any other failure the manifest may still show: a reply was lost, a name is there and not yet durable.
        with suppress(StorageError):
            if not await primary.claimed(manifest.id):
                await discard(primary, manifest.id)
        raise


async def _copy(
    taking: _Taking, session: SnapshotSession, locks: AsyncExitStack, backup_id: str, mirrors: list[Mirror]
) -> Manifest:
    """Copy everything, and let go of the locks; on failure remove what was written, since a full disk should not stay
    full.
    """
    try:
        async with locks:  # nobody waits on our locks for what storage still has to do
            manifest = await _store_everything(taking, session, backup_id, mirrors)
            await session.make_durable()
            await session.confirm()
            return manifest
    except Exception:
        with suppress(StorageError):  # the next run's sweep removes what this could not
            await discard(taking.primary, backup_id)
        raise


async def _store_everything(
    taking: _Taking, session: SnapshotSession, backup_id: str, mirrors: list[Mirror]
) -> Manifest:
    """Store rows and schema side by side, then what is made of both. Mirrors are offered each object that is there."""
    snapshot, chosen = session.snapshot, session.chosen
    async with task_group() as group:
        shapes = await read_chosen_shapes(session)
        rows = group.create_task(_store_rows(taking, snapshot, chosen, shapes, backup_id, mirrors))
        keys = group.create_task(_store_keys(taking, snapshot, chosen, shapes, backup_id, mirrors))
        scope = await read_scope(session)
        schema = group.create_task(_store_schema(taking, session, scope, backup_id))
        inventory = await read_inventory(session, scope, shapes)
    tables = describe_tables(inventory, parts_by_table(rows.result()), keys.result(), taking.logged)
    sequences = describe_sequences(inventory.sequences)
    backend, recipients = taking.primary.backend, taking.options.copying.recipients
    dump = await store_dump(backend, backup_id, taking.tools, inventory, schema.result(), tables, sequences, recipients)
    for mirror in mirrors:
        mirror.offer(dump.files())
    return _manifest(taking, snapshot, inventory, backup_id, tables, sequences, dump)


async def _store_schema(taking: _Taking, session: SnapshotSession, scope: Scope, backup_id: str) -> SchemaFiles:
    async with session.alone() as connection:
        settings_sql = await read_role_settings(connection)
    return await copy_schema(
        taking.tools,
        taking.source,
        session.snapshot.id,
        scope,
        settings_sql,
        backup_id,
        taking.primary.backend,
        taking.options.locks.lock_timeout,
        taking.options.copying.recipients,
    )


async def _store_rows(
    taking: _Taking, snapshot: Snapshot, chosen: Chosen, shapes: Shapes, backup_id: str, mirrors: list[Mirror]
) -> list[tuple[PartPlan, Part]]:
    copying = taking.options.copying
    plans = plan_copying(chosen, shapes, copying.pages_per_part)
    total = sum(plan.weight for plan in plans)
    done = 0
    stored: list[tuple[PartPlan, Part]] = []

    def on_part(plan: PartPlan, part: Part) -> None:
        nonlocal done
        stored.append((plan, part))
        for mirror in mirrors:
            mirror.offer(part.objects)
        done += plan.weight
        taking.on_progress(Progress("copied", done, total, backup_id, str(plan.table), plan.number))

    await copy_tables(taking.source, snapshot.id, backup_id, plans, taking.primary.backend, copying, on_part)
    return stored


async def _store_keys(
    taking: _Taking, snapshot: Snapshot, chosen: Chosen, shapes: Shapes, backup_id: str, mirrors: list[Mirror]
) -> dict[TableName, Part]:
    """Store lists of keys, in a session of its own beside those that copy rows."""
    beside = [one for one in chosen.relations if taking.keys and one.oid not in taking.logged]
    keys = [(one.table, key) for one in beside if (key := shapes[one.oid].copied_key)]
    encoding = taking.ready.lineage.encoding

    def on_list(listed: Part) -> None:
        for mirror in mirrors:
            mirror.offer(listed.objects)

    return await store_key_lists(
        taking.source, snapshot.id, backup_id, keys, encoding, taking.primary.backend, taking.options.copying, on_list
    )


def _manifest(
    taking: _Taking,
    snapshot: Snapshot,
    inventory: Inventory,
    backup_id: str,
    tables: tuple[Table, ...],
    sequences: tuple[StoredSequence, ...],
    dump: Dump,
) -> Manifest:
    missing = describe_not_covered(
        inventory.relations,
        inventory.chosen,
        inventory.foreign_keys,
        inventory.large_objects,
        inventory.other_schemas,
    )
    return Manifest(
        id=backup_id,
        kind="full",
        created_at=snapshot.moment,
        finished_at=datetime.now(UTC),
        base=None,
        label=taking.options.label,
        reason=taking.options.reason,
        program=f"rowvault {version('rowvault')}",
        source=describe_source(taking.ready.lineage),
        snapshot=describe_snapshot(snapshot),
        dump=dump,
        tables=tables,
        sequences=sequences,
        schema_only=describe_schema_only(inventory),
        not_covered=missing,
        capture=described_for(taking.log, snapshot) if taking.log else None,
        compared=taking.compared,
        gap=taking.options.chaining.gap if taking.options.chaining else None,
        trail_head=taking.ready.trail_head,
        encryption=describe_encryption(taking.options.copying.recipients),
        warnings=describe_warnings(taking.ready.lineage, inventory, missing),
    )


def _committed(repository: Repository, outcomes: list[PlaceOutcome]) -> bool:
    return PlaceOutcome(repository.place, "committed") in outcomes


def _state(outcomes: list[PlaceOutcome], verification: VerifyResult) -> State:
    if verification.state == "failed":
        return "failed"
    return "success" if all(outcome.state == "committed" for outcome in outcomes) else "warning"


def _table_outcomes(manifest: Manifest) -> tuple[TableOutcome, ...]:
    return tuple(
        TableOutcome(table.schema_name, table.name, table.rows, table.bytes_raw, table.bytes_stored)
        for table in manifest.tables
    )
