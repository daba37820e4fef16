"""Fixtures that every test may use: PostgreSQL servers and databases, S3 and buckets, pools, Prometheus."""

import itertools
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from hypothesis import settings

from tests.memory import in_memory
from tests.programs import PoolMode, pgbouncer, prometheus
from tests.seaweed import S3Server, start_seaweed
from tests.servers import DEFAULT_MAJOR, MAJORS, Build, Database, Server, Servers

# What an example takes depends on who else is at work on this machine.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

DEMO_DATA = Path(__file__).parents[1] / "daemon" / "demo_data.sql"

_buckets = itertools.count(1)

CreateDatabase = Callable[..., Awaitable[Database]]
Pooled = Callable[[Database, PoolMode], Awaitable[str]]
StartPrometheus = Callable[[str], Awaitable[str]]


def pytest_configure(config: pytest.Config) -> None:
    """Let what is temporary be in memory, and an interrupt be one, though whoever began the suite ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = ExitStack()
    stack.enter_context(in_memory())
    config.add_cleanup(stack.close)


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """The session's PostgreSQL servers; `await servers.get(16)` starts one if need be."""
    running = Servers()
    yield running
    await running.close()


@pytest.fixture
async def server(servers: Servers) -> Server:
    """The default PostgreSQL server, shared by the session."""
    return await servers.get(DEFAULT_MAJOR)


@pytest.fixture(params=MAJORS, ids="postgresql{}".format)
async def any_server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    """Each PostgreSQL server in turn."""
    return await servers.get(request.param)


@pytest.fixture
async def create_database(servers: Servers) -> AsyncIterator[CreateDatabase]:
    """Makes databases that are dropped after the test.

    `await create_database(server=None, key=None, build=None)`: an empty one, or with a key and a build a
    clone of the database that SQL or a coroutine function builds once a session.
    """
    made: list[Database] = []

    async def create(server: Server | None = None, key: str | None = None, build: Build = "") -> Database:
        at = server or await servers.get(DEFAULT_MAJOR)
        made.append(await (at.clone(key, build) if key else at.create()))
        return made[-1]

    yield create
    for database in made:
        await database.server.drop(database)


@pytest.fixture
async def database(create_database: CreateDatabase) -> Database:
    """An empty database on the default server."""
    return await create_database()


@pytest.fixture
async def any_database(create_database: CreateDatabase, any_server: Server) -> Database:
    """An empty database on each server in turn."""
    return await create_database(any_server)


@pytest.fixture
async def demo_database(create_database: CreateDatabase) -> Database:
    """A copy of the demo's database on the default server: ten tables, some hundred thousand rows."""
    return await create_database(key="demo", build=DEMO_DATA.read_text())


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A SeaweedFS server, shared by the session."""
    with tempfile.TemporaryDirectory(prefix="rowvault-s3-", ignore_cleanup_errors=True) as folder:
        running = start_seaweed(Path(folder))
        yield running
        running.kill()


@cache
def s3_clients() -> aioboto3.Session:
    """What makes clients of S3 for the tests themselves; to read what it knows takes a tenth of a second each time."""
    return aioboto3.Session()


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket, and all it takes to reach it."""

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self) -> Any:
        """A client that reaches it, for as long as a block runs."""
        return s3_clients().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )


@pytest.fixture
async def bucket(s3_server: S3Server) -> AsyncIterator[Bucket]:
    """An empty bucket, removed with all it holds after the test."""
    async with new_bucket(s3_server) as made:
        yield made


@asynccontextmanager
async def new_bucket(s3_server: S3Server, **options: object) -> AsyncIterator[Bucket]:
    """An empty bucket, removed with all it holds at the end of the block, unless something in it is locked."""
    made = Bucket(f"bucket-{next(_buckets)}", s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key)
    async with made.client() as client:
        await client.create_bucket(Bucket=made.name, **options)
        yield made
        # SeaweedFS removes what is in it too, and frees its volumes, of which there are not many.
        if not options:
            await client.delete_bucket(Bucket=made.name)


@pytest.fixture
async def pooled() -> AsyncIterator[Pooled]:
    """`await pooled(database, "session" | "transaction")`: its DSN through a PgBouncer in that mode."""
    async with AsyncExitStack() as stack:

        async def start(database: Database, mode: PoolMode) -> str:
            return await stack.enter_async_context(pgbouncer(database, mode))

        yield start


@pytest.fixture
async def start_prometheus() -> AsyncIterator[StartPrometheus]:
    """`await start_prometheus(configuration)`: the base URL of a Prometheus that does what the YAML says."""
    async with AsyncExitStack() as stack:

        async def start(configuration: str) -> str:
            return await stack.enter_async_context(prometheus(configuration))

        yield start


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was skipped is a test that failed: every part it needs is to be installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return
    skipped = reporter.stats.get("skipped", [])
    reporter.ensure_newline()
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        reporter.write_line(f"skipped, which fails in CI: {report.nodeid}: {reason}", red=True)
    if skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
