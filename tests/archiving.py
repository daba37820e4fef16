"""Archiving in tests: a shop whose changes are captured, in two places, and archives of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.archive import ArchiveOptions, archive
from jobs.results import BackupResult
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.leases import list_leases
from storage.names import BACKUPS, MANIFESTS
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.following import Follower, following
from tests.round_trip import SMALL_PIECES
from tests.servers import Database
from tests.storage.helpers import names

SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
    CREATE TABLE orders (id int PRIMARY KEY, total numeric);
    INSERT INTO orders SELECT n, n / 4.0 FROM generate_series(1, 3000) n;
    CREATE TABLE no_key (word text);
    INSERT INTO no_key VALUES ('first');
    CREATE TABLE nothing_yet (id int);
"""
TABLES = ("customers", "no_key", "nothing_yet", "orders")
CHANGES = (
    "UPDATE customers SET name = upper(name) WHERE id % 7 = 0",
    "DELETE FROM orders WHERE id BETWEEN 10 AND 20",
    "INSERT INTO no_key VALUES ('second')",
)


async def archive_shop(create_database: CreateDatabase) -> Database:
    """A database of four tables, one without a key and one without rows."""
    return await create_database(key="archive-shop", build=SHOP)


def two_places(folder: Path) -> tuple[Repository, Repository]:
    """One on disk, one in memory, both empty."""
    return Repository("local", LocalBackend(folder / "local")), Repository("s3", MemoryBackend())


async def chain_of(shop: Database, places: tuple[Repository, Repository]) -> Follower:
    """A full backup in small parts, and an incremental one after it."""
    follower = following(shop, *places)
    follower = replace(follower, options=replace(follower.options, copying=replace(SMALL_PIECES, pages_per_part=8)))
    await follower.begin()
    await follower.change(*CHANGES)
    return follower


async def archived(places: Sequence[Repository], **options: Any) -> BackupResult:
    """An archive, by which no lease is left."""
    result = await archive(places, ArchiveOptions(**options))
    assert result is not None
    assert [await list_leases(one.backend) for one in places] == [[] for _ in places]
    return result


async def forget_all_but(result: BackupResult, places: Sequence[Repository]) -> None:
    """Lose every other backup."""
    for place in places:
        await place.backend.delete(await names(place.backend, BACKUPS))
        others = [name for name in await names(place.backend, MANIFESTS) if result.id not in name]
        await place.backend.delete(others)
