"""Proves a restored scratch database equal to its backup where a restore itself does not look.

Definitions are compared as pg_dump writes them, object by object. Some texts change once they are written and read
again (`IN` lists in checks and policies), or from one server version to the next. So what reads differently is
compared with a second database, to which nothing but pg_restore brought the same definitions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.drilling.scratch import Scratch, World, fresh_database
from jobs.postgres.connection import Connection, Source, session
from jobs.postgres.ddl import archive_entries, dump_definitions, restore_section, schema_as_sql
from jobs.postgres.errors import translated
from jobs.postgres.identifiers import TableName, qualified
from jobs.postgres.stand_ins import alive, extension_versions, versions_differ
from jobs.restoring.empty import FillPlan
from jobs.restoring.entries import wanted_entries
from jobs.restoring.refusals import lacking_tablespaces
from jobs.results import Check
from jobs.temporary import temporary_folder
from storage.manifest import Manifest

_HEADER = re.compile(
    r"^--\n-- Name: (?P<name>.*); Type: (?P<type>[^;]*); Schema: (?P<schema>.*); Owner: (?P<owner>.*)\n--\n",
    re.MULTILINE,
)
# What pg_restore writes between objects: settings for the next one, and its last words.
_BETWEEN = re.compile(r"^(SET default_.*|\\(un)?restrict .*|-- PostgreSQL database dump complete|--|)$")
# A number that Debian's PostgreSQL 15.20 gives each column anew, which only its own pg_dump leaves out.
_NUMBERED = re.compile(r"\bpg_attver=\d+")


@dataclass(frozen=True, order=True, slots=True)
class ObjectName:
    """An object of an archive, in pg_dump's words."""

    type: str
    schema: str
    name: str

    def __str__(self) -> str:
        where = "" if self.schema == "-" else f"{self.schema}."
        return f"{self.type.lower()} {where}{self.name}"


Definitions = Mapping[ObjectName, str]


def definitions(sql: str) -> Definitions:
    """The objects in what pg_restore writes, each with its owner and SQL; but for extensions, which have versions.

    The lines of GRANTs are sorted, since their order means nothing.
    """
    found: dict[ObjectName, str] = {}
    sql = _NUMBERED.sub("pg_attver", sql)
    headers = list(_HEADER.finditer(sql))
    for header, end in zip(headers, [*(one.start() for one in headers[1:]), len(sql)], strict=True):
        name = ObjectName(header["type"], header["schema"], header["name"])
        if name.type == "EXTENSION" or (name.type == "COMMENT" and name.name.startswith("EXTENSION ")):
            continue
        lines = [line for line in sql[header.end() : end].split("\n") if not _BETWEEN.match(line)]
        owner = [] if name.type == "SCHEMA" else [header["owner"]]  # one that is there already keeps its own
        found[name] = "\n".join([found.get(name, ""), *owner, *(sorted(lines) if name.type == "ACL" else lines)])
    return found


def unequal(wanted: Definitions, found: Definitions) -> list[ObjectName]:
    """Objects that only one of the two has, or that read differently."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


async def prove_definitions(plan: FillPlan, scratch: Scratch, world: World, archive: Path) -> Check:
    """Compare every definition with the backup's own."""
    left_out = {ObjectName("FK CONSTRAINT", key.schema_name, f"{key.table} {key.name}") for key in plan.left_out}
    sql = (await schema_as_sql(plan.tools, archive)).decode()
    wanted = {name: text for name, text in definitions(sql).items() if name not in left_out}
    found = await _dumped(plan, scratch.database)
    different = unequal(wanted, found)
    if different:
        async with fresh_database(scratch.host, world) as (second, _):
            again = await _restored_alone(plan, second, archive)
        lost = wanted.keys() - found.keys()
        different = sorted(name for name in different if name in lost or found.get(name) != again.get(name))
    if different:
        return Check("definitions", "failed", f"not as in the backup: {_some(different)}")
    return Check("definitions", "ok", f"{len(found)} objects")


def _some(names: Sequence[object], most: int = 20) -> str:
    return ", ".join([*map(str, names[:most]), *(["…"] if len(names) > most else [])])


async def _dumped(plan: FillPlan, database: Source) -> Definitions:
    with temporary_folder() as folder:
        archive = folder / "found.dump"
        await dump_definitions(plan.tools, database, plan.manifest.dump.schemas, archive)
        return definitions((await schema_as_sql(plan.tools, archive)).decode())


async def _restored_alone(plan: FillPlan, second: Source, archive: Path) -> Definitions:
    """What the definitions read like after pg_restore alone brought them to the same server."""
    entries = wanted_entries(
        await archive_entries(plan.tools, archive),
        plan.manifest.dump.schemas,
        plan.state.existing_schemas,
        plan.state.existing_extensions,
        plan.left_out,
    )
    tablespaces = not lacking_tablespaces(plan.manifest, plan.state)
    for some in (entries.making, entries.rights, entries.settling):
        if some:
            await restore_section(plan.tools, second, plan.state.major, archive, None, some, 1, tablespaces=tablespaces)
    return await _dumped(plan, second)


async def prove_contents(scratch: Source, manifest: Manifest) -> tuple[Check, ...]:
    """Count rows, look where sequences stand, and that nothing in there reaches outside."""
    async with session(scratch, "drill") as connection:
        return (
            _check("row counts", await _miscounted(connection, manifest)),
            _check("sequences", await _misplaced(connection, manifest)),
            _check("nothing reaches outside", await alive(connection)),
        )


def _check(name: str, found: Sequence[str]) -> Check:
    return Check(name, "failed" if found else "ok", _some(found))


async def _miscounted(connection: Connection, manifest: Manifest) -> list[str]:
    """Tables that have other numbers of rows. Rows of some partitions may be in others: they are counted together."""
    wanted: dict[tuple[TableName, str], int] = {}
    for table in manifest.tables:
        place = table.load_into or table
        counted = (TableName(place.schema_name, place.name), "" if table.load_into else "ONLY ")
        wanted[counted] = wanted.get(counted, 0) + table.rows
    found = []
    for (name, only), rows in wanted.items():
        with translated(f"counting the rows of {name}"):
            count: int = await connection.fetchval(f"SELECT count(*) FROM {only}{qualified(name)}")
        if count != rows:
            found.append(f"{name} has {count} rows, {rows} were backed up")
    return found


async def _misplaced(connection: Connection, manifest: Manifest) -> list[str]:
    found = []
    for one in manifest.sequences:
        name = TableName(one.schema_name, one.name)
        with translated(f"looking at sequence {name}"):
            row = await connection.fetchrow(f"SELECT last_value, is_called FROM {qualified(name)}")
        if (row["last_value"], row["is_called"]) != (int(one.last_value), one.is_called):
            found.append(f"{name} stands at {row['last_value']}, it was {one.last_value}")
    return found


async def not_proved(scratch: Source, plan: FillPlan) -> tuple[str, ...]:
    """What the drill proves nothing of, a sentence each."""
    manifest = plan.manifest
    async with session(scratch, "drill") as connection:
        there = await extension_versions(connection)
    wanted = {extension.name: extension.version for extension in manifest.dump.extensions}
    outside = manifest.not_covered
    skipped = [f"table {name} is not in the backup" for name in (*outside.tables, *outside.excluded_tables)]
    if outside.large_objects:
        skipped.append(f"{outside.large_objects} large objects are not in the backup")
    return (*plan.warnings, *versions_differ(wanted, there), *skipped)
