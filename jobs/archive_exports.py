"""Portable exports inside an archive: written beside it, then stored under it, encrypted as the rest of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jobs.as_of import AsOf
from jobs.errors import JobError
from jobs.export import export
from jobs.exporting.files import Compression
from jobs.exporting.plan import CONTENTS, ExportOptions, ExportScope, Format, plan_export
from jobs.postgres.errors import ToolTrouble
from jobs.progress import OnProgress
from jobs.temporary import temporary_folder
from storage.age import NoIdentity, Recipients, stored_name
from storage.backends.protocol import Backend
from storage.codecs import Tally
from storage.manifest import StoredFile

BLOCK_BYTES = 1 << 20
EXPORTS = "exports/"
OWN_COMPRESSION: tuple[Format, ...] = ("parquet",)


async def store_exports(
    prefix: str,
    found: AsOf,
    backend: Backend,
    formats: Sequence[Format],
    options: ExportOptions,
    recipients: Recipients | None,
    scratch: Path | None,
    on_progress: OnProgress,
) -> tuple[tuple[StoredFile, ...], tuple[str, ...]]:
    """Export all tables in each format below a prefix; the objects, and why one is left out, a sentence each.

    The temporary files of one format at a time lie in `scratch`. An archive does not fail for its exports.
    """
    stored, warnings = list[StoredFile](), list[str]()
    for format_ in formats:
        with temporary_folder(scratch) as work:
            folder = work / format_
            compression: Compression | None = None if format_ in OWN_COMPRESSION else "zstd"
            scope = ExportScope((format_,), lines=True, compress=compression)
            try:
                plan = await plan_export(found.manifest, scope, options)
                result = await export(found, plan, folder, options, on_progress)
            except (JobError, ToolTrouble, NoIdentity) as error:
                warnings.append(f"it has no export as {format_}: {error.message}")
                continue
            for file in (*(one.file for one in result.files), CONTENTS):
                object_name = f"{prefix}{EXPORTS}{format_}/{file}"
                stored.append(await _store(backend, object_name, folder / file, recipients))
    return tuple(stored), tuple(warnings)


def formats_of(exports: Sequence[StoredFile]) -> tuple[Format, ...]:
    """The formats that an archive has exports in."""
    names = [stored.name.split(f"/{EXPORTS}", 1)[1].split("/")[0] for stored in exports]
    return tuple(one for one in get_args(Format) if one in names)


async def _store(backend: Backend, name: str, path: Path, recipients: Recipients | None) -> StoredFile:
    """Store a file, and say what was stored."""
    if recipients is not None:
        path = await asyncio.to_thread(_sealed, path, recipients)
    name, tally = stored_name(name, recipients), Tally()
    upload = await backend.begin(name)
    try:
        with path.open("rb") as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                tally.add(block)
                await upload.append(block)
        await upload.commit()
    finally:
        await upload.abort()
    digest = tally.digest()
    return StoredFile(name=name, bytes=digest.bytes, sha256=digest.sha256)


def _sealed(path: Path, recipients: Recipients) -> Path:
    """The same file, encrypted, in its place."""
    sealed = path.with_name(f"{path.name}.age")
    with path.open("rb") as plain, sealed.open("wb") as file:
        recipients.encrypt(plain, file)
    path.unlink()
    return sealed
