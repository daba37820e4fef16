"""Schema by pg_dump and pg_restore: whole schemas, never single tables (`-t` leaves out types, functions and more)."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from jobs.postgres.connection import Source
from jobs.postgres.identifiers import quote
from jobs.postgres.tools import Tools, run_tool, stream_output, tool_environment


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


async def archive_entries(tools: Tools, archive: Path) -> list[str]:
    """The archive's table of contents, a line an entry, as `pg_restore --use-list` takes it back."""
    listing = await run_tool(tools.folder / "pg_restore", ["--list", str(archive)], {"LC_ALL": "C"})
    # Not splitlines(): names may hold characters that it takes for line ends.
    return [line for line in listing.decode().split("\n") if line and not line.startswith(";")]


async def restore_section(
    tools: Tools,
    target: Source,
    target_major: int,
    archive: Path,
    section: str | None,
    entries: Sequence[str],
    jobs: int,
) -> None:
    """Carry out those entries of an archive that are of one section (`pre-data`, `post-data`; None: of any).

    Raises `ToolTrouble`.
    """
    with tempfile.TemporaryDirectory(prefix="rowvault-") as folder, tool_environment(target) as environment:
        chosen = Path(folder) / "entries"
        chosen.write_text("\n".join(entries), encoding="utf-8")
        arguments = [f"--section={section}"] if section else []
        arguments += [f"--use-list={chosen}", f"--jobs={jobs}", "--no-password"]
        if target_major >= 17 or tools.major < 17:  # else its first words to the server are an error, though harmless
            arguments.append("--exit-on-error")
        arguments += [f"--dbname={target.dsn_without_password}", str(archive)]
        await run_tool(tools.folder / "pg_restore", arguments, environment)
