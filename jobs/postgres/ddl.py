"""Schema by pg_dump and pg_restore: whole schemas, never single tables (`-t` leaves out types, functions and more)."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.postgres.connection import Source
from jobs.postgres.identifiers import quote
from jobs.postgres.tools import Tools, run_tool, stream_output, tool_environment
from jobs.temporary import temporary_folder


async def dump_schema(
    tools: Tools,
    source: Source,
    snapshot_id: str,
    schemas: Sequence[str],
    extensions: Sequence[str],
    lock_timeout: float,
) -> AsyncIterator[bytes]:
    """A pg_dump archive (custom format) of the definitions of whole schemas, at the exported snapshot."""
    arguments = ["--format=custom", "--schema-only", "--no-password", "--encoding=UTF8", f"--snapshot={snapshot_id}"]
    # Every schema and extension must be found, by its exact name.
    arguments.append("--strict-names")
    arguments += [
        f"--lock-wait-timeout={round(lock_timeout * 1000)}",
        f"--dbname={source.dsn_without_password}",
    ]
    arguments += [f"--schema={quote(schema)}" for schema in schemas]
    arguments += [f"--extension={quote(extension)}" for extension in extensions]
    with tool_environment(source) as environment:
        async for block in stream_output(tools.folder / "pg_dump", arguments, environment):
            yield block


async def schema_as_sql(tools: Tools, archive: Path) -> bytes:
    """The archive as SQL text."""
    return await run_tool(tools.folder / "pg_restore", ["--file=-", str(archive)], {"LC_ALL": "C"})


async def dump_roles(tools: Tools, source: Source) -> bytes:
    """Role definitions and memberships as SQL, without passwords."""
    arguments = [
        "--roles-only",
        "--encoding=UTF8",
        "--no-role-passwords",
        "--no-password",
        f"--dbname={source.dsn_without_password}",
    ]
    with tool_environment(source) as environment:
        return await run_tool(tools.folder / "pg_dumpall", arguments, environment)


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One object in an archive: its number there, its line as `pg_restore --use-list` takes it back, what it needs.

    A line is `ID; CATALOG OID DESCRIPTION SCHEMA NAME OWNER`, names unquoted; `text` is what follows the oid.
    """

    number: int
    line: str
    needs: frozenset[int]

    @property
    def text(self) -> str:
        """What kind of object it is, its schema (`-` for none), name and owner."""
        return self.line.split(" ", 3)[3]


async def archive_entries(tools: Tools, archive: Path) -> list[ArchiveEntry]:
    """The archive's table of contents."""
    arguments = ["--list", "--verbose", str(archive)]
    listing = await run_tool(tools.folder / "pg_restore", arguments, {"LC_ALL": "C"})
    entries: list[ArchiveEntry] = []
    # Not splitlines(): names may hold characters that it takes for line ends.
    for line in listing.decode().split("\n"):
        if line.startswith(_NEEDS):
            needs = frozenset(int(number) for number in line.removeprefix(_NEEDS).split())
            entries[-1] = replace(entries[-1], needs=needs)
        elif line and not line.startswith(";"):
            entries.append(ArchiveEntry(int(line.partition(";")[0]), line, frozenset()))
    return entries


_NEEDS = ";\tdepends on:"


async def entries_as_sql(
    tools: Tools,
    archive: Path,
    section: str | None,
    entries: Sequence[ArchiveEntry],
    *,
    tablespaces: bool,
    owners: bool = True,
) -> str:
    """Some entries of an archive as SQL text, to be run in a session whose settings are its own.

    Without `tablespaces`, all goes to the database's own; without `owners`, to whoever runs it.
    """
    if not entries:
        return ""
    with temporary_folder() as folder:
        chosen = _use_list(folder, entries)
        arguments = [*_scope(section, tablespaces=tablespaces), *([] if owners else ["--no-owner"])]
        arguments += [f"--use-list={chosen}", "--file=-", str(archive)]
        text = (await run_tool(tools.folder / "pg_restore", arguments, {"LC_ALL": "C"})).decode()
    # What comes before the first object are settings of a session, and commands of psql; and where it is to lie.
    head, begins, objects = text.partition("\n--\n-- Name: ")
    return "\n".join(_PLACE.findall(head)) + begins + _LAST_WORD.sub("", objects)


_PLACE = re.compile(r"^SET default_table.*;$", re.MULTILINE)

# For psql. A line like it may also stand in a comment or a function, where it stays.
_LAST_WORD = re.compile(r"^\\unrestrict \w+\s*\Z", re.MULTILINE)


def _scope(section: str | None, *, tablespaces: bool) -> list[str]:
    return [*([f"--section={section}"] if section else []), *([] if tablespaces else ["--no-tablespaces"])]


def _use_list(folder: Path, entries: Sequence[ArchiveEntry]) -> Path:
    chosen = folder / "entries"
    chosen.write_text("\n".join(entry.line for entry in entries), encoding="utf-8")
    return chosen


async def restore_section(
    tools: Tools,
    target: Source,
    target_major: int,
    archive: Path,
    section: str | None,
    entries: Sequence[ArchiveEntry],
    jobs: int,
    *,
    tablespaces: bool,
) -> None:
    """Carry out those entries of an archive that are of one section (`pre-data`, `post-data`; None: of any).

    Without `tablespaces`, all goes to the database's own. Raises `ToolTrouble`.
    """
    with temporary_folder() as folder, tool_environment(target) as environment:
        arguments = _scope(section, tablespaces=tablespaces)
        arguments += [f"--use-list={_use_list(folder, entries)}", f"--jobs={jobs}", "--no-password"]
        if target_major >= 17 or tools.major < 17:  # else its first words to the server are an error, though harmless
            arguments.append("--exit-on-error")
        arguments += [f"--dbname={target.dsn_without_password}", str(archive)]
        await run_tool(tools.folder / "pg_restore", arguments, environment)


async def dump_definitions(tools: Tools, source: Source, schemas: Sequence[str], archive: Path) -> None:
    """Write an archive of the definitions that whole schemas have now."""
    arguments = ["--format=custom", "--schema-only", "--no-password", "--encoding=UTF8", f"--file={archive}"]
    arguments += [f"--dbname={source.dsn_without_password}"]
    arguments += [f"--schema={quote(schema)}" for schema in schemas]
    with tool_environment(source) as environment:
        await run_tool(tools.folder / "pg_dump", arguments, environment)
