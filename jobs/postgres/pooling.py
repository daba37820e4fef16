"""Tells a transaction-mode pooler apart, which breaks sessions, snapshots, locks and SET.

https://www.pgbouncer.org/features.html
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from jobs.postgres.connection import Connection, Source, set_up
from jobs.postgres.errors import TransactionPooling, Unreachable, translated_login

_ROUNDS = 3


async def refuse_transaction_pooling(source: Source) -> None:
    """Raise `TransactionPooling` if two of our sessions share a server session, or one of them changes its own.

    Only simple queries inside explicit transactions are used, since anything else may fail behind such a pooler.
    Raises `Unreachable` where a pooler takes the sessions but has no server for them.
    """
    with translated_login(source.where, source.named_by):
        first = await asyncpg.connect(source.dsn, timeout=source.connect_timeout, statement_cache_size=0)
        try:
            await _refuse_to_share(source, first)
        finally:
            first.terminate()


async def connect_unpooled(source: Source, purpose: str) -> Connection:
    """As `connect`, but the session is one of those that were compared, before anything is set in it.

    Raises what `connect` and `refuse_transaction_pooling` raise.
    """
    with translated_login(source.where, source.named_by):
        connection = await asyncpg.connect(source.dsn, timeout=source.connect_timeout, statement_cache_size=0)
        try:
            await _refuse_to_share(source, connection)
            async with asyncio.timeout(source.connect_timeout):
                await set_up(connection, purpose)
        except BaseException:
            connection.terminate()
            raise
    return connection


@asynccontextmanager
async def unpooled_session(source: Source, purpose: str) -> AsyncIterator[Connection]:
    """As `session`, of `connect_unpooled`."""
    connection = await connect_unpooled(source, purpose)
    try:
        yield connection
    finally:
        connection.terminate()


async def _refuse_to_share(source: Source, first: Connection) -> None:
    second = await asyncpg.connect(source.dsn, timeout=source.connect_timeout, statement_cache_size=0)
    try:
        shared = await _answer_in_time(source, _share_a_server(first, second))
    finally:
        second.terminate()
    if shared:
        raise TransactionPooling(
            f"{source.where} is a pooler in transaction mode: a snapshot or a lock does not hold through it",
            "connect directly, or through session mode (Supabase: port 5432 instead of 6543)",
        )


async def _answer_in_time(source: Source, asking: Coroutine[Any, Any, bool]) -> bool:
    # A pooler lets us log in before it has a server for us.
    try:
        async with asyncio.timeout(source.connect_timeout):
            return await asking
    except TimeoutError as error:
        raise Unreachable(
            f"{source.where} took two sessions, but does not serve both: it is a pooler with all servers in use",
            "connect directly; or enlarge its pool (PgBouncer: default_pool_size) to ROWVAULT_COPY_JOBS + 3 and more",
        ) from error


async def _share_a_server(first: Connection, second: Connection) -> bool:
    for _ in range(_ROUNDS):
        async with first.transaction():
            before = await _server_pid(first)
        async with second.transaction():
            other = await _server_pid(second)
            async with first.transaction():
                after = await _server_pid(first)
        if other == before or after != before:
            return True
    return False


async def _server_pid(connection: Connection) -> int:
    pid: int = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()")
    return pid
