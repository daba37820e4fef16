"""Which rows of a table were written since a snapshot, and its keys in an order that does not depend on the server.

Deletes leave no row behind, so they are found by comparing keys, and both sides must be sorted alike: by the bytes of
the text that COPY writes for each column, before it escapes them.
"""

from collections.abc import Sequence
from datetime import datetime

from jobs.postgres.identifiers import TableName, column_list, qualified, quote


def written_since(xmin: int) -> str:
    """What is true of every row version that a snapshot with this `xmin` (64 bits) did not see, and of few others.

    The snapshot's list of running transactions would not do: it leaves out subtransactions. `age` compares within 2^31
    transactions, and the xmin of a frozen row stays what it was.
    https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
    """
    return f"pg_catalog.age(xmin) <= pg_catalog.age('{xmin & 0xFFFFFFFF}'::pg_catalog.xid)"


def stamped_since(column: str, moment: datetime) -> str:
    """What is true of every row whose column says that it was written at a moment or later."""
    return f"{quote(column)} >= '{moment.isoformat()}'::pg_catalog.timestamptz"


def count_query(table: TableName, written: str) -> str:
    """How many rows there are, and how many were written; every row is looked at."""
    return (
        f"SELECT pg_catalog.count(*) AS rows, pg_catalog.count(*) FILTER (WHERE {written}) AS written"
        f" FROM ONLY {qualified(table)}"
    )


def keys_query(table: TableName, key: Sequence[str], encoding: str) -> str:
    """All keys, sorted."""
    return f"SELECT {column_list(key)} FROM ONLY {qualified(table)} {_sorted(key, encoding)}"


def marked_keys_query(table: TableName, key: Sequence[str], encoding: str, written: str) -> str:
    """All keys, sorted, each after a 1 if its row was written, else a 0."""
    marked = f"({written})::pg_catalog.int4"
    return f"SELECT {marked}, {column_list(key)} FROM ONLY {qualified(table)} {_sorted(key, encoding)}"


def written_rows_query(
    table: TableName, columns: Sequence[str], key: Sequence[str], encoding: str, written: str
) -> str:
    """The rows that were written, sorted by their keys."""
    return f"SELECT {column_list(columns)} FROM ONLY {qualified(table)} WHERE {written} {_sorted(key, encoding)}"


def _sorted(key: Sequence[str], encoding: str) -> str:
    """`concat` uses a type's output function, as COPY does, where a cast to text would not: booleans, `char(n)`."""
    target = "SQL_ASCII" if encoding == "SQL_ASCII" else "UTF8"
    by = [f"pg_catalog.convert_to(pg_catalog.concat({quote(column)}), '{target}')" for column in key]
    return f"ORDER BY {', '.join(by)}"
