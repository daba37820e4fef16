"""The oracle: while many sessions work and backups are taken, moments are remembered; each must come back as it was.

Each backup is plain, or encrypted for one key or another.

ROWVAULT_ORACLE_SECONDS    how long the work goes on (default 30)
ROWVAULT_ORACLE_SEED       repeats a run, as far as chance allows; it is printed, and chooses the server's version
"""

import asyncio
import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from jobs.as_of import opened
from jobs.chains.points import At, AtLsn
from jobs.copying.table_copy import CopyOptions
from jobs.full_backup import full_backup
from jobs.incremental import incremental_backup
from jobs.places.catalogue import list_backups
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.postgres.pgoutput import lsn_number
from jobs.preparing import BackupOptions
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.scope import Scope
from storage.backends.memory import MemoryBackend
from storage.repository import Repository
from tests.following import Follower, Lines, following, lines_of
from tests.keys import keyring_of, new_key
from tests.servers import MAJORS, Database, Server, own_server
from tests.working import BUILD, Barrier, Worker

SECONDS = float(os.environ.get("ROWVAULT_ORACLE_SECONDS", "30"))
SEED = int(os.environ.get("ROWVAULT_ORACLE_SEED", random.randrange(1_000_000)))
WORKERS = 4
WINDOWS = (100_000, 1 << 28)
KEYS = new_key(), new_key()
RESTORED = 5
"""So many moments are restored into a database; the others are read."""


@dataclass(frozen=True)
class Moment:
    """When nobody was committing: the time, the LSN, and what was in the database."""

    time: datetime
    lsn: int
    lines: Lines


def place_of_any_keys() -> Repository:
    """In memory, for who has all identities."""
    return Repository("memory", MemoryBackend(), keyring_of(*KEYS))


def any_copying(chance: random.Random) -> CopyOptions:
    """Plain, or for one of the keys."""
    return CopyOptions(recipients=chance.choice((None, *(key.recipients for key in KEYS))))


@dataclass
class Run:
    """A database at work."""

    follower: Follower
    chance: random.Random
    barrier: Barrier = field(default_factory=Barrier)
    moments: list[Moment] = field(default_factory=list)
    working: bool = True

    async def remember_moments(self) -> None:
        """Now and then, what is in the database."""
        database = self.follower.database
        while self.working:
            await asyncio.sleep(self.chance.random() * SECONDS / 10)
            async with self.barrier.alone():
                lines = await lines_of(database)
                time, lsn = (await database.fetch("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text"))[0]
                # The next commit may begin right there, and a commit belongs to the LSN at which it begins.
                self.moments.append(Moment(time, lsn_number(lsn) - 1, lines))

    async def take_backups(self) -> None:
        """One after the other, most of them incremental."""
        while self.working:
            await asyncio.sleep(self.chance.random() * 0.5)
            if self.chance.random() < 0.15:
                options = BackupOptions(copying=any_copying(self.chance))
                await full_backup(self.follower.source, Selection(), self.follower.places, options)
            else:
                await self.incremental()

    async def incremental(self) -> None:
        """One in small windows, or in a large one."""
        capture = replace(
            self.follower.capture, window_bytes=self.chance.choice(WINDOWS), copying=any_copying(self.chance)
        )
        result = await incremental_backup(
            self.follower.source, Selection(), self.follower.places, capture, BackupOptions()
        )
        assert result.kind == "incremental", result.warnings
        assert result.state == "success"


@pytest.mark.timeout(SECONDS * 10 + 240)
async def test_every_moment_comes_back_as_it_was_whatever_was_going_on() -> None:
    chance = random.Random(SEED)
    major = chance.choice(MAJORS)
    print(f"ROWVAULT_ORACLE_SEED={SEED}, PostgreSQL {major}")  # noqa: T201 - shown if it fails
    async with own_server(major) as server:
        database = await server.create()
        await database.execute(BUILD)
        run = Run(following(database, place_of_any_keys()), chance)
        await run.follower.begin()
        workers = [Worker(database, run.barrier, f"{SEED}-{number}") for number in range(WORKERS)]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run(lambda: run.working))
            group.create_task(run.remember_moments())
            group.create_task(run.take_backups())
            group.create_task(_end(run))
        await run.incremental()
        kinds = Counter(backup.kind for backup in (await list_backups(run.follower.places)).backups)
        print(f"{sum(one.committed for one in workers)} transactions, {len(run.moments)} moments, {kinds}")  # noqa: T201
        await run.follower.require_latest()
        await _require_moments(run, server)


async def _end(run: Run) -> None:
    await asyncio.sleep(SECONDS)
    run.working = False


async def _require_moments(run: Run, server: Server) -> None:
    to_restore = run.chance.sample(run.moments, min(RESTORED, len(run.moments)))
    for moment in run.moments:
        assert await run.follower.backed_up(AtLsn(moment.lsn)) == moment.lines
        if moment in to_restore:
            assert await _restored(run, server, moment) == moment.lines
        else:
            assert await run.follower.backed_up(At(moment.time)) == moment.lines


async def _restored(run: Run, server: Server, moment: Moment) -> Lines:
    target: Database = await server.create()
    try:
        async with opened(run.follower.places, "latest", At(moment.time)) as made:
            options = RestoreOptions()
            plan = await plan_restore(made.repositories, made.manifest, Source(target.dsn), Scope(), options)
            await restore(plan, made.repositories, options)
        return await lines_of(target)
    finally:
        await server.drop(target)
