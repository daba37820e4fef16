"""A backup as of a moment, made beside the repository: what is made anew, what stays the base's, what is checked."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.as_of import opened
from jobs.export import export
from jobs.exporting.plan import ExportOptions, ExportScope, plan_export
from jobs.full_backup import full_backup
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.restore import RestoreOptions, plan_restore, restore
from storage.backends.memory import MemoryBackend
from storage.errors import Corrupt
from storage.leases import list_leases
from storage.manifest import Manifest
from storage.names import MADE
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.following import Follower, following, lines_of
from tests.places import Planter
from tests.round_trip import EVERYWHERE, QUICK, SMALL_PIECES
from tests.servers import Database

BUILD = """
    CREATE TABLE many (id int PRIMARY KEY, v text);
    INSERT INTO many SELECT n, md5(n::text) FROM generate_series(1, 1000) n;
"""
WITHOUT_KEY = "CREATE TABLE without_key (id int); INSERT INTO without_key VALUES (1)"


async def followed_in_pieces(database: Database) -> tuple[Follower, Manifest]:
    """A chain, and its full backup, which has each page of its table as a part."""
    await database.execute(BUILD)
    follower = following(database)
    await follower.begin()
    options = replace(QUICK, copying=SMALL_PIECES)
    full = await full_backup(follower.source, Selection(), follower.places, options)
    return follower, await follower.primary.manifest(full.id)


def damage_one(scratch: Path) -> None:
    """Change a bit of something that was made."""
    some = min(scratch.glob(f"*/{MADE}*"))
    data = bytearray(some.read_bytes())
    data[len(data) // 2] ^= 1
    some.write_bytes(data)


async def test_a_part_that_nothing_became_of_is_the_base_s_own(database: Database) -> None:
    follower, base = await followed_in_pieces(database)
    await follower.change("DELETE FROM many WHERE id = 500", "INSERT INTO many VALUES (5000, 'new')")
    async with opened(follower.places, "latest") as made:
        [was], [now] = base.tables, made.manifest.tables
    assert len(was.parts) > 3
    assert len(set(was.parts) - set(now.parts)) == 1
    assert len(now.parts) == len(was.parts) + 1
    await follower.require_latest()


@pytest.mark.parametrize("lost_window", [False, True])
async def test_what_did_not_change_comes_from_whichever_place_has_it_whole(
    create_database: CreateDatabase, tmp_path: Path, lost_window: bool
) -> None:
    """Of the newest state most is the base's: damage there in one place must not stop anybody who has another."""
    build = f"{BUILD}; CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1), (2); {WITHOUT_KEY}"
    local, s3 = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    follower = following(await create_database(key="two places", build=build), local, s3)
    base = await follower.begin()
    window = await follower.change("DELETE FROM many WHERE id = 500", "INSERT INTO without_key VALUES (2)")
    [others] = [one for one in base.tables if one.name == "others"]
    await Planter(local.backend).delete(others.parts[0].objects[0].name)
    assert window.beside is not None
    await Planter((s3 if lost_window else local).backend).truncate(window.log.objects[0].name)
    target, lines = await create_database(), await follower.lines()
    async with opened(follower.places, "latest") as made:
        plan = await plan_restore(made.repositories, made.manifest, Source(target.dsn), EVERYWHERE, RestoreOptions())
        await restore(plan, made.repositories, RestoreOptions())
        files = await plan_export(made.manifest, ExportScope(("csv",)), ExportOptions())
        await export(made, files, tmp_path / "out", ExportOptions())
        leased = {lease.backup for place in follower.places for lease in await list_leases(place.backend)}
    assert await lines_of(target) == lines
    assert leased == {base.id}
    result = await archive(follower.places, ArchiveOptions())
    assert result is not None
    assert (result.state, result.created_at) == ("success", window.created_at)


async def test_what_was_made_is_checked_as_it_is_loaded_and_the_target_emptied_again(
    database: Database, create_database: CreateDatabase, tmp_path: Path
) -> None:
    follower, _ = await followed_in_pieces(database)
    target = await create_database()
    await follower.change("UPDATE many SET v = 'new' WHERE id % 2 = 0")
    async with opened(follower.places, "latest", scratch=tmp_path) as made:
        plan = await plan_restore(made.repositories, made.manifest, Source(target.dsn), EVERYWHERE, RestoreOptions())
        damage_one(tmp_path)
        with pytest.raises(Corrupt):
            await restore(plan, made.repositories, RestoreOptions())
    assert await target.fetch("SELECT FROM pg_class WHERE relname = 'many'") == []
