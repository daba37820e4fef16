"""Other real programs that tests run: PgBouncer, Prometheus, and our own command line."""

import asyncio
import os
import pwd
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Literal

from tests.forking import Forked, ForkedProcess, forked, forked_process, run_forked
from tests.servers import Database, Server, program

ROOT = Path(__file__).parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 15.0
PoolMode = Literal["session", "transaction"]
Process = asyncio.subprocess.Process | ForkedProcess


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def pgbouncer(database: Database, mode: PoolMode, *, pool_size: int = 50) -> AsyncIterator[str]:
    """A PgBouncer before that database's server; yields the database's DSN through it."""
    path, port = program("pgbouncer", "pgbouncer"), free_port()
    with _folder("pool") as folder:
        config = _pgbouncer_config(folder, database.server, port, mode, pool_size)
        async with _running([path, config], folder / "log", lambda: _listens(port), user=_ordinary_user()):
            yield database.dsn.replace(f":{database.server.port}/", f":{port}/")


def _pgbouncer_config(folder: Path, server: Server, port: int, mode: PoolMode, pool_size: int) -> Path:
    users, config = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{server.embedded.user}" "{server.embedded.password.get_secret_value()}"\n')
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": users,
        "pool_mode": mode,
        "default_pool_size": pool_size,
        "max_client_conn": 200,
        "ignore_startup_parameters": "extra_float_digits",
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    config.write_text(f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n" + "\n".join(lines) + "\n")
    return config


@asynccontextmanager
async def prometheus(configuration: str) -> AsyncIterator[str]:
    """A Prometheus with that configuration (YAML); yields its base URL once it is ready."""
    path, address = program("prometheus", "prometheus"), f"127.0.0.1:{free_port()}"
    with _folder("prometheus") as folder:
        config = folder / "prometheus.yml"
        config.write_text(configuration)
        options = [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        async with _running([path, *options], folder / "log", lambda: _replies(f"http://{address}/-/ready")):
            yield f"http://{address}"


async def rowvault(
    *args: str, env: Mapping[str, str] | None = None, stdin: str | None = None, within: float = 120
) -> CompletedProcess[str]:
    """Run one command of ours to its end, with these settings and no others, in a new empty folder."""
    with _folder("cwd") as folder:
        environment = command_environment({"TMPDIR": str(folder), **(env or {})})
        return await asyncio.to_thread(run_forked, args, environment, folder, stdin or "", within)


@contextmanager
def started_rowvault(*args: str, env: Mapping[str, str]) -> Iterator[Forked]:
    """A command of ours that was started; whoever starts it sees it end, or kills it."""
    with _folder("cwd") as folder, forked(args, command_environment({"TMPDIR": str(folder), **env}), folder) as command:
        yield command


@asynccontextmanager
async def running_rowvault(*args: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """A command of ours that goes on, its output in pipes; terminated at the end, killed if need be."""
    with _folder("cwd") as folder:
        environment = command_environment({"TMPDIR": str(folder), **(env or {})})
        async with forked_process(args, environment, folder) as process:
            try:
                yield process
            finally:
                await _stop(process)


@asynccontextmanager
async def real_rowvault(*args: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """The same as a process of its own from the start, for tests of signals and of how it looks from outside."""
    with _folder("cwd") as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "daemon", *args),
            env=command_environment({"TMPDIR": str(folder), **(env or {})}),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            await _stop(process)


def command_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment a command of ours runs in: this one, without its settings, with the given ones."""
    ours = ("ROWVAULT_", "PG", "AWS_", "PYTHONDONTWRITEBYTECODE")  # compiled once, a command starts a third sooner
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(settings or {})}


@contextmanager
def _folder(purpose: str) -> Iterator[Path]:
    """An empty folder that any user may read, for a program that gives up root."""
    with tempfile.TemporaryDirectory(prefix=f"rowvault-{purpose}-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@asynccontextmanager
async def _running(
    command: Sequence[str | Path], log: Path, ready: Callable[[], bool], user: int | None = None
) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, cwd="/", user=user, group=user
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not await asyncio.to_thread(ready):
            if process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{_end_of(log)}")
            await asyncio.sleep(0.05)
        yield
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    """Terminate a process, kill it if need be; its pipes are read out, else it might not end."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _ordinary_user() -> int | None:
    """Whom to run as what refuses root; None if we are not root."""
    return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _replies(url: str) -> bool:
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as reply:
        return bool(reply.status == 200)
    return False
