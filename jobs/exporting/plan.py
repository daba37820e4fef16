"""What a person wants exported, and which files that will be: for a person to look at first."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jobs.errors import BadExport
from jobs.exporting.as_sql import refuse_unfit_masks
from jobs.exporting.columns import LEAST_KEY, ExportedTable, Mask, exported_tables
from jobs.exporting.files import SUFFIXES, Compression, table_file
from jobs.exporting.types import vector_types
from jobs.postgres.identifiers import TableName
from jobs.postgres.tools import Tools, find_tools
from jobs.scope import chosen_tables, tables_by_name
from storage.manifest import Manifest

Format = Literal["csv", "json", "parquet", "sql"]
CONTENTS = "export.json"


@dataclass(frozen=True, slots=True)
class ExportScope:
    """What is exported, and how. No `tables` means all; `lines`: JSON as a line for each row.

    `omit` and `masks` name columns as TABLE.COL; `owners`: SQL says whose the objects are, and who may use them.
    """

    formats: tuple[Format, ...]
    tables: tuple[str, ...] = ()
    lines: bool = False
    compress: Compression | None = None
    omit: tuple[str, ...] = ()
    masks: tuple[tuple[str, Mask], ...] = ()
    owners: bool = True


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How an export is carried out: files at a time, where pg_restore is, and the key of hashes.

    `replace`: files of the same name may be replaced.
    """

    streams: int = 2
    pg_bin: Path | None = None
    mask_key: bytes = field(default=b"", repr=False)
    replace: bool = False


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be: its name below the folder, and its table; None: it is SQL of all of them."""

    name: str
    format: Format
    table: ExportedTable | None
    bytes_raw: int


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export will write. `tools` make SQL of definitions; None where none are exported."""

    scope: ExportScope
    tables: tuple[ExportedTable, ...]
    files: tuple[PlannedFile, ...]
    tools: Tools | None
    warnings: tuple[str, ...]

    @property
    def bytes_raw(self) -> int:
        """Bytes of COPY text that will be read."""
        return sum(file.bytes_raw for file in self.files)


async def plan_export(manifest: Manifest, scope: ExportScope, options: ExportOptions) -> ExportPlan:
    """Decide what will be written. Raises `NotThere`, `BadExport`, `BadName`, and `ToolMissing`."""
    chosen = chosen_tables(manifest, scope.tables)
    tables = exported_tables(manifest, chosen, scope.omit, scope.masks, vector_types(manifest))
    if any(mask.kind == "hash" for _, mask in scope.masks) and len(options.mask_key) < LEAST_KEY:
        raise BadExport(
            f"a hash needs a key of at least {LEAST_KEY} bytes",
            "set ROWVAULT_EXPORT__MASK_KEY, or ROWVAULT_EXPORT__MASK_KEY_FILE, and keep it from whoever gets the files",
        )
    tools = None
    if "sql" in scope.formats:
        refuse_unfit_masks(tables)
        major = int(manifest.dump.tool.split()[1].split(".")[0])
        tools = await asyncio.to_thread(find_tools, major, options.pg_bin)
    return ExportPlan(scope, tables, tuple(_files(scope, tables)), tools, tuple(_warnings(manifest, scope, tables)))


def _files(scope: ExportScope, tables: tuple[ExportedTable, ...]) -> Iterator[PlannedFile]:
    compressed = SUFFIXES[scope.compress] if scope.compress else ""
    suffixes = {"csv": f".csv{compressed}", "parquet": ".parquet"}
    suffixes["json"] = f".{'jsonl' if scope.lines else 'json'}{compressed}"
    for format_ in scope.formats:
        if format_ == "sql":
            yield PlannedFile(f"export.sql{compressed}", format_, None, sum(one.table.bytes_raw for one in tables))
            continue
        for one in tables:
            name = table_file(one.table.schema_name, one.table.name, suffixes[format_])
            yield PlannedFile(name, format_, one, one.table.bytes_raw)


def _warnings(manifest: Manifest, scope: ExportScope, tables: tuple[ExportedTable, ...]) -> Iterator[str]:
    """What a person might expect in the files and will not find, or not so."""
    if set(scope.formats) - {"sql"}:
        yield from _of_tables(manifest, tables)
    if "parquet" in scope.formats:
        for one in tables:
            if not one.columns and one.table.rows:
                yield f"{one.name} has no columns: Parquet cannot hold its rows"
    if "sql" in scope.formats and not scope.tables:
        for key in manifest.not_covered.foreign_keys:
            table = TableName(key.schema_name, key.table)
            yield f"foreign key {key.name} of {table} is left out: {key.references} is not in this backup"
        for other in manifest.schema_only:
            if other.kind == "table":
                name = TableName(other.schema_name, other.name)
                yield f"table {name} comes without rows: they are not in this backup"


def _of_tables(manifest: Manifest, tables: tuple[ExportedTable, ...]) -> Iterator[str]:
    chosen = {one.table.oid for one in tables}
    for name, leaves in tables_by_name(manifest).items():
        mine = [str(TableName(leaf.schema_name, leaf.name)) for leaf in leaves if leaf.oid in chosen]
        if mine and mine != [str(name)]:
            yield f"{name} is exported by its partitions: {', '.join(mine)}"
    for one in tables:
        if one.generated:
            yield f"{one.name}: generated columns are in no backup, and not exported: {', '.join(one.generated)}"
