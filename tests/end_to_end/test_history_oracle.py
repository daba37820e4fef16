"""Histories told from backups, against what a trigger wrote down of every row while writers and backups worked."""

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from jobs.concurrency import task_group
from jobs.errors import NotThere
from jobs.history import history
from jobs.postgres.change_log import is_visible
from jobs.postgres.errors import Contended
from storage.manifest import Manifest
from storage.repository import Repository
from tests.following import Follower, following
from tests.servers import Database

CHANGES, WRITERS, KEYS = 400, 4, 10
BUILD = """
    CREATE TABLE items (id int PRIMARY KEY, v int, large text);
    ALTER TABLE items ALTER large SET STORAGE EXTERNAL;
    INSERT INTO items SELECT n, 0, repeat('x', 5000) || n FROM generate_series(1, 10) n;
    CREATE SCHEMA witness;
    CREATE TABLE witness.seen (number bigserial, xid text DEFAULT pg_current_xact_id()::text, was jsonb, became jsonb);
    CREATE FUNCTION witness.see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO witness.seen (was, became) VALUES (
                CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END,
                CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN to_jsonb(NEW) END);
            RETURN NULL;
        END $$;
    CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION witness.see();
    CREATE TRIGGER truncated AFTER TRUNCATE ON items FOR EACH STATEMENT EXECUTE FUNCTION witness.see();
"""
Row = dict[str, str | None]
Told = tuple[int | None, Row | None]
"""A version: the transaction, None for that in the full backup, and the row after it."""


@pytest.fixture
async def follower(database: Database) -> Follower:
    await database.execute(BUILD)
    return following(database)


async def test_every_row_has_the_history_that_a_witness_saw(follower: Follower) -> None:
    seed = random.randrange(1 << 32)
    await follower.begin()
    stopped = asyncio.Event()
    async with task_group() as group:
        for number in range(WRITERS):
            group.create_task(write(follower.database, random.Random(seed + number), stopped))
        while await follower.database.value("SELECT count(*) FROM witness.seen") < CHANGES:
            await follower.window()
            with suppress(Contended):  # a TRUNCATE came between
                await follower.full()
        stopped.set()
    await follower.window()
    seen = await follower.database.fetch("SELECT xid, was, became FROM witness.seen ORDER BY number")
    while fulls := [one.id for one in (await follower.primary.catalogue()).entries if one.kind == "full"]:
        oldest = await follower.primary.manifest(fulls[-1])
        for key in range(1, KEYS + 1):
            assert await told(follower, key) == expected(seen, key, oldest), f"key {key} since {oldest.id}, seed {seed}"
        await forget(follower.primary, oldest.id)


async def forget(repository: Repository, backup_id: str) -> None:
    """Remove a backup, so that the one after it is the oldest."""
    await repository.backend.delete([one.name async for one in repository.backend.list() if backup_id in one.name])


async def write(database: Database, chance: random.Random, stopped: asyncio.Event) -> None:
    """Random transactions on few rows, some of them rolled back, until told to stop."""
    async with database.connect() as connection:
        while not stopped.is_set():
            await connection.execute(f"SET synchronous_commit = {chance.choice(['on', 'off'])}")
            transaction = connection.transaction()
            await transaction.start()
            try:
                for _ in range(chance.randint(1, 4)):
                    await connection.execute(statement(chance))
                    await asyncio.sleep(chance.choice([0, 0, 0.005]))
            except (asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
                await transaction.rollback()
            else:
                await (transaction.rollback() if chance.random() < 0.1 else transaction.commit())


def statement(chance: random.Random) -> str:
    """One statement that changes something, most often."""
    key, other, number = chance.randint(1, KEYS), chance.randint(1, KEYS), chance.randrange(1000)
    return chance.choices(
        [
            f"UPDATE items SET v = {number} WHERE id = {key}",
            f"UPDATE items SET large = repeat('y', 5000) || {number} WHERE id = {key}",
            f"DELETE FROM items WHERE id = {key}",
            f"INSERT INTO items VALUES ({key}, {number}, repeat('z', 5000)) ON CONFLICT DO NOTHING",
            f"UPDATE items SET id = {other} WHERE id = {key} AND NOT EXISTS (SELECT FROM items WHERE id = {other})",
            "TRUNCATE items",
        ],
        [40, 10, 10, 25, 14, 1],
    )[0]


async def told(follower: Follower, key: int) -> list[Told]:
    """What a row's history says."""
    try:
        found = await history(follower.places, "items", {"id": str(key)}, follower.source)
    except NotThere:
        return []
    return [(version.xid, dict(version.row) if version.row else None) for version in found.versions]


def expected(seen: Sequence[tuple[Any, ...]], key: int, oldest: Manifest) -> list[Told]:
    """What the witness saw of one key; all that the oldest full backup sees makes its first version."""
    row: Row | None = {"id": str(key), "v": "0", "large": "x" * 5000 + str(key)}
    versions: list[Told] = [(None, row)]
    for xid, was, became in seen:
        before, after = (json.loads(one) if one else None for one in (was, became))
        truncated = before is None and after is None
        if (truncated and row is not None) or key in {one["id"] for one in (before, after) if one}:
            row = {name: str(value) for name, value in after.items()} if after and after["id"] == key else None
            if is_visible(int(xid), oldest.snapshot.xmax, oldest.snapshot.in_progress):
                versions = [(None, row)] if row else []
            else:
                versions.append((int(xid), row))
    return versions
