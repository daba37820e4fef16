"""The long-term copy: of the newest verified state, in objects of its own, needing neither a source nor a chain."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.chains.chain import chain_to
from jobs.chains.points import Through
from jobs.errors import NotThere
from jobs.verify import verify_backup
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.names import ARCHIVES, BACKUPS
from storage.repository import Repository
from tests.archiving import CHANGES, archive_shop, archived, chain_of, forget_all_but, two_places
from tests.conftest import CreateDatabase
from tests.erasing import erased
from tests.following import Follower, comparing, following
from tests.keys import new_key
from tests.places import Planter, backups_alike, date_ahead
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


async def test_it_holds_the_newest_state_and_needs_no_other_backup(chain: Follower) -> None:
    result = await archived(chain.places, label="of the week", keep=True)
    assert (result.kind, result.state) == ("archive", "success")
    assert [place.state for place in result.places] == ["committed", "committed"]
    assert await backups_alike(*chain.places)
    assert (await chain.primary.kept(result.id)) is not None
    await forget_all_but(result, chain.places)
    assert (await verify_backup(chain.places, result.id)).state == "success"
    assert await chain.backed_up() == await chain.lines()


async def test_what_did_not_change_shares_its_bytes_with_the_backup_it_comes_of(
    chain: Follower, tmp_path: Path
) -> None:
    result = await archived(chain.places)
    manifest = await chain.primary.manifest(result.id)
    shared = {
        stored.name
        for table in manifest.tables
        for part in table.parts
        for stored in part.objects
        if (tmp_path / "local" / stored.name).stat().st_nlink == 2
    }
    orders = [
        one.name for table in manifest.tables for part in table.parts for one in part.objects if "orders" in one.name
    ]
    assert 1 < len(shared.intersection(orders)) < len(orders)
    assert not [name for name in shared if "no_key" in name]
    assert all(stored.name.startswith(f"{ARCHIVES}{result.id}/") for stored in manifest.objects())


async def test_where_all_is_compared_it_holds_the_newest_state_too(
    shop: Database, places: tuple[Repository, Repository]
) -> None:
    follower = comparing(shop, *places)
    await follower.begin()
    await follower.compare(*CHANGES)
    result = await archived(places)
    await forget_all_but(result, places)
    assert await follower.backed_up() == await follower.lines()


async def test_chains_go_on_as_if_it_were_not_there(chain: Follower) -> None:
    result = await archived(chain.places)
    manifest = await chain.primary.manifest(result.id)
    assert (manifest.base, manifest.capture, manifest.gap) == (None, None, None)
    window = await chain.change("DELETE FROM orders WHERE id = 100")
    assert window.base != result.id
    found = await chain_to(chain.places, Through(window))
    assert found.base.kind == "full"
    await chain.require_latest()


async def test_of_one_state_the_schedule_makes_one_archive(chain: Follower) -> None:
    first = await archived(chain.places)
    assert await archive(chain.places, ArchiveOptions(only_newer=True)) is None
    assert (await archived(chain.places)).id != first.id
    await chain.change("DELETE FROM orders WHERE id = 100")
    newer = await archive(chain.places, ArchiveOptions(only_newer=True))
    assert newer is not None
    assert newer.created_at > first.created_at


async def test_a_state_that_a_wrong_clock_dated_years_ahead_keeps_no_later_one_from_being_archived(
    chain: Follower,
) -> None:
    await date_ahead(chain.primary, await chain.full())
    later = await chain.full()
    result = await archived(chain.places[:1], only_newer=True)
    assert result.created_at == later.created_at


async def test_a_newest_state_that_is_not_whole_gives_way_to_the_full_backup_before_it(chain: Follower) -> None:
    window = (await chain.primary.catalogue()).entries[0].id
    for place in chain.places:
        for name in await names(place.backend, f"{BACKUPS}{window}/"):
            await Planter(place.backend).flip(name)
    result = await archived(chain.places)
    (full,) = [entry for entry in (await chain.primary.catalogue()).entries if entry.kind == "full"]
    assert result.created_at == (await chain.primary.manifest(full.id)).created_at
    assert "older state" in result.warnings[-1]
    assert (await chain.primary.manifest(result.id)).archived == full.id


async def test_without_a_verified_backup_there_is_nothing_to_archive(places: tuple[Repository, Repository]) -> None:
    with pytest.raises(NotThere, match="passed its verification"):
        await archive(places, ArchiveOptions())


async def test_an_encrypted_state_is_archived_encrypted_and_a_full_one_without_an_identity(
    shop: Database, tmp_path: Path
) -> None:
    key = new_key()
    backend = LocalBackend(tmp_path)
    knowing, blind = Repository("local", backend, key.keyring), Repository("local", backend)
    follower = following(shop, knowing)
    copying = replace(follower.options.copying, recipients=key.recipients)
    follower = replace(
        follower,
        options=replace(follower.options, copying=copying),
        capture=replace(follower.capture, copying=copying),
    )
    full = await follower.begin()
    assert (await archived([blind])).created_at == full.created_at
    await follower.change(*CHANGES)
    older = await archived([blind])
    assert older.created_at == full.created_at
    assert "older state" in older.warnings[-1]
    unreadable = await archived([blind], formats=("csv",))
    assert unreadable.state == "warning"
    assert "it has no export as csv" in unreadable.warnings[-1]
    newest = await archived([knowing], formats=("csv",))
    assert newest.state == "success"
    plain = [name for name in await names(backend, ARCHIVES) if not name.endswith((".age", "RESTORE.txt"))]
    assert plain == []
    await forget_all_but(newest, [knowing])
    assert await follower.backed_up() == await follower.lines()


async def test_a_state_from_before_an_erasure_that_went_through_it_may_be_archived(chain: Follower) -> None:
    await chain.database.execute("DELETE FROM customers WHERE id = 8")
    erasure = await erased(chain, "id", "8", "customers")
    result = await archived(chain.places)
    assert (await chain.primary.manifest(result.id)).erasures == (erasure.id,)
    assert await chain.backed_up(wanted=result.id) == await chain.backed_up()


async def test_rows_that_are_encrypted_for_others_than_the_full_backup_are_not_archived_with_it(
    shop: Database,
) -> None:
    key = new_key()
    follower = following(shop, Repository("memory", MemoryBackend(), key.keyring))
    full = await follower.begin()
    sealed = replace(follower.capture, copying=replace(follower.capture.copying, recipients=key.recipients))
    await replace(follower, capture=sealed).change(*CHANGES)
    made = await archived(follower.places)
    assert made.created_at == full.created_at
    assert "encrypted for different recipients" in made.warnings[-1]
