"""A standby may be backed up, but no chain begins or goes on with it: its snapshots leave out who is at work."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from jobs.incrementals.begin_chain import begin_capture
from jobs.incrementals.taking import CaptureOptions, Method
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.postgres.errors import CannotCapture
from tests.following import following, lines_of
from tests.round_trip import memory
from tests.servers import Database, own_server


@pytest.fixture(scope="module")
async def standby() -> AsyncIterator[Database]:
    """A database of a server that waits for WAL of a primary."""
    async with own_server() as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1), (2)")
        await server.embedded.stop()
        (server.embedded.data / "standby.signal").touch()
        await server.embedded.start()
        assert await database.value("SELECT pg_is_in_recovery()")
        yield database


async def test_a_full_backup_of_a_standby_is_what_it_holds(standby: Database) -> None:
    follower = following(standby)
    manifest = await follower.full()
    assert await follower.backed_up(wanted=manifest.id) == await lines_of(standby)
    assert manifest.capture is None


@pytest.mark.parametrize("method", ["auto", "wal", "xmin", "timestamp"])
async def test_an_incremental_backup_of_a_standby_is_refused(standby: Database, method: Method) -> None:
    follower = replace(following(standby), capture=CaptureOptions(method=method))
    with pytest.raises(CannotCapture, match="the server is a standby"):
        await follower.take()
    assert (await follower.primary.catalogue()).entries == ()


@pytest.mark.parametrize("method", ["auto", "wal", "xmin"])
async def test_a_full_backup_of_a_standby_begins_no_chain(standby: Database, method: Method) -> None:
    with pytest.raises(CannotCapture, match="the server is a standby"):
        await begin_capture(Source(standby.dsn), Selection(), memory(), CaptureOptions(method=method))
