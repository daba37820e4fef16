"""What is looked at in a database after rows came into it: row security, indexes and constraints, views, statements."""

from collections.abc import Sequence

import asyncpg

from jobs.postgres.connection import Connection
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, column_list, qualified, quote
from jobs.postgres.live_constraints import FOREIGN_KEY_COLUMNS

_WANTED = """
    ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted (schema, name)
      JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
"""


def _arrays(tables: Sequence[TableName]) -> tuple[list[str], list[str]]:
    return [table.schema for table in tables], [table.name for table in tables]


async def without_row_security(connection: Connection, tables: Sequence[TableName]) -> list[TableName]:
    """Those of the tables that do not have row security."""
    with translated("looking at row security"):
        rows = await connection.fetch(
            f"SELECT nspname, relname FROM {_WANTED} WHERE NOT c.relrowsecurity ORDER BY 1, 2", *_arrays(tables)
        )
    return [TableName(*row) for row in rows]


async def policies(connection: Connection, tables: Sequence[TableName]) -> dict[TableName, int]:
    """How many policies each table has."""
    with translated("looking at policies"):
        rows = await connection.fetch(
            f"SELECT nspname, relname, (SELECT count(*) FROM pg_catalog.pg_policy WHERE polrelid = c.oid)"
            f" FROM {_WANTED}",
            *_arrays(tables),
        )
    return {TableName(row[0], row[1]): row[2] for row in rows}


async def invalid_indexes(connection: Connection, tables: Sequence[TableName]) -> list[str]:
    """Indexes of the tables that the server does not use, as a build that failed leaves them."""
    with translated("looking at indexes"):
        rows = await connection.fetch(
            f"SELECT i.indexrelid::pg_catalog.regclass::text FROM {_WANTED}"
            " JOIN pg_catalog.pg_index i ON i.indrelid = c.oid WHERE NOT i.indisvalid AND c.relkind = 'r' ORDER BY 1",
            *_arrays(tables),
        )
    return [row[0] for row in rows]


async def orphans(connection: Connection, tables: Sequence[TableName]) -> list[str]:
    """Foreign keys of the tables that rows violate, proved by an anti-join, whatever the catalogue says of them.

    One that is NOT VALID promises nothing of the rows, and is left out; so is one of which row security hides rows.
    """
    with translated("looking at foreign keys"):
        rows = await connection.fetch(_FOREIGN_KEYS, *_arrays(tables))
    found = []
    for row in rows:
        child, parent = TableName(row["schema"], row["table"]), TableName(row["to_schema"], row["to_table"])
        pairs = zip(row["columns"], row["referenced"], row["equals"], strict=True)
        joined = " AND ".join(f"p.{quote(to)} {equals} c.{quote(of)}" for of, to, equals in pairs)
        filled = " AND ".join(f"c.{quote(column)} IS NOT NULL" for column in row["columns"])
        with translated(f"proving foreign key {row['name']} of {child}"):
            if await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM {qualified(child)} c WHERE {filled}"
                f" AND NOT EXISTS (SELECT FROM {qualified(parent)} p WHERE {joined}))"
            ):
                found.append(f"{quote(row['name'])} of {child}")
    return found


# A key that points to a partitioned table has another one behind it for each partition: of those no one holds alone.
_FOREIGN_KEYS = f"""
    SELECT k.conname AS name, n.nspname AS schema, c.relname AS table, m.nspname AS to_schema, r.relname AS to_table,
           {FOREIGN_KEY_COLUMNS}
      FROM {_WANTED}
      JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' AND k.convalidated
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint above
                        WHERE above.oid = k.conparentid AND above.conrelid = k.conrelid)
       AND NOT pg_catalog.row_security_active(k.conrelid) AND NOT pg_catalog.row_security_active(k.confrelid)
      JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
     ORDER BY 2, 3, 1
"""


async def refresh_views(connection: Connection, schemas: Sequence[str]) -> tuple[list[str], list[str]]:
    """Refresh the materialized views of schemas, those first that others read; return which, and what failed and why.

    CONCURRENTLY where a view has rows and a unique index that covers them all, so that readers need not wait.
    """
    with translated("looking at materialized views"):
        rows = await connection.fetch(_VIEWS, list(schemas))
    done, failed = [], []
    for row in rows:
        view = TableName(row["nspname"], row["relname"])
        word = "CONCURRENTLY " if row["concurrently"] else ""
        try:
            await connection.execute(f"REFRESH MATERIALIZED VIEW {word}{qualified(view)}")
            done.append(str(view))
        except asyncpg.PostgresError as error:
            failed.append(f"{view}: {str(error).splitlines()[0]}")
    return done, failed


# A view is made after those it reads, so the order of their oids will do.
_VIEWS = """
    SELECT n.nspname, c.relname,
           c.relispopulated AND EXISTS (
               SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                  AND i.indpred IS NULL AND i.indexprs IS NULL) AS concurrently
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'm' AND n.nspname = ANY ($1::text[]) ORDER BY c.oid
"""


async def analyze(connection: Connection, tables: Sequence[TableName]) -> None:
    """Let the planner know what is in the tables."""
    with translated("analysing the restored tables"):
        if tables:
            await connection.execute(f"ANALYZE {', '.join(qualified(table) for table in tables)}")


async def failure_of(connection: Connection, statement: str, role: str | None = None) -> str | None:
    """Run a check in a transaction that is rolled back, as another role where one is named; what is wrong, or None.

    It fails if it raises, or if a boolean column is false in any row it returns.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute('SET LOCAL search_path = "$user", public; SET LOCAL row_security = on')
        if role is not None:
            await connection.execute(f"SET LOCAL ROLE {quote(role)}")
        rows = await connection.fetch(statement)
    except asyncpg.PostgresError as error:
        return str(error).splitlines()[0]
    finally:
        await transaction.rollback()
    for row in rows:
        false = [name for name, value in row.items() if value is False]
        if false:
            return f"{column_list(false)} is false"
    return None
