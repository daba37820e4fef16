"""A throwaway PostgreSQL server of our own: what the demo, the drills and the tests run on.

It listens on 127.0.0.1 alone, with a random password, and on no Unix socket, so no path is too long for one.
As root, which PostgreSQL refuses, it runs as `nobody`. It ends with us, even if we are killed.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import socket
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from pydantic import SecretStr

from jobs.postgres import processes
from jobs.postgres.errors import PostgresError
from jobs.postgres.tools import distribution_folders, version_of, wheel_folders

BASE_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Containers have 64 MB of /dev/shm, which building one vector index can exceed.
    "dynamic_shared_memory_type": "mmap",
}
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 20


class EmbeddedServerError(PostgresError):
    """The embedded server could not be set up or started."""


def find_servers(given: Path | None = None) -> dict[int, Path]:
    """The folders with PostgreSQL's programs on this machine, by major version.

    Of several with one version the `given` one (setting `ROWVAULT_PG_BIN`) wins, then the wheel's, then Debian's.
    """
    found: dict[int, Path] = {}
    for folder in [*([given] if given else []), *wheel_folders(), *distribution_folders()]:
        version = version_of(folder / "postgres")
        if version is not None:
            found.setdefault(int(version.split(".")[0]), folder)
    return found


class EmbeddedServer:
    """One server, created and started by `async with`, gone after it; may be stopped and started in between.

    Start it from a thread that lives as long as the server should: on Linux it ends with that thread.
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
        """Nothing happens yet. `folder` must be empty and is kept; without one, a temporary one is made.

        `port` is a free one, chosen at the first start, unless given; `settings` are PostgreSQL's own;
        `ready_within` is in seconds.
        """
        self.port = port or 0
        self.password = SecretStr(secrets.token_urlsafe(18))
        self.folder = folder or Path()
        self._given_folder = folder
        self._binaries = binaries
        self._settings = {**BASE_SETTINGS, **(settings or {})}
        self._ready_within = ready_within
        self._account = processes.OURSELVES
        self._temporary: list[Path] = []
        self._process: asyncio.subprocess.Process | None = None

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
    def data(self) -> Path:
        """The server's data directory."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The file with everything the server said."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process else None

    def dsn(self, database: str = "postgres") -> SecretStr:
        """How to connect to one of its databases as the superuser."""
        credentials = f"{self.user}:{self.password.get_secret_value()}"
        return SecretStr(f"postgresql://{credentials}@127.0.0.1:{self.port}/{quote(database, safe='')}")

    async def start(self) -> None:
        """Start the stopped server on its port and wait until it answers. Raises `EmbeddedServerError`."""
        self.port = self.port or _free_port()
        command: list[str | Path] = [self._binaries / "postgres", "-D", self.data, "-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = await processes.spawn(command, self._account, log.fileno())
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
            await processes.shut_down(process, immediate=immediate)

    async def close(self) -> None:
        """Stop the server and remove what was temporary. Does nothing the second time."""
        try:
            await self.stop()
        finally:
            temporary, self._temporary = self._temporary, []
            for folder in temporary:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _create(self) -> None:
        try:
            self._account = processes.unprivileged()
        except LookupError as error:
            raise EmbeddedServerError(
                "PostgreSQL does not run as root, and there is no user nobody to run it as",
                "add a user nobody, or start this as an ordinary user",
            ) from error
        self.folder = await asyncio.to_thread(self._make_folder)
        await self._make_runnable()
        await self._initialise()

    def _make_folder(self) -> Path:
        folder = self._given_folder or self._temporary_folder("rowvault-pg-")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise EmbeddedServerError(f"{folder} is not empty", "give the embedded server an empty folder")
        os.chown(folder, self._account.uid, self._account.gid)
        return folder

    def _temporary_folder(self, prefix: str) -> Path:
        # Below a folder that was given, so that whoever gave it can remove everything.
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._given_folder))
        self._temporary.append(folder)
        return folder

    async def _make_runnable(self) -> None:
        """See to it that the server's user can run the programs, where nobody may enter below /root, say."""
        code, output = await self._run("initdb", "--version")
        if code != 0 and self._account != processes.OURSELVES:
            self._binaries = await asyncio.to_thread(self._copy_programs)
            code, output = await self._run("initdb", "--version")
        if code != 0:
            raise EmbeddedServerError(
                f"cannot run {self._binaries / 'initdb'}:\n{_tail(output)}",
                "this needs PostgreSQL's server programs, built for this machine",
            )

    def _copy_programs(self) -> Path:
        """Copy the installation to where any user may read it.

        Libraries that a wheel brings lie beside the package in `<package>.libs`, found by relative path.
        """
        installation = self._binaries.parent
        package = installation.parent
        libraries = package.with_name(f"{package.name}.libs")
        copy = self._temporary_folder("rowvault-pg-programs-")
        copy.chmod(0o755)
        target = copy / package.name / installation.name
        shutil.copytree(installation, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        return target / self._binaries.name

    async def _initialise(self) -> None:
        password = self.folder / "password"
        await asyncio.to_thread(self._write_password, password)
        options = ["-D", str(self.data), "-U", self.user, "-E", "UTF8", "--no-sync"]
        options += ["--auth=scram-sha-256", f"--pwfile={password}"]
        try:
            # It sorts like C and knows upper and lower case beyond ASCII, but not every system has it.
            code, output = await self._run("initdb", *options, "--locale=C.UTF-8")
            if code != 0 and "invalid locale" in output:
                code, output = await self._run("initdb", *options, "--locale=C")
        finally:
            await asyncio.to_thread(password.unlink, missing_ok=True)
        if code != 0:
            raise EmbeddedServerError(
                f"initdb failed in {self.folder}:\n{_tail(output)}",
                "its user, nobody when started as root, must be able to enter the folder",
            )

    def _write_password(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.write_text(_verifier(self.password.get_secret_value()))
        os.chown(path, self._account.uid, self._account.gid)

    async def _run(self, program: str, *options: str) -> tuple[int, str]:
        return await processes.run([self._binaries / program, *options], self._account)

    def _failed(self, what: str) -> EmbeddedServerError:
        words = self.log.read_text(errors="replace")
        return EmbeddedServerError(
            f"embedded PostgreSQL on port {self.port} {what}; its log ends:\n{_tail(words)}",
            f"the whole log is {self.log}" if self._given_folder else "",
        )


def _verifier(password: str) -> str:
    """What the server is to keep of a password (RFC 5803): hashed once, for nobody guesses a random one.

    The usual 4096 times would take up to half of the time that a session takes to begin.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    served = hmac.digest(salted, b"Server Key", "sha256")
    shown = [b64encode(one).decode() for one in (salt, stored, served)]
    return "SCRAM-SHA-256$1:{}${}:{}".format(*shown)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:])


def _answers(data: Path, pid: int) -> bool:
    """Whether that server takes connections, by line 8 of its `postmaster.pid`, as pg_ctl asks."""
    with contextlib.suppress(OSError, ValueError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        return len(lines) >= 8 and int(lines[0]) == pid and lines[7].strip() == "ready"
    return False
