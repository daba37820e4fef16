"""The daemon as a real process, for tests: what it logs, what it answers, how it ends.

async with running_daemon(settings) as daemon:
    await daemon.logged("backup committed")
    status, document = await daemon.get("/healthz")
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from daemon.app import open_app
from daemon.settings.load import load_settings
from jobs.places.catalogue import ListedBackup, list_backups
from tests.conftest import Bucket
from tests.programs import Process, real_rowvault, running_rowvault
from tests.servers import Database

PATIENCE = 100.0
POLL_SECONDS = 0.05
T = TypeVar("T")
Line = dict[str, Any]


async def until(answer: Callable[[], Awaitable[T | None]], within: float = PATIENCE) -> T:
    """Ask again and again until the answer is something true; that answer."""
    deadline = time.monotonic() + within
    while not (found := await answer()):
        assert time.monotonic() < deadline, f"still {found!r} after {within:g} s"
        await asyncio.sleep(POLL_SECONDS)
    return found


@dataclass
class RunningDaemon:
    """A daemon that was started, everything it has logged so far, and its address."""

    process: Process
    lines: list[Line] = field(default_factory=list)
    port: int = 0
    reading: asyncio.Task[None] | None = None

    async def logged(self, *events: str) -> Line:
        """The first log line with one of these events, waited for."""

        async def found() -> Line | None:
            line = next((line for line in self.lines if line["event"] in events), None)
            assert line or self.process.returncode is None, "it has ended"
            return line

        try:
            return await until(found)
        except AssertionError as error:
            raise AssertionError(f"not logged: {events}; it said: {self.lines}") from error

    def all_logged(self, event: str) -> list[Line]:
        """Every log line so far with this event."""
        return [line for line in self.lines if line["event"] == event]

    def in_order(self, *events: str) -> list[str]:
        """Those of these events that it has logged so far, as they came for the first time."""
        return [event for event in dict.fromkeys(line["event"] for line in self.lines) if event in events]

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON document of one request."""
        async with self._answer(path) as response:
            return response.status, await response.json()

    async def exposition(self) -> str:
        """What Prometheus would scrape."""
        async with self._answer("/metrics") as response:
            assert response.status == 200
            return await response.text()

    @asynccontextmanager
    async def _answer(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session:
            try:
                response = await session.get(path)
            except aiohttp.ClientError as error:
                raise AssertionError(f"no answer to {path}; it said: {self.lines}") from error
            async with response:
                yield response

    async def metrics(self) -> dict[str, float]:
        """Every sample by name and labels (`name key=value …`), labels in alphabetical order."""
        return {
            sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(await self.exposition())
            for sample in family.samples
        }

    async def status_becomes(self, path: str, wanted: int) -> Any:
        """Wait until a path answers with that status; the document it then sends."""

        async def answered() -> Any:
            status, document = await self.get(path)
            return document if status == wanted else None

        return await until(answered)

    async def metric_becomes(self, name: str, value: float) -> None:
        """Wait until one sample has a value."""

        async def shown() -> bool:
            return (await self.metrics()).get(name) == value

        await until(shown)

    async def run_ended(self) -> None:
        """Wait until the daily full that runs has ended, and everything knows of it."""
        await self.metric_becomes("rowvault_job_running_seconds job=daily-full", 0)

    async def ended(self, within: float = PATIENCE) -> int:
        """Its exit code, once it has ended by itself."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def read_out(self) -> None:
        """Wait until everything was read that it said before it ended."""
        assert self.reading is not None
        await self.reading

    async def terminate(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; its exit code, and after how many seconds it ended."""
        began = time.monotonic()
        self.process.send_signal(number)
        return await self.ended(), time.monotonic() - began


@asynccontextmanager
async def running_daemon(settings: Mapping[str, str], *, real: bool = False) -> AsyncIterator[RunningDaemon]:
    """`rowvault run` with these settings (without their prefix) on a free port, once it serves.

    Incremental backups and archives are taken only if the settings say when. A `real` one is a process of its own from
    the start.
    """
    impatient = {"CHECK_INTERVAL": "1s", "S3__RETRY_FOR": "1s"}
    impatient |= {"SCHEDULE__INCREMENTAL": "off", "SCHEDULE__ARCHIVE": "off"}
    async with serving_command("run", env=environment(impatient | dict(settings)), real=real) as daemon:
        yield daemon


@asynccontextmanager
async def serving_command(command: str, env: Mapping[str, str], *, real: bool = False) -> AsyncIterator[RunningDaemon]:
    """A command that serves as the daemon on a free port, once it does."""
    usual = {"ROWVAULT_HTTP__PORT": "0", "ROWVAULT_LOG_FORMAT": "json"}
    start = real_rowvault if real else running_rowvault
    async with start(command, env={**usual, **env}) as process:
        daemon = RunningDaemon(process)
        daemon.reading = asyncio.create_task(_read(process, daemon.lines))
        try:
            daemon.port = (await daemon.logged("serving health and metrics"))["port"]
            yield daemon
        finally:
            daemon.reading.cancel()
            await asyncio.wait([daemon.reading])


async def _read(process: Process, lines: list[Line]) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        lines += [json.loads(line) if line.startswith(b"{") else {"event": line.decode()}]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings as environment variables; of the place in S3 only what is needed, if there is one."""
    wanted = {name: value for name, value in settings.items() if "S3__BUCKET" in settings or "S3__" not in name}
    return {f"ROWVAULT_{name}": value for name, value in wanted.items()}


def settings_for(database: Database | str, local: Path | None = None, bucket: Bucket | None = None) -> dict[str, str]:
    """Where to back up what, as settings without their prefix."""
    settings = {"DATABASE_URL": database if isinstance(database, str) else database.dsn}
    if local:
        settings["LOCAL_PATH"] = str(local)
    if bucket:
        settings |= {
            "S3__BUCKET": bucket.name,
            "S3__ENDPOINT_URL": bucket.endpoint_url,
            "S3__REGION": bucket.region,
            "S3__ACCESS_KEY_ID": bucket.access_key,
            "S3__SECRET_ACCESS_KEY": bucket.secret_key,
            "S3__ADDRESSING_STYLE": "path",
        }
    return settings


async def listed(settings: Mapping[str, str]) -> tuple[ListedBackup, ...]:
    """What `rowvault list` lists."""
    async with open_app(load_settings(environment(settings), dotenv=None)) as app:
        return (await list_backups(app.repositories)).backups


def processes_about(text: str) -> list[str]:
    """The command lines of all processes that mention something, such as a folder or a database's address."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            line = path.read_bytes().decode(errors="replace").replace("\0", " ")
            found += [line] if text in line else []
    return found


async def sessions_of_ours(database: Database) -> list[str]:
    """The purposes of all sessions that Rowvault has in a database."""
    rows = await database.fetch(
        "SELECT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'rowvault%'"
    )
    return [name for (name,) in rows]
