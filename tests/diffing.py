"""Comparing in tests: a shop, a backup of it, and what differs between that and what is there now."""

from jobs.diff import DiffOptions, DiffResult, TableDiff, diff_live
from jobs.postgres.connection import Source
from jobs.postgres.snapshot import LockLimits
from storage.manifest import Manifest
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.places import DAMAGES, Planter
from tests.round_trip import EVERYTHING, Taken, selection
from tests.servers import Database

LIMITS = LockLimits(lock_timeout=1.0, give_way_after=0.4, lost_after=3)
SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text, score numeric);
    INSERT INTO customers SELECT n, 'customer ' || n, n / 7.0 FROM generate_series(1, 500) n;
    CREATE TABLE "Odd. ""table"" here" ("the=key" text, b int, "v\tv" text, PRIMARY KEY (b, "the=key"));
    INSERT INTO "Odd. ""table"" here" SELECT E'tab\\t, line\\n, back\\\\slash ' || n, n, md5(n::text)
      FROM generate_series(1, 20) n;
    CREATE TABLE notes (body text);
    INSERT INTO notes SELECT 'note ' || n % 5 FROM generate_series(1, 50) n;
    CREATE TABLE events (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    INSERT INTO events SELECT n, date '2026-01-01' + n % 50 FROM generate_series(1, 100) n;
    CREATE TABLE nothing (id int PRIMARY KEY);
"""
ODD = 'Odd. "table" here'


async def diff_shop(create_database: CreateDatabase) -> Database:
    """Tables of several kinds: with keys and without, partitioned, empty, of names that need quotes."""
    return await create_database(key="diff_shop", build=SHOP)


async def diff(
    taken: Taken, live: Database, *tables: str, keys: bool = False, patterns: tuple[str, ...] = EVERYTHING
) -> DiffResult:
    """What differs between a backup and a database now."""
    return await diff_live(
        [taken.repository], taken.manifest, Source(live.dsn), selection(patterns), LIMITS, DiffOptions(tables, keys)
    )


def by_name(result: DiffResult) -> dict[str, TableDiff]:
    """The tables of a comparison."""
    return {table.name: table for table in result.tables}


def counts(table: TableDiff) -> tuple[int, int, int]:
    """How many rows are missing, changed and extra."""
    return table.missing, table.changed, table.extra


TOUCHED = "UPDATE customers SET name = name"  # the rows are as before, and lie elsewhere, so all parts have to be read


async def plant(manifest: Manifest, place: Repository, damage: str) -> None:
    """Damage the last object of a table, so that others of it were read already."""
    (customers,) = (table for table in manifest.tables if table.name == "customers")
    await DAMAGES[damage][0](Planter(place.backend), customers.parts[-1].objects[-1].name)
