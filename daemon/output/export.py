"""How exports look: the plan before, the files after."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from daemon.output.console import as_bytes, out, print_table, print_warnings, table
from jobs.as_of import AsOf
from jobs.export import ExportResult
from jobs.exporting.plan import ExportPlan, PlannedFile
from jobs.postgres.identifiers import readable


def print_plan(found: AsOf, plan: ExportPlan, folder: Path) -> None:
    """What an export is about to write, a file a line."""
    title = f"export {found.manifest.id} ({found.manifest.created_at:%Y-%m-%d %H:%M:%S} UTC) to {folder}"
    shown = table(title, "file", ">rows", ">COPY text", "left out", "masked")
    for file in plan.files:
        one = _planned(file, plan)
        masked = ", ".join(f"{column}: {how}" for column, how in one["masked"].items())
        shown.add_row(
            *(Text(one["file"]), f"{one['rows']:,}", as_bytes(one["bytes_raw"])),
            *(Text(", ".join(one["omitted"])), Text(masked)),
        )
    print_table(shown)
    print_warnings((*found.warnings, *plan.warnings))


def _planned(file: PlannedFile, plan: ExportPlan) -> dict[str, Any]:
    """A file to be; of SQL, columns are said with their tables."""
    tables = [file.table] if file.table else plan.tables
    prefixes = ["" if file.table else f"{readable(one.table.name)}." for one in tables]
    only = file.table.table if file.table else None
    return {
        "file": file.name,
        "format": file.format,
        "schema": only and only.schema_name,
        "table": only and only.name,
        "rows": sum(one.table.rows for one in tables),
        "bytes_raw": file.bytes_raw,
        "omitted": [f"{prefix}{name}" for prefix, one in zip(prefixes, tables, strict=True) for name in one.omitted],
        "masked": {
            f"{prefix}{name}": how
            for prefix, one in zip(prefixes, tables, strict=True)
            for name, how in one.masked.items()
        },
    }


def plan_document(found: AsOf, plan: ExportPlan, folder: Path) -> dict[str, Any]:
    """What an export would write, as JSON shows it."""
    return {
        "id": found.manifest.id,
        "as_of": found.manifest.created_at,
        "out": str(folder),
        "dry_run": True,
        "files": [_planned(file, plan) for file in plan.files],
        "warnings": [*found.warnings, *plan.warnings],
    }


def print_export(result: ExportResult) -> None:
    """What an export came to."""
    shown = table("", "file", ">rows", ">bytes", "sha256")
    for file in result.files:
        shown.add_row(Text(file.file), f"{file.rows:,}", as_bytes(file.bytes), file.sha256)
    print_table(shown)
    out.print(
        f"exported {result.id} as of {result.as_of:%Y-%m-%d %H:%M:%S} UTC to {result.out}"
        f" in {result.duration_seconds:.1f} s; export.json there says what the files are"
    )
    print_warnings(result.warnings)


def export_document(result: ExportResult) -> dict[str, Any]:
    """An export's result as JSON shows it."""
    return asdict(result)
