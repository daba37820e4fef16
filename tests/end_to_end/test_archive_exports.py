"""Exports that lie under an archive: verified with it, and made again after an erasure."""

import io
from pathlib import Path

import pyarrow.parquet
import pytest
import zstandard

from jobs.verify import verify_backup
from storage.names import ARCHIVES
from storage.objects import get
from storage.repository import Repository
from tests.archiving import TABLES, archive_shop, archived, chain_of, two_places
from tests.conftest import CreateDatabase
from tests.erasing import erased
from tests.following import Follower
from tests.places import Planter, backups_alike, contents
from tests.servers import Database
from tests.storage.helpers import names


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await archive_shop(create_database)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Repository, Repository]:
    return two_places(tmp_path)


@pytest.fixture
async def chain(shop: Database, places: tuple[Repository, Repository]) -> Follower:
    return await chain_of(shop, places)


async def test_exports_of_the_state_lie_under_it_and_are_verified_with_it(chain: Follower) -> None:
    result = await archived(chain.places, formats=("csv", "parquet"))
    assert (result.state, await backups_alike(*chain.places)) == ("success", True)
    found = await contents(chain.places[1].backend, f"{ARCHIVES}{result.id}/exports/")
    files = sorted(name.split("/exports/")[1] for name in found)
    assert files == [
        *(f"csv/{name}" for name in ("export.json", *(f"public/{table}.csv.zst" for table in TABLES))),
        *(f"parquet/{name}" for name in ("export.json", *(f"public/{table}.parquet" for table in TABLES))),
    ]
    [csv] = [data for name, data in found.items() if name.endswith("public/orders.csv.zst")]
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(csv).splitlines()
    assert len(lines) == 1 + len((await chain.lines())["public.orders"])
    [parquet] = [data for name, data in found.items() if name.endswith("public/orders.parquet")]
    assert pyarrow.parquet.read_table(io.BytesIO(parquet)).num_rows == len(lines) - 1
    await Planter(chain.primary.backend).flip(f"{ARCHIVES}{result.id}/exports/csv/public/orders.csv.zst")
    assert (await verify_backup(chain.places, result.id)).problems[0].kind == "sha256_stored"


async def test_an_erasure_makes_the_exports_of_what_it_rewrites_again(chain: Follower) -> None:
    result = await archived(chain.places, formats=("csv", "sql"))
    before = await exported(chain.primary, result.id)
    await chain.database.execute("DELETE FROM customers WHERE id = 8")
    erasure = await erased(chain, "id", "8", "customers")
    assert (result.id, 1) in {(one.backup, one.revision) for one in erasure.revisions}
    for place in chain.places:
        assert await names(place.backend, f"{ARCHIVES}{result.id}/exports/") == []
        after = await exported(place, result.id)
        assert after.keys() == before.keys()
        gone = {name: set(before[name]) - set(after[name]) for name in before if name.endswith("customers.csv.zst")}
        assert [len(lines) for lines in gone.values()] == [1]
        assert (await verify_backup([place], result.id)).state == "success"


async def exported(place: Repository, archive_id: str) -> dict[str, list[bytes]]:
    """The lines of an archive's exports that are compressed, by name."""
    manifest = await place.manifest(archive_id)
    found = {stored.name.split("/exports/")[1]: await get(place.backend, stored.name) for stored in manifest.exports}
    return {
        name: zstandard.ZstdDecompressor().decompressobj().decompress(data).splitlines()
        for name, data in found.items()
        if name.endswith(".zst")
    }
