"""Exports tables of a backup, or of a moment, as files that other programs read: CSV, JSON, Parquet, or SQL for psql.

The way of the data: stored part → COPY text → columns left out or masked → format → compression → file. All of it is in
threads and by chunks, so memory does not grow with the tables. A file that is not whole is never left under its name.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from jobs.as_of import AsOf
from jobs.concurrency import task_group
from jobs.copying.part_reading import read_part
from jobs.exporting.as_csv import CsvRows
from jobs.exporting.as_json import JsonRows
from jobs.exporting.as_sql import END_OF_ROWS, copy_statement, script
from jobs.exporting.columns import ExportedTable, reshaping
from jobs.exporting.copy_lines import whole_lines
from jobs.exporting.files import Formatter, Sink, Staging, Unfit, refuse_unless_empty, staged
from jobs.exporting.plan import CONTENTS, ExportOptions, ExportPlan, Format, PlannedFile
from jobs.places.leasing import leased_for_reading
from jobs.progress import OnProgress, Progress, no_progress
from jobs.restore import schema_archive
from storage.errors import Corrupt, NotFound, StorageError
from storage.repository import Repository

LINES = 256 * 1024  # bytes of text that are worked on at a time
ROW_GROUP = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file, its name below the folder, its bytes as they are there; of SQL, `rows` of all its tables.

    `as_text` are columns whose values the type that they should have in Parquet cannot hold.
    """

    file: str
    format: Format
    schema: str | None
    table: str | None
    rows: int
    bytes: int
    sha256: str
    as_text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export came to: out of which backup, as of which moment, and its files."""

    id: str
    as_of: datetime
    out: str
    files: tuple[ExportedFile, ...]
    warnings: tuple[str, ...]
    duration_seconds: float


async def export(
    found: AsOf, plan: ExportPlan, out: Path, options: ExportOptions, on_progress: OnProgress = no_progress
) -> ExportResult:
    """Write all the files of a plan into a folder, then `export.json`, which says what they are.

    Raises `UnsafeTarget` if something is in the folder, `NotWritten` if a file cannot be written, `Corrupt` and what
    else the places raise if none has a part whole; nothing is left of it then.
    """
    started = time.monotonic()
    refuse_unless_empty(out, replace=options.replace)
    with staged(out) as staging:
        files = await _Run(found, plan, staging, options, on_progress).write_all()
        warnings = (*found.warnings, *plan.warnings, *_told_of(files))
        result = ExportResult(found.manifest.id, found.manifest.created_at, str(out), files, warnings, 0.0)
        await asyncio.to_thread(_write_contents, staging, found, result)
        await asyncio.to_thread(staging.publish, [*(file.file for file in files), CONTENTS])
    return replace(result, duration_seconds=time.monotonic() - started)


def _told_of(files: Sequence[ExportedFile]) -> Iterator[str]:
    for file in files:
        table = f"{file.schema}.{file.table}"
        for column in file.as_text:
            yield f"{table}: column {column} holds values that its type in Parquet cannot, and was exported as text"


def _write_contents(staging: Staging, found: AsOf, result: ExportResult) -> None:
    fields = {
        "format": 1,
        "program": f"rowvault {version('rowvault')}",
        "database": found.manifest.source.database,
        "id": result.id,
        "as_of": result.as_of.isoformat(),
        "exported_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "files": [asdict(file) for file in result.files],
        "warnings": result.warnings,
    }
    with closing(staging.open(CONTENTS, None)) as sink:
        sink.write(json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n")
        sink.finish()


@dataclass
class _Run:
    """One export under way."""

    found: AsOf
    plan: ExportPlan
    staging: Staging
    options: ExportOptions
    on_progress: OnProgress
    done: int = 0

    async def write_all(self) -> tuple[ExportedFile, ...]:
        """Every file from the first place where what it needs is whole."""
        written: dict[str, ExportedFile] = {}
        failures: list[StorageError] = []
        for repository in self.found.repositories:
            missing = [file for file in self.plan.files if file.name not in written]
            if missing:
                await self._write_from(repository, missing, written, failures)
        if len(written) < len(self.plan.files):
            raise next((one for one in failures if isinstance(one, Corrupt)), failures[0])
        return tuple(written[file.name] for file in self.plan.files)

    async def _write_from(
        self,
        repository: Repository,
        files: Sequence[PlannedFile],
        written: dict[str, ExportedFile],
        failures: list[StorageError],
    ) -> None:
        """Those files that one place has whole. A damaged object concerns one file, a silent place all of them."""
        waiting = iter(sorted(files, key=lambda file: -file.bytes_raw))

        async def stream() -> None:
            for file in waiting:
                try:
                    written[file.name] = await self._write(repository, file)
                except (Corrupt, NotFound) as error:
                    failures.append(error)

        try:
            async with leased_for_reading(repository, self.found.manifest.id, "export"), task_group() as group:
                for _ in range(min(self.options.streams, len(files))):
                    group.create_task(stream())
        except StorageError as error:
            failures.append(error)

    async def _write(self, repository: Repository, file: PlannedFile) -> ExportedFile:
        self.staging.discard(file.name)
        compression = None if file.format == "parquet" else self.plan.scope.compress
        with closing(self.staging.open(file.name, compression)) as sink:
            if file.table is None:
                return await self._write_sql(repository, file, sink)
            return await self._write_table(repository, file, file.table, sink)

    async def _write_table(
        self, repository: Repository, file: PlannedFile, exported: ExportedTable, sink: Sink
    ) -> ExportedFile:
        """What does not fit the types that it should have is found on the way: then the file begins anew."""
        as_text = frozenset[int]()
        while True:
            formatter = await asyncio.to_thread(self._formatter, file, exported, as_text)
            try:
                await asyncio.to_thread(_append, sink, formatter.begin)
                await self._write_rows(repository, exported, formatter.rows, sink, _piece(file.format))
                await asyncio.to_thread(_append, sink, formatter.end)
                break
            except Unfit as unfit:
                as_text |= unfit.positions
                sink.restart()
        digest = await asyncio.to_thread(sink.finish)
        names = tuple(exported.columns[position].name for position in sorted(as_text))
        table, said = exported.table, (digest.bytes, digest.sha256, names)
        return ExportedFile(file.name, file.format, table.schema_name, table.name, table.rows, *said)

    def _formatter(self, file: PlannedFile, exported: ExportedTable, as_text: frozenset[int]) -> Formatter:
        names = [column.name for column in exported.columns]
        types = [column.type for column in exported.columns]
        if file.format == "csv":
            return CsvRows(names)
        if file.format == "json":
            return JsonRows(names, types, lines=self.plan.scope.lines)
        from jobs.exporting.as_parquet import ParquetRows  # it takes as long to load as most commands run

        return ParquetRows(names, types, self.plan.scope.compress or "snappy", as_text)

    async def _write_sql(self, repository: Repository, file: PlannedFile, sink: Sink) -> ExportedFile:
        plan, manifest = self.plan, self.found.manifest
        assert plan.tools is not None
        async with schema_archive([repository], manifest) as archive:
            around = await script(
                manifest, plan.tables, plan.tools, archive, whole=not plan.scope.tables, owners=plan.scope.owners
            )
        await asyncio.to_thread(sink.write, around.before.encode())
        for exported in plan.tables:
            if exported.table.rows:
                await asyncio.to_thread(sink.write, copy_statement(exported, around.names))
                await self._write_rows(repository, exported, _as_it_is, sink, LINES)
                await asyncio.to_thread(sink.write, END_OF_ROWS)
        await asyncio.to_thread(sink.write, around.after.encode())
        digest = await asyncio.to_thread(sink.finish)
        rows = sum(exported.table.rows for exported in plan.tables)
        return ExportedFile(file.name, file.format, None, None, rows, digest.bytes, digest.sha256)

    async def _write_rows(
        self, repository: Repository, exported: ExportedTable, rows: Callable[[bytes], bytes], sink: Sink, size: int
    ) -> None:
        reshape = reshaping(exported, self.options.mask_key)
        for part in exported.table.parts:
            feed = partial(_feed, reshape or _as_it_is, rows, sink, size)
            try:
                await read_part(repository, part, feed)
            except Corrupt as error:
                raise Corrupt(
                    f"{exported.name} part {part.number}, in {repository.place}: {error.message}",
                    "nothing was exported; rowvault verify shows everything that is wrong, rowvault list other backups",
                ) from error
            self.done += part.bytes
            done, total = min(self.done, self.plan.bytes_raw), self.plan.bytes_raw
            self.on_progress(Progress("exported", done, total, self.found.manifest.id, str(exported.name), part.number))


def _piece(format_: Format) -> int:
    return ROW_GROUP if format_ == "parquet" else LINES


def _as_it_is(lines: bytes) -> bytes:
    return lines


def _append(sink: Sink, made: Callable[[], bytes]) -> None:
    sink.write(made())


def _feed(
    reshape: Callable[[bytes], bytes],
    rows: Callable[[bytes], bytes],
    sink: Sink,
    size: int,
    chunks: Iterator[bytes],
) -> None:
    """In a thread: write what becomes of a part's text."""
    for lines in whole_lines(chunks, size):
        sink.write(rows(reshape(lines)))
