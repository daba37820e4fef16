"""After a restore: is everything as it should be, and do the application's own checks pass?"""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.postgres import health
from jobs.postgres.connection import Source, session
from jobs.postgres.identifiers import TableName
from jobs.progress import OnProgress, Progress
from jobs.results import Check
from storage.manifest import Table


@dataclass(frozen=True, slots=True)
class Statement:
    """A check of the application's: SQL that fails if it raises or returns false, run as `role` where one is named."""

    sql: str
    role: str | None = None


async def look_after(
    target: Source,
    tables: Sequence[Table],
    views_of: Sequence[str],
    statements: Sequence[Statement],
    on_progress: OnProgress,
) -> tuple[Check, ...]:
    """Check what was restored; each check says what it found. Nothing here undoes the restore.

    Materialized views of the schemas `views_of` are refreshed, and the tables analysed; not for a single row, which
    changes neither by much: it should be back at once.
    """
    names = [TableName(table.schema_name, table.name) for table in tables]
    secured = [TableName(table.schema_name, table.name) for table in tables if table.row_security]
    on_progress(Progress("checking what was restored"))
    async with session(target, "restore checks") as connection:
        refreshed, stale = await health.refresh_views(connection, views_of)
        if views_of:
            await health.analyze(connection, names)
        checks = [
            _check("row security", "no", await health.without_row_security(connection, secured)),
            _check("indexes", "not valid:", await health.invalid_indexes(connection, names)),
            _check("foreign keys", "rows without their parent:", await health.orphans(connection, names)),
            _check("materialized views", "not refreshed:", stale, done=refreshed),
        ]
        for statement in statements:
            trouble = await health.failure_of(connection, statement.sql, statement.role)
            name = f"as {statement.role}: {statement.sql}" if statement.role else statement.sql
            checks.append(Check(name, "failed" if trouble else "ok", trouble or ""))
    return tuple(checks)


def _check(name: str, trouble: str, found: Sequence[object], done: Sequence[str] = ()) -> Check:
    if found:
        return Check(name, "failed", f"{trouble} {', '.join(map(str, found))}")
    return Check(name, "ok", f"refreshed: {', '.join(done)}" if done else "")
