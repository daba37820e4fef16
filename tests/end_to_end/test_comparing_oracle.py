"""The oracle of comparing: many sessions work while backups are taken; each backup must be its own moment.

What is taken while nobody commits, with transactions open, must be what was there then. What is taken in between shows
in those after it: a row that one of them missed would be missing ever after. Each is plain, or encrypted for some key.

ROWVAULT_ORACLE_SECONDS, ROWVAULT_ORACLE_SEED    as for the oracle of the change log
"""

import asyncio
import random
from dataclasses import dataclass, field, replace

import pytest

from jobs.full_backup import full_backup
from jobs.incremental import incremental_backup
from jobs.postgres.catalogue import Selection
from jobs.preparing import BackupOptions
from tests.end_to_end.test_oracle import SECONDS as LOG_SECONDS
from tests.end_to_end.test_oracle import SEED, WORKERS, any_copying, place_of_any_keys
from tests.following import Follower, Lines, comparing, lines_of
from tests.servers import MAJORS, own_server
from tests.working import BUILD, Barrier, Worker

SECONDS = LOG_SECONDS / 4


@dataclass
class Run:
    """A database at work; `told` are backups with what was in the database as they were taken."""

    follower: Follower
    chance: random.Random
    barrier: Barrier = field(default_factory=Barrier)
    told: dict[str, Lines] = field(default_factory=dict)
    taken: int = 0
    working: bool = True

    async def take_backups(self) -> None:
        """One after the other; now and then a full one, now and then while nobody commits."""
        while self.working:
            await asyncio.sleep(self.chance.random() * 0.3)
            if self.chance.random() < 0.1:
                options = BackupOptions(copying=any_copying(self.chance))
                await full_backup(self.follower.source, Selection(), self.follower.places, options)
            elif self.chance.random() < 0.5:
                await self.compare()
            else:
                async with self.barrier.alone():
                    self.told[await self.compare()] = await lines_of(self.follower.database)
            self.taken += 1

    async def compare(self) -> str:
        """One that is patient: the work truncates tables, too."""
        follower = self.follower
        capture = replace(follower.capture, copying=any_copying(self.chance))
        result = await incremental_backup(follower.source, Selection(), follower.places, capture, BackupOptions())
        assert (result.kind, result.state) == ("incremental", "success"), result.warnings
        return result.id

    async def end(self) -> None:
        """Let it go on for a while."""
        await asyncio.sleep(SECONDS)
        self.working = False


@pytest.mark.timeout(SECONDS * 10 + 240)
async def test_every_backup_is_what_was_there_whatever_was_going_on() -> None:
    chance = random.Random(SEED)
    major = chance.choice(MAJORS)
    print(f"ROWVAULT_ORACLE_SEED={SEED}, PostgreSQL {major}")  # noqa: T201 - shown if it fails
    async with own_server(major, wal_level="replica") as server:
        database = await server.create()
        await database.execute(BUILD)
        run = Run(comparing(database, place_of_any_keys()), chance)
        await run.follower.begin()
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                worker = Worker(database, run.barrier, f"{SEED}-{number}")
                group.create_task(worker.run(lambda: run.working))
            group.create_task(run.take_backups())
            group.create_task(run.end())
        await run.compare()
        await run.follower.require_latest()
        print(f"{run.taken} backups, {len(run.told)} told")  # noqa: T201
        assert run.told
        for backup_id, lines in run.told.items():
            assert await run.follower.backed_up(wanted=backup_id) == lines
