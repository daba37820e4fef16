"""Sessions on the source: how they are opened, and the settings every one of them has."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import asyncpg

from jobs.postgres.errors import translated, translated_login

# A pooler refuses these as start-up parameters, so they are SET after connecting. The output settings make text exact
# and the same on every server: https://www.postgresql.org/docs/current/runtime-config-client.html
# A server that lost us in the network lets go of our locks after a minute, not after the two hours of most systems.
_SETTINGS = """
    SET row_security = off;
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET search_path = '';
    SET extra_float_digits = 3;
    SET DateStyle = 'ISO, YMD';
    SET IntervalStyle = 'postgres';
    SET bytea_output = 'hex';
    SET TimeZone = 'UTC';
    SET lc_monetary = 'C';
    SET client_encoding = 'UTF8';
    SET xmloption = content;
    SET synchronize_seqscans = off;
    SET max_parallel_workers_per_gather = 0;
    SET tcp_keepalives_idle = 30;
    SET tcp_keepalives_interval = 10;
    SET tcp_keepalives_count = 3;
"""
_NEWER = ((14, "idle_session_timeout"), (17, "transaction_timeout"))

Connection: TypeAlias = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Source:
    """A database and how to reach it. The DSN holds a password and is kept out of every text.

    `named_by` is what a person gave the DSN by, for messages on what is wrong with it.
    """

    dsn: str = field(repr=False)
    connect_timeout: float = 10.0
    named_by: str = "its address"

    @property
    def where(self) -> str:
        """Hosts, ports and database, for messages; nothing of a DSN so mistyped that they may be its password."""
        try:
            parts = urlsplit(self.dsn)
        except ValueError:
            return "the database"
        if "@" in parts.path:
            return "the database"
        query = dict(parse_qsl(parts.query))
        hosts = query.get("host") or parts.netloc.rpartition("@")[2] or "localhost"
        if port := query.get("port") or ("" if _PORT.search(hosts) else "5432"):
            hosts = f"{hosts}:{port}"
        return f"{hosts}/{unquote(parts.path.lstrip('/')) or 'postgres'}"

    @property
    def password(self) -> str:
        """The password in the DSN; empty where it holds none."""
        parts = urlsplit(self.dsn)
        return unquote(parts.password or "") or dict(parse_qsl(parts.query)).get("password", "")

    def with_database(self, name: str) -> "Source":
        """Another database of the same server, reached likewise."""
        parts = urlsplit(self.dsn)
        pairs = (pair for pair in parts.query.split("&") if pair.partition("=")[0] != "dbname")
        dsn = urlunsplit((parts.scheme, parts.netloc, f"/{quote(name, safe='')}", "&".join(pairs), ""))
        return replace(self, dsn=dsn)

    @property
    def dsn_without_password(self) -> str:
        """The DSN as it may be shown to child processes in their arguments; a silent server is lost after a minute."""
        parts = urlsplit(self.dsn)
        user, at, address = parts.netloc.rpartition("@")
        netloc = f"{user.split(':')[0]}{at}{address}"
        # As they were written: libpq does not take a `+` for a space, as urllib does.
        pairs = [pair for pair in parts.query.split("&") if pair and pair.partition("=")[0] not in _SECRETS]
        return urlunsplit((parts.scheme, netloc, parts.path, "&".join([*_KEEPALIVES, *pairs]), ""))


_PORT = re.compile(r":\d+$")
_SECRETS = {"password", "sslpassword"}

# Our own sessions ask the server something now and then; pg_dump only waits, by default for two hours. What a DSN says
# itself comes after these, and counts.
_KEEPALIVES = ("keepalives_idle=30", "keepalives_interval=10", "keepalives_count=3")


async def connect(source: Source, purpose: str) -> Connection:
    """Open a session with Rowvault's settings; it shows as `rowvault: PURPOSE` in pg_stat_activity.

    Raises `Rejected` or `Unreachable`. Statements are not cached, so that poolers in session mode are no trouble.
    """
    with translated_login(source.where, source.named_by):
        async with asyncio.timeout(source.connect_timeout):
            connection = await asyncpg.connect(source.dsn, timeout=None, statement_cache_size=0)
            try:
                await set_up(connection, purpose)
            except BaseException:
                connection.terminate()
                raise
    return connection


async def set_up(connection: Connection, purpose: str) -> None:
    """Give a new session Rowvault's settings, and its name."""
    with translated("setting up the session"):
        await connection.execute(_SETTINGS)
        await connection.execute("SELECT pg_catalog.set_config('application_name', $1, false)", f"rowvault: {purpose}")
        major = connection.get_server_version().major
        newer = [f"SET {setting} = 0" for since, setting in _NEWER if major >= since]
        await connection.execute("; ".join(newer))


@asynccontextmanager
async def session(source: Source, purpose: str) -> AsyncIterator[Connection]:
    """A session for as long as the block runs."""
    connection = await connect(source, purpose)
    try:
        yield connection
    finally:
        connection.terminate()


async def ping(source: Source) -> None:
    """Ask the server something. Sets nothing, for behind a pooler a setting may stay with the application's session.

    Raises `Rejected` or `Unreachable`.
    """
    with translated_login(source.where, source.named_by):
        async with asyncio.timeout(source.connect_timeout):
            connection = await asyncpg.connect(source.dsn, timeout=None, statement_cache_size=0)
            try:
                await connection.execute("SELECT 1")
            finally:
                connection.terminate()
