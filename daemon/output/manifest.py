"""How one backup looks to a person."""

from collections.abc import Mapping

from rich.text import Text

from daemon.output.console import as_bytes, out, print_table, print_warnings, table
from jobs.postgres.identifiers import TableName
from storage.increments import AnyBackup, Increment, Incremental
from storage.manifest import Manifest


def print_manifest(manifest: AnyBackup) -> None:
    """One backup for people; `--json` shows everything."""
    if isinstance(manifest, Manifest):
        _print_full(manifest)
    else:
        _print_incremental(manifest)
    if manifest.encryption is not None:
        _print_lines({"for": ", ".join(manifest.encryption.recipients)})
    if manifest.erasures:
        _print_lines({"erased": ", ".join(manifest.erasures)})
    print_warnings(manifest.warnings)


def _print_full(manifest: Manifest) -> None:
    source, snapshot = manifest.source, manifest.snapshot
    lines = {
        "backup": f"{manifest.id} ({manifest.kind})",
        "label": manifest.label,
        "reason": manifest.reason,
        "moment": f"{manifest.created_at:%Y-%m-%d %H:%M:%S.%f} UTC, LSN {snapshot.lsn}, xmin {snapshot.xmin}",
        "source": f"{source.database}, PostgreSQL {source.server_version}, system {source.system_identifier}",
        "state of": manifest.archived or "",
        "compared": manifest.compared,
        "gap": manifest.gap.reason if manifest.gap else "",
        "schema": f"{', '.join(manifest.dump.schemas)}, by {manifest.dump.tool}",
        "size": f"{manifest.rows:,} rows, {as_bytes(manifest.bytes_stored)} in {len(list(manifest.objects()))} objects",
    }
    _print_lines(lines)
    shown = table("", "table", ">rows", ">COPY text", ">stored", ">parts")
    for one in manifest.tables:
        name = str(TableName(one.schema_name, one.name))
        sizes = (as_bytes(one.bytes_raw), as_bytes(one.bytes_stored), str(len(one.parts)))
        shown.add_row(Text(name), f"{one.rows:,}", *sizes)
    print_table(shown)
    for only in manifest.schema_only:
        out.print(Text(f"  definition only: {only.kind} {TableName(only.schema_name, only.name)}"))
    for name in manifest.not_covered.tables:
        out.print(Text(f"  not covered: table {name}"))


def _print_incremental(increment: Incremental) -> None:
    moment = f"{increment.created_at:%Y-%m-%d %H:%M:%S.%f} UTC"
    lines = {
        "backup": f"{increment.id} ({increment.kind}, by {increment.method})",
        "base": increment.base or "",
        "label": increment.label,
        "reason": increment.reason,
        "moment": moment,
        "size": as_bytes(increment.bytes_stored),
    }
    if isinstance(increment, Increment):
        lines["window"] = f"LSN {increment.start} to {increment.end} of slot {increment.slot}"
        plural = "" if increment.commits == 1 else "s"
        lines["size"] = f"{increment.commits:,} transaction{plural}, {lines['size']}"
    _print_lines(lines)
    shown = table("", "table", ">rows changed", "found by")
    for one in increment.changes if isinstance(increment, Increment) else ():
        shown.add_row(Text(str(TableName(one.schema_name, one.name))), f"{one.changes:,}", "wal")
    for difference in increment.beside.tables if increment.beside else ():
        name, by = str(TableName(difference.schema_name, difference.name)), f"{difference.method}: {difference.reason}"
        shown.add_row(Text(name), f"{difference.changes:,}", Text(by))
    print_table(shown)


def _print_lines(lines: Mapping[str, str]) -> None:
    for name, text in lines.items():
        if text:
            out.print(Text(f"{name:>8}  ", style="bold") + Text(text))
