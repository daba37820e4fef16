"""Portable exports inside an archive: written beside it, then stored under it, encrypted as the rest of it."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir
from typing import get_args

from jobs.as_of import AsOf
from jobs.errors import JobError
from jobs.export import export
from jobs.exporting.files import Compression, told
from jobs.exporting.plan import CONTENTS, ExportOptions, ExportScope, Format, plan_export
from jobs.postgres.errors import ToolTrouble
from jobs.progress import OnProgress
from jobs.temporary import temporary_folder
from storage.age import NoIdentity, Recipients, stored_name
from storage.age_streams import Sealing
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
        with ExitStack() as stack:
            try:
                with told(scratch or Path(gettempdir())):
                    folder = stack.enter_context(temporary_folder(scratch)) / format_
                files = await _export(found, format_, folder, options, on_progress)
            except (JobError, ToolTrouble, NoIdentity) as error:
                warnings.append(f"it has no export as {format_}: {error.message}")
                continue
            for file in files:
                object_name = f"{prefix}{EXPORTS}{format_}/{file}"
                stored.append(await _store(backend, object_name, folder / file, recipients))
    return tuple(stored), tuple(warnings)


async def _export(
    found: AsOf, format_: Format, folder: Path, options: ExportOptions, on_progress: OnProgress
) -> list[str]:
    """Export all tables into a folder; the files' names below it."""
    compression: Compression | None = None if format_ in OWN_COMPRESSION else "zstd"
    plan = await plan_export(found.manifest, ExportScope((format_,), lines=True, compress=compression), options)
    result = await export(found, plan, folder, options, on_progress)
    return [*(one.file for one in result.files), CONTENTS]


def formats_of(exports: Sequence[StoredFile]) -> tuple[Format, ...]:
    """The formats that an archive has exports in."""
    names = [stored.name.split(f"/{EXPORTS}", 1)[1].split("/")[0] for stored in exports]
    return tuple(one for one in get_args(Format) if one in names)


async def _store(backend: Backend, name: str, path: Path, recipients: Recipients | None) -> StoredFile:
    """Store a file, encrypted on its way, for there may be no room for it twice; say what was stored."""
    name, tally, ended = stored_name(name, recipients), Tally(), False
    sealing = Sealing(recipients) if recipients is not None else None
    upload = await backend.begin(name)
    try:
        with path.open("rb") as file:
            while not ended:
                block = await asyncio.to_thread(file.read, BLOCK_BYTES)
                ended = not block
                if sealing is not None:
                    block = await asyncio.to_thread(sealing.finish if ended else sealing.feed, block)
                tally.add(block)
                await upload.append(block)
        await upload.commit()
    finally:
        if sealing is not None:
            sealing.close()
        await upload.abort()
    digest = tally.digest()
    return StoredFile(name=name, bytes=digest.bytes, sha256=digest.sha256)
