"""An export as one file of SQL for psql: definitions, rows as COPY blocks, sequences, and what follows the rows.

Tables alone come with what they need and what belongs to them, as a restore brings them back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import BadExport
from jobs.exporting.columns import ExportedColumn, ExportedTable
from jobs.exporting.types import INTEGERS, TEXTS, read_type
from jobs.postgres.ddl import ArchiveEntry, archive_entries, entries_as_sql
from jobs.postgres.identifiers import TableName, column_list, qualified, quote
from jobs.postgres.tools import Tools
from jobs.restoring.entries import for_tables, listed_as, wanted_entries, without_owner
from jobs.scope import tables_by_name
from storage.manifest import Manifest

HASH_LENGTH = 64  # hex digits
END_OF_ROWS = b"\\.\n\n"


@dataclass(frozen=True, slots=True)
class Script:
    """The file but for the rows: what comes before them, and after; `names` are the tables that it makes and fills."""

    before: str
    after: str
    names: frozenset[TableName]


async def script(
    manifest: Manifest, tables: Sequence[ExportedTable], tools: Tools, archive: Path, *, whole: bool, owners: bool
) -> Script:
    """What stands around the rows. `whole`: of all tables; `owners`: with owners and rights, whose roles must exist."""
    names = _named(manifest, tables)
    making, rights, settling = await _entries(manifest, names, tools, archive, whole=whole)

    async def sql(section: str | None, some: Sequence[ArchiveEntry]) -> str:
        text = await entries_as_sql(tools, archive, section, some, tablespaces=False, owners=owners)
        return text and text + "\n"

    before = [_head(manifest, owners=owners), await sql("pre-data", making), *_loosened(manifest, tables, names)]
    after = [*_sequences(manifest, making), "\n", await sql("post-data", making)]
    if owners:
        after += [await sql(None, rights), await sql(None, settling)]
    return Script("".join(before), "".join([*after, *_refreshed(manifest, making)]), names)


def _named(manifest: Manifest, tables: Sequence[ExportedTable]) -> frozenset[TableName]:
    """The tables, and the partitioned ones of which all partitions are among them."""
    chosen = {one.table.oid for one in tables}
    found = tables_by_name(manifest).items()
    return frozenset(name for name, leaves in found if leaves and {leaf.oid for leaf in leaves} <= chosen)


async def _entries(
    manifest: Manifest, names: frozenset[TableName], tools: Tools, archive: Path, *, whole: bool
) -> tuple[Sequence[ArchiveEntry], Sequence[ArchiveEntry], Sequence[ArchiveEntry]]:
    """What makes objects, what gives rights on them, and what changes what every database has."""
    listing = await archive_entries(tools, archive)
    outside = manifest.not_covered.foreign_keys
    found = wanted_entries(listing, manifest.dump.schemas, {"public"}, {"plpgsql"}, outside)
    if whole:
        return found.making, found.rights, found.settling
    chosen = for_tables((*found.making, *found.rights), names, manifest.dump.roles)
    making = [entry for entry in chosen if not entry.text.startswith("ACL ")]
    return making, [entry for entry in chosen if entry.text.startswith("ACL ")], ()


def copy_statement(exported: ExportedTable, names: frozenset[TableName]) -> bytes:
    """What begins a table's rows."""
    into, place = exported.name, exported.table.load_into
    if place is not None:
        through = TableName(place.schema_name, place.name)
        into = through if through in names else into
    columns = column_list(column.name for column in exported.columns)
    return f"COPY {qualified(into)}{f' ({columns})' if columns else ''} FROM stdin;\n".encode()


def refuse_unfit_masks(tables: Sequence[ExportedTable]) -> None:
    """Raise `BadExport` where a column of the definitions could not take what stands for its values."""
    for exported in tables:
        columns = {column.name: column for column in exported.table.columns}
        for column in exported.columns:
            stored = columns[column.name]
            if column.mask and (why := _unfit(column, stored.type, exported, identity=stored.identity)):
                raise BadExport(
                    f"{exported.name}: column {column.name} cannot be masked so in SQL: {why}",
                    "mask it otherwise, --omit it, or export csv, json or parquet",
                )
        for name in exported.omitted:
            if name in exported.table.primary_key and not columns[name].identity:
                raise BadExport(f"{exported.name}: column {name} of its key cannot be left out in SQL", "mask it")


def _unfit(column: ExportedColumn, type_: str, exported: ExportedTable, *, identity: bool) -> str:
    """Why not; empty if it can be."""
    assert column.mask is not None
    kind, mask = read_type(type_), column.mask
    if mask.kind == "null" and (identity or column.name in exported.table.primary_key):
        return "it can never be NULL"
    if mask.kind == "fixed" and (column.name,) == exported.table.primary_key:
        return "it is the primary key, and every row would have the same"
    is_text = kind.base in TEXTS and not kind.array
    length = HASH_LENGTH if mask.kind == "hash" else len(mask.text)
    if mask.kind == "hash" and not is_text:
        return f"a hash is text, and its type is {type_}"
    if is_text and kind.base != "text" and kind.modifiers and length > kind.modifiers[0]:
        return f"its type is {type_}, which is too short"
    if mask.kind == "fixed" and kind.base in INTEGERS and not mask.text.removeprefix("-").isdecimal():
        return f"its type is {type_}, and the value is no number"
    return ""


def _loosened(manifest: Manifest, tables: Sequence[ExportedTable], names: frozenset[TableName]) -> Iterator[str]:
    """Columns without their values must not be NOT NULL any more, nor those of partitioned tables above them."""
    above = {str(TableName(one.schema_name, one.name)): one for one in manifest.schema_only}
    for exported in tables:
        columns = {column.name: column for column in exported.table.columns}
        emptied = [column.name for column in exported.columns if column.mask and column.mask.kind == "null"]
        emptied += [name for name in exported.omitted if not columns[name].identity]
        line = [exported.name]
        parent = exported.table.partition_of
        while parent is not None and parent in above:
            line.insert(0, TableName(above[parent].schema_name, above[parent].name))
            parent = above[parent].partition_of
        for table in line:
            for name in emptied if table in names else ():
                yield f"ALTER TABLE {qualified(table)} ALTER COLUMN {quote(name)} DROP NOT NULL;\n"


def _made(making: Sequence[ArchiveEntry], roles: Sequence[str]) -> list[str]:
    return [without_owner(entry.text, roles) for entry in making]


def _sequences(manifest: Manifest, making: Sequence[ArchiveEntry]) -> Iterator[str]:
    """Where each stood that is made."""
    made = set(_made(making, manifest.dump.roles))
    for one in manifest.sequences:
        name = TableName(one.schema_name, one.name)
        if listed_as("SEQUENCE", name) in made:
            called = str(one.is_called).lower()
            yield f"SELECT pg_catalog.setval({_literal(qualified(name))}, {one.last_value}, {called});\n"


def _refreshed(manifest: Manifest, making: Sequence[ArchiveEntry]) -> Iterator[str]:
    """Materialized views, those first that others read. One that cannot be computed here is no reason to fail."""
    views = [TableName(one.schema_name, one.name) for one in manifest.schema_only if one.kind == "materialized view"]
    names = {listed_as("MATERIALIZED VIEW", view): view for view in views}
    for text in _made(making, manifest.dump.roles):
        if (view := names.get(text)) is not None:
            refresh = f"REFRESH MATERIALIZED VIEW {qualified(view)}"
            warning = _literal(f"{qualified(view)} was not refreshed: ".replace("%", "%%") + "%")
            body = f"BEGIN {refresh}; EXCEPTION WHEN OTHERS THEN RAISE WARNING {warning}, SQLERRM; END"
            yield f"DO {_literal(body)};\n"


def _literal(text: str) -> str:
    """Text as SQL writes it, under `standard_conforming_strings`."""
    return "'" + text.replace("'", "''") + "'"


def _head(manifest: Manifest, *, owners: bool) -> str:
    said = [
        f"Database {manifest.source.database} as of {manifest.created_at.isoformat()}, out of backup {manifest.id}.",
        "Load it into an empty database, all or nothing: psql -X -1 -d NAME -f THIS_FILE",
    ]
    if owners and manifest.dump.roles:
        said.append(f"Roles that it names, and that must be there: {', '.join(manifest.dump.roles)}")
    comments = "".join(f"-- {' '.join(line.splitlines())}\n" for line in said)
    return f"{comments}{_SETTINGS}\n"


_SETTINGS = r"""
\set ON_ERROR_STOP on
SET client_encoding = 'UTF8';
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET standard_conforming_strings = on;
SET search_path = '';
SET check_function_bodies = off;
SET row_security = off;
SET xmloption = content;
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET lc_monetary = 'C';
"""
