"""Chains of encrypted backups: what is taken with public keys alone, what needs an identity, and new recipients."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jobs.chains.points import At
from jobs.copying.table_copy import CopyOptions
from jobs.drill import DrillOptions, drill
from jobs.postgres.connection import Source
from storage.age import Keyring, NoIdentity, Recipients
from storage.backends.memory import MemoryBackend
from storage.repository import Repository
from tests.changes import BUILD, CHANGES
from tests.conftest import CreateDatabase
from tests.following import Follower, comparing, following
from tests.keys import keyring_of, new_key
from tests.places import contents
from tests.round_trip import QUICK
from tests.servers import Database

KEY, NEW = new_key(), new_key()
NOBODY = Keyring()
EVERYTHING = [statement for statements, _ in CHANGES.values() for statement in statements]
SHOP = """
    CREATE TABLE items (id int PRIMARY KEY, note text); INSERT INTO items SELECT generate_series(1, 100), 'first';
    CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet VALUES (1);
"""
BESIDE = "CREATE UNLOGGED TABLE beside (id int PRIMARY KEY, note text); INSERT INTO beside VALUES (1), (2), (3);"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [one.name for one in threading.enumerate() if one.name in {"seal", "open"}] == []


def encrypted(follower: Follower, recipients: Recipients = KEY.recipients) -> Follower:
    """The same, encrypting from now on."""
    copying = CopyOptions(recipients=recipients)
    return replace(
        follower,
        capture=replace(follower.capture, copying=copying),
        options=replace(QUICK, copying=copying),
    )


def holding(follower: Follower, keyring: Keyring) -> Follower:
    """The same places, for who has these identities."""
    places = tuple(Repository(one.place, one.backend, keyring) for one in follower.places)
    return replace(follower, places=places)


def place() -> Repository:
    return Repository("memory", MemoryBackend(), KEY.keyring)


@pytest.fixture
async def many_shapes(create_database: CreateDatabase) -> Database:
    return await create_database(key="encrypted-changes", build=BUILD)


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="encrypted-shop", build=SHOP)


@pytest.fixture
async def shop_and_beside(create_database: CreateDatabase) -> Database:
    return await create_database(key="encrypted-beside", build=SHOP + BESIDE)


async def test_public_keys_are_all_that_a_chain_of_the_change_log_takes(many_shapes: Database) -> None:
    daemon = holding(encrypted(following(many_shapes, place())), NOBODY)
    await daemon.begin()
    before, at = await daemon.lines(), await daemon.now()
    await daemon.change(*EVERYTHING)
    person = holding(daemon, KEY.keyring)
    await person.require_latest()
    assert await person.backed_up(At(at)) == before
    with pytest.raises(NoIdentity, match=f"is encrypted for {KEY.public}, and no identity was given"):
        await daemon.backed_up(At(at))


async def test_comparing_finds_the_same_in_encrypted_backups(many_shapes: Database) -> None:
    follower = encrypted(comparing(many_shapes, place()))
    await follower.begin()
    await follower.compare(*EVERYTHING)
    await follower.compare("DELETE FROM items WHERE id % 2 = 0", "UPDATE mails SET v = 'again'")
    await follower.require_latest()


async def test_comparing_without_an_identity_says_what_is_missing_and_leaves_nothing(shop: Database) -> None:
    person = encrypted(comparing(shop, place()))
    await person.begin()
    daemon = holding(person, NOBODY)
    await daemon.compare()  # as long as nothing changed, nothing has to be opened
    stored = await contents(daemon.primary.backend, "backups/")
    await shop.execute("DELETE FROM items WHERE id = 7")
    with pytest.raises(NoIdentity, match=f"is encrypted for {KEY.public}, and no identity was given"):
        await daemon.take()
    assert await contents(daemon.primary.backend, "backups/") == stored
    await person.compare()
    await person.require_latest()


async def test_the_log_goes_on_without_tables_that_no_identity_opens_as_a_warning(shop_and_beside: Database) -> None:
    person = encrypted(following(shop_and_beside, place()))
    await person.begin()
    daemon = holding(person, NOBODY)
    await shop_and_beside.execute("DELETE FROM items WHERE id = 7")
    assert (await daemon.take()).state == "success"
    await shop_and_beside.execute("DELETE FROM items WHERE id = 8; DELETE FROM beside WHERE id = 1")
    result = await daemon.take()
    assert (result.state, result.kind) == ("warning", "incremental")
    assert any("were left out this time" in one and KEY.public in one for one in result.warnings)
    left_out = await person.backed_up()
    assert left_out["public.items"] == (await person.lines())["public.items"]
    assert len(left_out["public.beside"]) == 3
    assert (await person.take()).state == "success"
    await person.require_latest()


async def test_new_recipients_are_those_of_what_is_taken_next(shop: Database) -> None:
    follower = encrypted(following(shop, place()))
    await follower.begin()
    window = await encrypted(follower, NEW.recipients).change("DELETE FROM items WHERE id = 7")
    assert window.encryption is not None
    assert window.encryption.recipients == (NEW.public,)
    for keyring, other in ((KEY.keyring, NEW.public), (NEW.keyring, KEY.public)):
        with pytest.raises(NoIdentity, match=f"is encrypted for {other}, and the identity given is none of theirs"):
            await holding(follower, keyring).backed_up()
    both = holding(follower, keyring_of(KEY, NEW))
    await both.require_latest()
    await encrypted(follower, NEW.recipients).full()
    await holding(follower, NEW.keyring).require_latest()


async def test_a_drill_after_a_rotation_needs_no_identity_of_the_chain_before(shop: Database) -> None:
    follower = encrypted(following(shop, place()))
    await follower.begin()
    await follower.change("DELETE FROM items WHERE id = 7")
    await encrypted(follower, NEW.recipients).full()
    worker = holding(follower, NEW.keyring)
    result = await drill(worker.places, DrillOptions(given=Source(shop.server.maintenance.dsn)))
    assert result.state == "success"
    [unproved] = [one for one in result.not_proved if one.startswith("as of ")]
    assert f"is encrypted for {KEY.public}, and the identity given is none of theirs" in unproved


async def test_plain_backups_are_continued_by_encrypted_ones(shop: Database) -> None:
    plain = following(shop, place())
    await plain.begin()
    window = await encrypted(plain).change("DELETE FROM items WHERE id = 7")
    assert all(one.name.endswith(".age") for one in window.log.objects)
    await plain.require_latest()
    with pytest.raises(NoIdentity):
        await holding(plain, NOBODY).backed_up()
