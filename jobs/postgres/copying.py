"""COPY streams: https://www.postgresql.org/docs/current/sql-copy.html

A table is cut into parts by ranges of its pages (ctid), so that several streams share a large one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.postgres.catalogue import Chosen, Relation, TableShape
from jobs.postgres.connection import Connection
from jobs.postgres.errors import ConnectionLost, translated
from jobs.postgres.identifiers import TableName, column_list, qualified

PAGES_PER_PART = 6_144  # 48 MiB of heap: small enough that the streams end at about the same time
SMALL_BYTES = 256 * 1024

Sink = Callable[[bytes], Awaitable[None]]
Form = Literal["text", "binary"]


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One table, or one range of its pages, to be copied by any worker alone. The last range is open-ended."""

    table: TableName
    number: int
    columns: tuple[str, ...]
    first_page: int | None
    end_page: int | None
    weight: int

    @property
    def query(self) -> str:
        """The rows of this part."""
        query = f"SELECT {column_list(self.columns)} FROM ONLY {qualified(self.table)}"
        if self.first_page is None:
            return query
        query += f" WHERE ctid >= '({self.first_page},0)'"
        return query if self.end_page is None else f"{query} AND ctid < '({self.end_page},0)'"

    @property
    def is_small(self) -> bool:
        """Whether there is little in it to compress and hash, so that copying it is mostly asking for it."""
        return self.weight < SMALL_BYTES

    def __str__(self) -> str:
        return f"{self.table} part {self.number}"


def plan_parts(relation: Relation, shape: TableShape, pages_per_part: int = PAGES_PER_PART) -> list[PartPlan]:
    """Cut a table into parts of about 48 MiB, what is TOASTed included. `weight` is a part's size in bytes."""
    columns = shape.copied_columns
    if shape.pages is None:
        return [PartPlan(relation.table, 0, columns, None, None, shape.total_bytes)]
    heap = shape.pages * 8192
    step = max(1, pages_per_part * heap // max(heap, shape.total_bytes, 1))
    starts = list(range(0, shape.pages, step)) or [0]
    if len(starts) == 1:
        return [PartPlan(relation.table, 0, columns, None, None, shape.total_bytes)]
    weight = shape.total_bytes // len(starts)
    ends = [*starts[1:], None]
    return [
        PartPlan(relation.table, number, columns, start, end, weight)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def plan_copying(chosen: Chosen, shapes: Mapping[int, TableShape], pages_per_part: int) -> list[PartPlan]:
    """What there is to copy, the largest first."""
    plans = [plan_parts(one, shapes[one.oid], pages_per_part) for one in chosen.relations]
    return largest_first([part for parts in plans for part in parts])


def largest_first(parts: list[PartPlan]) -> list[PartPlan]:
    """The order in which streams take them, so that they end at about the same time."""
    return sorted(parts, key=lambda part: -part.weight)


def batches(parts: list[PartPlan], weight: int = 4 * 1024 * 1024, most: int = 50) -> list[list[PartPlan]]:
    """Parts in their order, small ones together, so that a stream locks the tables of several by one statement."""
    made: list[list[PartPlan]] = []
    filled = 0
    for part in parts:
        if not made or filled + part.weight > weight or len(made[-1]) == most:
            made.append([])
            filled = 0
        made[-1].append(part)
        filled += part.weight
    return made


async def lock_nowait(connection: Connection, tables: Sequence[TableName], lost_after: float) -> None:
    """Lock tables in a worker's session, or raise `Contended` at once: never queue behind a schema change.

    The coordinator holds these locks, so waiting here could only be behind somebody who waits for the coordinator.
    Raises `ConnectionLost` if there is no answer for so many seconds.
    """
    names = ", ".join(f"ONLY {qualified(table)}" for table in dict.fromkeys(tables))
    try:
        async with asyncio.timeout(lost_after):
            with translated(f"locking {', '.join(map(str, tables[:3]))}"):
                await connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE NOWAIT")
    except TimeoutError as error:
        raise ConnectionLost(f"locking {tables[0]}: no answer for {lost_after:g} s", "look at the network") from error


async def copy_out(
    connection: Connection,
    query: str,
    what: str,
    sink: Sink,
    lost_after: float,
    form: Literal["text", "binary"] = "text",
    *,
    sorts: bool = False,
) -> int:
    """Stream a query's rows as COPY writes them into `sink`; return the number of rows that the server counted.

    Raises `ConnectionLost` if the server sends nothing for so many seconds; how long `sink` takes does not count, nor,
    if it `sorts`, how long it takes to the first row: of a large table that is many minutes.
    """
    now = asyncio.get_running_loop().time

    async def take(chunk: bytes) -> None:
        patience.reschedule(None)
        await sink(chunk)
        patience.reschedule(now() + lost_after)

    try:
        async with asyncio.timeout(None if sorts else lost_after) as patience:
            with translated(f"copying {what}"):
                status = await connection.copy_from_query(query, output=take, format=form, encoding="UTF8")
    except TimeoutError as error:
        raise ConnectionLost(f"copying {what}: no data for {lost_after:g} s", "look at the network") from error
    except AttributeError as error:
        # What asyncpg says when it finds no transport after a sink has worked.
        if not connection.is_closed():
            raise
        raise ConnectionLost(f"copying {what}: the session ended", "see the server's log") from error
    return int(status.removeprefix("COPY "))


async def copy_in(
    connection: Connection,
    table: TableName,
    columns: tuple[str, ...],
    source: AsyncIterator[bytes],
    *,
    frozen: bool = False,
) -> int:
    """Stream COPY text into a table; return the number of rows that the server counted."""
    with translated(f"loading {table}"):
        status = await connection.copy_to_table(
            table.name,
            schema_name=table.schema,
            columns=list(columns) or None,
            source=source,
            format="text",
            encoding="UTF8",
            freeze=frozen,
        )
    return int(status.removeprefix("COPY "))


async def truncate_only(connection: Connection, tables: Sequence[TableName]) -> None:
    """Empty tables, all at once, without their children by inheritance and without CASCADE."""
    await connection.execute(f"TRUNCATE {', '.join(f'ONLY {qualified(table)}' for table in tables)}")


class RateLimit:
    """Holds one stream to so many bytes a second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._due = time.monotonic()

    async def spend(self, count: int) -> None:
        """Wait until these bytes may go."""
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + count / self._rate
        await asyncio.sleep(self._due - now)
