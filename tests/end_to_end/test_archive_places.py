"""Where archives go: to every place that keeps them, from one that is whole, and to no other."""

from pathlib import Path
from typing import Any

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.errors import NoPlace
from jobs.sync import sync
from jobs.verify import verify_backup
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import StoredObject
from storage.errors import Unavailable
from storage.names import ARCHIVES, BACKUPS
from storage.repository import OtherSource, Repository
from storage.retention import Policy
from tests.archiving import archive_shop, archived, chain_of, two_places
from tests.conftest import CreateDatabase
from tests.following import Follower, following
from tests.places import Planter, backups_alike
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


async def test_a_damaged_copy_is_found_at_once_and_mended_from_the_other_place(chain: Follower) -> None:
    full = (await chain.primary.catalogue()).entries[-1].id
    data = max(await names(chain.primary.backend, f"{BACKUPS}{full}/data/public/orders/"))
    await Planter(chain.primary.backend).flip(data)
    result = await archived(chain.places)
    assert result.state == "failed"
    assert (await sync(chain.places)).state == "success"
    assert (await verify_backup(chain.places, result.id)).state == "success"


async def test_what_is_known_to_be_damaged_where_it_goes_comes_from_the_other_place(chain: Follower) -> None:
    """Else every archive would be of the damaged copy, for as long as that is not mended."""
    local, s3 = chain.places
    s3.policy = Policy(weekly=0, monthly=0)
    full = (await local.catalogue()).entries[-1].id
    await Planter(local.backend).flip(max(await names(local.backend, f"{BACKUPS}{full}/data/public/orders/")))
    assert (await verify_backup(chain.places, full)).state == "failed"
    assert (await archived(chain.places)).state == "success"


class Away(MemoryBackend):
    """A store that answers no more once it is away."""

    away = False

    async def begin(self, name: str, *, sha256: str | None = None) -> Any:
        if self.away:
            raise Unavailable("nobody answers there")
        return await super().begin(name, sha256=sha256)

    async def stat(self, name: str) -> StoredObject:
        if self.away:
            raise Unavailable("nobody answers there")
        return await super().stat(name)


async def test_a_place_that_is_away_gets_it_later(shop: Database, tmp_path: Path) -> None:
    store = Away()
    places = (Repository("local", LocalBackend(tmp_path)), Repository("s3", store))
    await following(shop, *places).begin()
    store.away = True
    result = await archived(places)
    assert (result.state, [place.state for place in result.places]) == ("warning", ["committed", "pending"])
    store.away = False
    assert (await sync(places)).state == "success"
    assert await backups_alike(*places)


async def test_an_empty_folder_beside_a_filled_bucket_is_said_loudly(chain: Follower, tmp_path: Path) -> None:
    """It is most likely a volume that is not mounted."""
    elsewhere = Repository("local", LocalBackend(tmp_path / "elsewhere"))
    result = await archived((elsewhere, chain.places[1]))
    assert "local held no backup, and s3 some: is a volume not mounted?" in result.warnings
    assert not any("mounted" in warning for warning in (await archived(chain.places)).warnings)


async def test_it_goes_where_archives_are_kept_and_nowhere_else(chain: Follower) -> None:
    _, s3 = chain.places
    apart = Repository("archive", MemoryBackend(), policy=Policy(kinds=frozenset({"archive"})))
    s3.policy = Policy(kinds=frozenset({"full", "incremental"}))
    places = (*chain.places, apart)
    result = await archived(places)
    assert [(place.name, place.state) for place in result.places] == [("local", "committed"), ("archive", "committed")]
    assert await names(s3.backend, ARCHIVES) == []
    assert (await sync(places)).lacking == ()
    assert [entry.kind for entry in (await apart.catalogue()).entries] == ["archive"]
    without_folder = (s3, apart)
    assert (await archived(without_folder)).state == "success"
    s3.policy = apart.policy = Policy(weekly=0, monthly=0)
    with pytest.raises(NoPlace):
        await archive(without_folder, ArchiveOptions())


async def test_a_place_of_another_database_is_refused(chain: Follower) -> None:
    apart = Repository("archive", MemoryBackend())
    await apart.bind("1", "another")
    with pytest.raises(OtherSource):
        await archive((*chain.places[:1], apart), ArchiveOptions())
    assert not [one for one in (await chain.primary.catalogue()).entries if one.kind == "archive"]
