"""Whether rows of an erasure are still in the live database: they would be in the next backup again."""

from collections.abc import Sequence

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified, quote

AT_ONCE = 10_000

_COLUMNS = """
    SELECT pg_catalog.array_agg(attname::text) FROM pg_catalog.pg_attribute
     WHERE attrelid = pg_catalog.to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""


async def count_live(
    connection: Connection, table: TableName, columns: Sequence[str], values: Sequence[Sequence[str]]
) -> int:
    """How many rows of a table hold one of these values, written as the database writes them, in the columns.

    There are none where the table, or a column, is no longer there.
    """
    if not await _has(connection, table, columns):
        return 0
    fields = ", ".join(f"pg_catalog.format('%s', {quote(column)})" for column in columns)
    wanted = ", ".join(f"pg_catalog.unnest(${number}::text[])" for number in range(1, len(columns) + 1))
    query = f"SELECT count(*) FROM {qualified(table)} WHERE ROW({fields}) IN (SELECT * FROM ROWS FROM ({wanted}) one)"
    total = 0
    for begin in range(0, len(values), AT_ONCE):
        some = list(zip(*values[begin : begin + AT_ONCE], strict=True))
        with translated(f"looking for rows in {table}"):
            total += await connection.fetchval(query, *(list(one) for one in some))
    return total


async def count_live_documents(
    connection: Connection, table: TableName, column: str, path: Sequence[str], value: str
) -> int:
    """The same of rows whose JSON document holds a value at a path."""
    if not await _has(connection, table, [column]):
        return 0
    query = (
        f"SELECT count(*) FROM {qualified(table)}"
        f" WHERE {quote(column)} OPERATOR(pg_catalog.#>>) $1::text[] OPERATOR(pg_catalog.=) $2::text"
    )
    with translated(f"looking for rows in {table}"):
        count: int = await connection.fetchval(query, list(path), value)
    return count


async def _has(connection: Connection, table: TableName, columns: Sequence[str]) -> bool:
    with translated(f"looking at {table}"):
        there = await connection.fetchval(_COLUMNS, qualified(table))
    return set(columns) <= set(there or ())
