"""Encrypted backups: everything works as with plain ones for who has an identity, and nothing is in clear."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import zstandard

from jobs.concurrency import Worker
from jobs.copying.part_reading import opened_part, read_part
from jobs.copying.table_copy import CopyOptions
from jobs.postgres.connection import Connection, Source, connect
from jobs.postgres.identifiers import TableName
from jobs.restoring.table_load import load_part
from jobs.verify import verify_backup
from storage.age import Keyring, NoIdentity
from storage.backends.memory import MemoryBackend
from storage.objects import put
from storage.repository import Repository
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.end_to_end.test_round_trip import OURS
from tests.keys import new_key, recipients_of
from tests.places import DAMAGES, Planter, contents
from tests.round_trip import Taken, back_up, bring_back
from tests.servers import DEFAULT_MAJOR, Database, Servers

MARKER = "xyzzysecret"
BUILD = f"""
    CREATE TABLE customers (id int PRIMARY KEY, name text DEFAULT '{MARKER}');
    INSERT INTO customers SELECT n, CASE n WHEN 7 THEN '{MARKER}' ELSE md5(n::text) END
      FROM generate_series(1, 1000) AS n;
    CREATE TABLE notes (id int PRIMARY KEY, customer int REFERENCES customers, noise text);
    INSERT INTO notes SELECT n, 1 + n % 1000, noise FROM generate_series(1, 4000) AS n,
      LATERAL (SELECT string_agg(md5(n::text || k), '') AS noise FROM generate_series(1, 30) AS k) AS made;
    COMMENT ON TABLE notes IS '{MARKER}';
"""
KEY, OTHER, STRANGER = new_key(), new_key(), new_key()
SEALED = CopyOptions(recipients=recipients_of(KEY, OTHER))
LONG = "notes"  # about 2 MB once compressed, so that it is encrypted piece by piece


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert left_at_work() == []


def left_at_work() -> list[str]:
    """What encryption's own threads are called that there are."""
    return [one.name for one in threading.enumerate() if one.name in {"seal", "open"}]


@pytest.fixture
async def source(create_database: CreateDatabase) -> Database:
    return await create_database(key="encryption", build=BUILD)


def place(keyring: Keyring = KEY.keyring) -> Repository:
    return Repository("memory", MemoryBackend(), keyring)


@pytest.fixture(scope="module")
async def taken_once(servers: Servers) -> Taken:
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.clone("encryption", BUILD)
    taken = await back_up(database, copying=SEALED, repository=place())
    await server.drop(database)
    return taken


@pytest.fixture
async def taken(taken_once: Taken) -> Taken:
    """A backup in a place of its own."""
    own = place()
    for name, data in (await contents(taken_once.repository.backend)).items():
        await put(own.backend, name, data)
    return replace(taken_once, repository=own)


def opened_with(taken: Taken, keyring: Keyring) -> Taken:
    """The same backup, for who has other identities."""
    return replace(taken, repository=Repository(taken.repository.place, taken.repository.backend, keyring))


def largest(taken: Taken, table: str) -> str:
    """The name of the largest object of a table."""
    (found,) = (one for one in taken.manifest.tables if one.name == table)
    return max((stored for part in found.parts for stored in part.objects), key=lambda stored: stored.bytes).name


async def test_everything_comes_back_for_any_of_the_recipients(
    source: Database, create_database: CreateDatabase
) -> None:
    taken = await back_up(source, copying=SEALED, repository=place())
    for key in (KEY, OTHER):
        target = await create_database()
        result = await bring_back(opened_with(taken, key.keyring), target)
        assert result.as_it_should_be
        assert await differences(source, target, ignore_schemas=OURS) == []


async def test_nothing_of_it_is_in_clear(taken: Taken) -> None:
    assert taken.manifest.encryption is not None
    assert taken.manifest.encryption.recipients == (KEY.public, OTHER.public)
    stored = await contents(taken.repository.backend)
    plain = {name for name in stored if not name.endswith(".age")}
    folder = f"backups/{taken.result.id}/"
    assert {name for name in plain if name.startswith(folder)} == {f"{folder}RESTORE.txt"}
    for name, data in stored.items():
        assert MARKER.encode() not in data + decompressed(data), name
    found = [name for name, data in stored.items() if name not in plain and MARKER.encode() in clear(name, data)]
    assert len(found) == 3  # the rows, and both forms of the definitions: it would be found if it were there


def decompressed(data: bytes) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except zstandard.ZstdError:
        return b""


def clear(name: str, data: bytes) -> bytes:
    opened = KEY.keyring.open(name, data)
    return opened + decompressed(opened)


async def test_a_backup_needs_no_identity_and_says_what_was_not_proved(source: Database) -> None:
    taken = await back_up(source, copying=SEALED, repository=place(Keyring()))
    assert taken.result.state == "success"
    [said] = [one for one in taken.result.warnings if "encrypted" in one]
    assert "stored bytes were checked" in said
    verified = await verify_backup([taken.repository], taken.result.id)
    assert (verified.state, verified.problems) == ("warning", ())
    assert [f"not proved: {one}" for one in verified.not_proved] == [said]


async def test_with_an_identity_the_plain_text_is_verified_too(taken: Taken) -> None:
    verified = await verify_backup([taken.repository], taken.result.id)
    assert (verified.state, verified.not_proved) == ("success", ())
    part = taken.manifest.tables[0].parts[0]
    other = taken.manifest.tables[1].parts[0]
    wrong = taken.manifest.tables[0].model_copy(update={"parts": (part.model_copy(update={"objects": other.objects}),)})
    manifest = taken.manifest.model_copy(update={"tables": (wrong,), "label": "forged"})
    await taken.repository.backend.delete([str(taken.manifest.name())])
    await taken.repository.commit(manifest)
    verified = await verify_backup([taken.repository], taken.result.id)
    assert {problem.kind for problem in verified.problems} == {"sha256_raw", "rows"}


@pytest.mark.parametrize("keyring", [Keyring(), STRANGER.keyring], ids=["none", "another's"])
async def test_restoring_without_the_identity_is_refused_at_once_naming_the_recipients(
    taken: Taken, database: Database, keyring: Keyring
) -> None:
    with pytest.raises(NoIdentity, match=f"is encrypted for {KEY.public}, {OTHER.public}, and") as raised:
        await bring_back(opened_with(taken, keyring), database)
    assert "ENCRYPTION__IDENTITY_FILE" in raised.value.hint
    assert await database.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("table", ["customers", LONG])
async def test_damage_is_told_from_a_wrong_identity(taken: Taken, damage: str, table: str) -> None:
    plant, kind = DAMAGES[damage]
    name = largest(taken, table)
    await plant(Planter(taken.repository.backend), name)
    for keyring in (KEY.keyring, Keyring(), STRANGER.keyring):
        verified = await verify_backup([opened_with(taken, keyring).repository], taken.result.id)
        assert [(problem.object, problem.kind) for problem in verified.problems] == [(name, kind)]


async def threads_called(name: str, task: asyncio.Task[object]) -> None:
    """Wait until there is such a thread while the task runs."""
    while not any(thread.name == name for thread in threading.enumerate()):
        assert not task.done(), "it was over too soon"
        await asyncio.sleep(0.001)


async def test_a_backup_that_is_cancelled_in_the_middle_of_an_object_leaves_no_thread(source: Database) -> None:
    slowly = replace(SEALED, rate_limit=4e6)
    task: asyncio.Task[object] = asyncio.create_task(back_up(source, copying=slowly, repository=place()))
    await threads_called("seal", task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_reading_that_is_given_up_or_fails_leaves_no_thread(taken: Taken) -> None:
    (notes,) = (table for table in taken.manifest.tables if table.name == LONG)

    def fail(chunks: Iterator[bytes]) -> None:
        next(chunks)
        raise ZeroDivisionError

    assert await read_part(taken.repository, notes.parts[0], next)
    with pytest.raises(ZeroDivisionError):
        await read_part(taken.repository, notes.parts[0], fail)
    with opened_part(taken.repository, notes.parts[0]) as chunks:
        await asyncio.to_thread(next, chunks)
        assert left_at_work() == ["open"]
    assert left_at_work() == []
    del chunks


async def test_a_load_that_is_cancelled_in_the_middle_of_an_object_leaves_no_thread(
    taken: Taken, database: Database
) -> None:
    (notes,) = (table for table in taken.manifest.tables if table.name == LONG)
    part = notes.parts[0]
    more = part.model_copy(update={"objects": part.objects * 10})  # more than fits into buffers on the way
    await database.execute(
        """
        CREATE TABLE notes (id int, customer int, noise text);
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN new; END';
        CREATE TRIGGER wait BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION wait();
        """
    )
    async with Worker("load") as worker:
        connection = await worker.open(connect(Source(database.dsn), "load"), Connection.terminate)
        loading = load_part(worker, connection, taken.repository, notes, more, TableName("public", LONG))
        task: asyncio.Task[object] = asyncio.create_task(loading)
        await threads_called("open", task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
    assert left_at_work() == []
    assert raised.tb is not None  # whoever still looks at the error holds everything that was at work
