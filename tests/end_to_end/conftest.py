"""Two backups of a small real database, on disk and in S3, for tests that damage them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from jobs.copying.table_copy import CopyOptions
from jobs.full_backup import full_backup
from jobs.postgres.connection import Source
from storage.backends.local import LocalBackend
from storage.manifest import Manifest
from storage.objects import put
from storage.repository import Repository
from tests.conftest import new_bucket
from tests.places import Planter, contents, s3_options, s3_place
from tests.round_trip import QUICK, selection
from tests.seaweed import S3Server
from tests.servers import DEFAULT_MAJOR, Database, Servers

BUILD = """
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    INSERT INTO customers SELECT n, md5(n::text) FROM generate_series(1, 1000) AS n;
    CREATE TABLE "Line Items" (id int PRIMARY KEY, customer int REFERENCES customers, note text);
    INSERT INTO "Line Items" SELECT n, 1 + n % 1000, md5(n::text) || n FROM generate_series(1, 1500) AS n;
    CREATE TABLE "nothing yet" (id int);
"""
DUMP_FILES = ("schema.dump", "schema.sql", "roles.sql", "load.sh", "RESTORE.txt")
KINDS_OF_OBJECT = (*DUMP_FILES, "data")
SEVERAL_PIECES = CopyOptions(streams=2, pages_per_part=8, roll_at=1)


@dataclass(frozen=True)
class Backups:
    """Two backups in two places, and what every object was when they were taken."""

    places: tuple[Repository, Repository]
    manifest: Manifest
    other: Manifest
    whole: tuple[dict[str, bytes], dict[str, bytes]]
    planters: tuple[Planter, Planter]

    @property
    def id(self) -> str:
        return self.manifest.id

    def one(self, kind: str) -> str:
        """An object of the first backup, of that kind."""
        if kind == "data":
            return self.data[0]
        return f"backups/{self.id}/{kind}"

    @property
    def data(self) -> list[str]:
        """Objects of one table, the longest first."""
        (table,) = (table for table in self.manifest.tables if table.name == "Line Items")
        objects = [stored for part in table.parts for stored in part.objects]
        return [stored.name for stored in sorted(objects, key=lambda stored: -stored.bytes)]

    def planter(self, place: Repository) -> Planter:
        """Plants faults there, which are mended after the test."""
        return self.planters[self.places.index(place)]

    async def mend(self) -> None:
        """Make everything as it was."""
        for planter, whole in zip(self.planters, self.whole, strict=True):
            found = {stored.name async for stored in planter.backend.list()}
            await planter.backend.delete(found - whole.keys())
            for name in (whole.keys() - found) | (whole.keys() & planter.touched):
                await put(planter.backend, name, whole[name])
            planter.touched.clear()


@pytest.fixture(scope="session")
async def source(servers: Servers) -> AsyncIterator[Database]:
    """The database that was backed up."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(BUILD)
    yield database
    await server.drop(database)


@pytest.fixture(scope="session")
async def taken(
    source: Database, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Backups]:
    """The backups, taken once."""
    local = Repository("local", LocalBackend(tmp_path_factory.mktemp("local")))
    options = replace(QUICK, copying=SEVERAL_PIECES)
    async with new_bucket(s3_server) as bucket, s3_place(s3_options(bucket)) as s3:
        results = []
        for comment in ("'of the first backup'", "'of the other backup'"):  # so that no object of theirs is the same
            await source.execute(f"COMMENT ON TABLE customers IS {comment}")
            results.append(await full_backup(Source(source.dsn), selection(), [local, s3], options))
        assert [result.state for result in results] == ["success", "success"]
        manifest, other = [await local.manifest(result.id) for result in results]
        whole = (await contents(local.backend), await contents(s3.backend))
        planters = (Planter(local.backend), Planter(s3.backend))
        yield Backups((local, s3), manifest, other, whole, planters)


@pytest.fixture
async def backups(taken: Backups) -> AsyncIterator[Backups]:
    """The backups, mended after the test."""
    yield taken
    await taken.mend()


@pytest.fixture(params=[0, 1], ids=["local", "s3"])
def place(backups: Backups, request: pytest.FixtureRequest) -> Repository:
    """Each of the places in turn."""
    return backups.places[request.param]
