"""Definitions that a database in use lacks: in which order they are made. Others begin and end the transaction."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from jobs.postgres.connection import Connection
from jobs.postgres.ddl import ArchiveEntry, entries_as_sql
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import qualified, quote
from jobs.postgres.rights import forget_default_privileges, objects_with_rights
from jobs.postgres.tools import Tools
from jobs.restoring.entries import makes_table
from jobs.restoring.plan import ChangePlan
from jobs.restoring.refusals import lacking_tablespaces


@dataclass(frozen=True, slots=True)
class Definitions:
    """SQL for what the target lacks: before the rows, rights, and what follows the rows."""

    before: str
    rights: str
    after: tuple[str, ...]


async def definitions_to_make(plan: ChangePlan, archive: AbstractAsyncContextManager[Path]) -> Definitions:
    """Read them from the archive, if there are any."""
    if plan.tools is None:
        return Definitions("", "", ())
    async with archive as path:
        return await _read_definitions(plan, plan.tools, path)


async def _read_definitions(plan: ChangePlan, tools: Tools, archive: Path) -> Definitions:
    """A partition joins a parent that is there only with its own indexes made: else the parent's would make others.

    It joins before its triggers are set, which it has from the parent.
    """
    by_number = {entry.number: entry for entry in plan.missing}

    def joins_what_is_there(entry: ArchiveEntry) -> bool:
        made = [number for number in entry.needs if number in by_number and makes_table(by_number[number])]
        return entry.text.startswith("TABLE ATTACH ") and len(made) < _ENDS

    rights = [entry for entry in plan.missing if entry.text.startswith("ACL ")]
    late = [entry for entry in plan.missing if joins_what_is_there(entry)]
    rest = [entry for entry in plan.missing if entry not in rights and entry not in late]
    indexes = [entry for entry in rest if late and entry.text.startswith(("INDEX ", "CONSTRAINT "))]
    indexes = [entry for entry in indexes if not entry.text.startswith("INDEX ATTACH ")]

    tablespaces = not lacking_tablespaces(plan.manifest, plan.state)

    async def sql(section: str | None, entries: list[ArchiveEntry]) -> str:
        return await entries_as_sql(tools, archive, section, entries, tablespaces=tablespaces)

    return Definitions(
        before=await sql("pre-data", rest),
        rights=await sql(None, rights),
        after=(
            await sql("post-data", indexes),
            await sql(None, late),
            await sql("post-data", [entry for entry in rest if entry not in indexes]),
        ),
    )


_ENDS = 2  # a partition and its parent


async def make(connection: Connection, plan: ChangePlan, definitions: Definitions) -> None:
    """Make what rows need, with the rights that it had; and where tables are put beside others, those."""
    schemas = plan.manifest.dump.schemas
    before = await objects_with_rights(connection, schemas)
    await execute(connection, definitions.before, "making what is missing")
    if definitions.before:
        await forget_default_privileges(connection, schemas, before)
    await execute(connection, definitions.rights, "granting rights")
    if plan.scope.into_schema is not None:
        await _make_beside(connection, plan, plan.scope.into_schema)


async def _make_beside(connection: Connection, plan: ChangePlan, schema: str) -> None:
    with translated(f"making schema {schema}"):
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
        for change in plan.changes:
            columns = ", ".join(
                f"{quote(column.name)} {column.type}" for column in change.stored.columns if not column.generated
            )
            await connection.execute(f"CREATE TABLE {qualified(change.into)} ({columns})")


async def execute(connection: Connection, text: str, doing: str) -> None:
    """Run SQL that pg_restore wrote."""
    if text:
        with translated(doing):
            await connection.execute("SET LOCAL check_function_bodies = off")
            await connection.execute(text)
