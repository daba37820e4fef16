"""Makes the objects of an archive: what did not change is copied inside the store, what was made is written anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from jobs.archive_exports import store_exports
from jobs.as_of import AsOf
from jobs.concurrency import task_group
from jobs.copying.instructions import instructions, load_script
from jobs.copying.rewriting import rewrite
from jobs.copying.schema_copy import store_file
from jobs.copying.table_copy import CopyOptions
from jobs.exporting.plan import ExportOptions, Format
from jobs.places.mending import Lanes
from jobs.progress import OnProgress, Progress
from storage.age import Recipients, stored_name
from storage.errors import Corrupt, NotFound, StorageError
from storage.manifest import Dump, Manifest, Part, StoredFile, Table
from storage.names import backup_prefix, data_object
from storage.objects import transfer
from storage.repository import Repository


@dataclass(frozen=True, slots=True)
class Copied:
    """An object of an archive, and the name of the one that it is a copy of."""

    stored: StoredFile
    of: str


@dataclass(frozen=True, slots=True)
class Made:
    """An archive whose objects are there but for its manifest; `copied` are those that are copies of a backup's.

    `left_out` says which exports it lacks, and why.
    """

    manifest: Manifest
    copied: tuple[Copied, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exporting:
    """Which portable exports an archive has, and how they are made; temporary files go to `scratch`."""

    formats: tuple[Format, ...] = ()
    options: ExportOptions = field(default_factory=ExportOptions)
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class Making:
    """What is archived: the state as it was found, under which id, and how what is written anew is compressed.

    `archived` is the backup that the state is of; what else the manifest is to say is in `said`, and in `warnings`.
    """

    id: str
    found: AsOf
    archived: str
    options: CopyOptions
    exporting: Exporting
    said: dict[str, object]
    warnings: tuple[str, ...]
    on_progress: OnProgress

    @property
    def manifest(self) -> Manifest:
        """The state's."""
        return self.found.manifest

    @property
    def recipients(self) -> Recipients | None:
        """For whom it is encrypted: as the full backup that it comes of, or not at all, as that."""
        sealed = self.manifest.encryption
        return Recipients(tuple(sealed.recipients)) if sealed else None

    def renamed(self, stored: StoredFile, name: str) -> Copied:
        """The same bytes as an object of the archive."""
        return Copied(stored.model_copy(update={"name": stored_name(name, self.recipients)}), stored.name)


async def make_archive(making: Making, target: Repository) -> Made:
    """Store all objects in one place."""
    files, copied = _kept_files(making), list[Copied]()
    tables, anew = _tables(making, copied)
    copied += files.values()
    await bring(making, copied, target)
    for number, part in anew:
        tables[number] = await _with_part(making, target, tables[number], part)
    done = tuple(tables[number] for number in sorted(tables))
    dump = await _dump(making, target, files, done)
    how = making.exporting
    exports, left_out = await store_exports(
        *(
            backup_prefix(making.id),
            making.found,
            target.backend,
            how.formats,
            how.options,
            making.recipients,
            how.scratch,
        ),
        making.on_progress,
    )
    return Made(_manifest(making, done, dump, exports, left_out), tuple(copied), left_out)


def _kept_files(making: Making) -> dict[str, Copied]:
    """The definitions, by what they are in the manifest."""
    dump, prefix = making.manifest.dump, backup_prefix(making.id)
    return {
        "archive": making.renamed(dump.archive, f"{prefix}schema.dump"),
        "sql": making.renamed(dump.sql, f"{prefix}schema.sql"),
        "roles_sql": making.renamed(dump.roles_sql, f"{prefix}roles.sql"),
    }


def _tables(making: Making, copied: list[Copied]) -> tuple[dict[int, Table], list[tuple[int, Part]]]:
    """The tables with the parts that are copied, noting these; and the parts that are to be written anew."""
    tables, anew = dict[int, Table](), list[tuple[int, Part]]()
    base = making.manifest.dump.archive.name.split("/")[:2]
    for number, table in enumerate(making.manifest.tables):
        parts = []
        for part in table.parts:
            # What lies elsewhere is temporary, or another backup's, which may be encrypted for others.
            if all(stored.name.split("/")[:2] == base for stored in part.objects):
                renamed = [
                    making.renamed(stored, _name(making, table, part, piece))
                    for piece, stored in enumerate(part.objects)
                ]
                copied += renamed
                parts.append(part.model_copy(update={"objects": tuple(one.stored for one in renamed)}))
            else:
                anew.append((number, part))
        tables[number] = table.model_copy(update={"parts": tuple(parts), "keys": None})
    return tables, anew


def _name(making: Making, table: Table, part: Part, piece: int) -> str:
    return data_object(making.id, table.schema_name, table.name, part.number, piece)


async def bring(
    making: Making, copied: Sequence[Copied], target: Repository, made_in: Repository | None = None
) -> None:
    """Copy objects inside a place where it has what they are copies of; what it lacks comes from where it is read.

    With `made_in` the archive is there already: what is missing comes from it.
    """
    there = await _there(copied, target)
    total, done, lanes = sum(one.stored.bytes for one in copied), 0, Lanes()

    async def one(copy: Copied) -> None:
        nonlocal done
        async with lanes.lane(copy.stored):
            if there.get(copy.of) == copy.stored.bytes:
                await target.backend.copy(copy.of, copy.stored.name)
            else:
                await _fetch(making, copy, target, made_in)
        done += copy.stored.bytes
        making.on_progress(Progress(f"archiving in {target.place}", done, total, making.id))

    async with task_group() as group:
        for copy in copied:
            group.create_task(one(copy))


async def _there(copied: Sequence[Copied], target: Repository) -> dict[str, int]:
    """Of the objects that are copied, those that a place has, by name and size, but for known damage."""
    backups = {copy.of.split("/")[1] for copy in copied}
    found = {one.name: one.size for backup_id in backups async for one in target.objects(backup_id)}
    for backup_id in backups:
        for name in await target.failed_objects(backup_id) or ():
            found.pop(name, None)
    return found


async def _fetch(making: Making, copy: Copied, target: Repository, made_in: Repository | None) -> None:
    """Bring one object from another place. Raises `NotFound` if no place has it."""
    if made_in is not None:
        await transfer(made_in.backend, target.backend, copy.stored.name, copy.stored.sha256)
        return
    failures: list[StorageError] = []
    for source in making.found.repositories:
        if source.place != target.place:
            try:
                await transfer(source.backend, target.backend, copy.of, copy.stored.sha256, copy.stored.name)
            except (Corrupt, NotFound) as error:
                failures.append(error)
            else:
                return
    raise next(
        iter(failures), NotFound(f"{copy.of} is missing in {target.place}", "rowvault verify shows what else is")
    )


async def _with_part(making: Making, target: Repository, table: Table, part: Part) -> Table:
    """A table with one part more, written anew, out of the first place where it is whole."""
    options = replace(making.options, recipients=making.recipients)
    name, failures = partial(_name, making, table, part), list[StorageError]()
    for source in making.found.repositories:
        try:
            written = await rewrite(source, target.backend, part, _as_it_is, name, options, empty=True)
        except (Corrupt, NotFound) as error:
            failures.append(error)
            continue
        plain = {"rows": written.lines, "bytes": written.plain.bytes, "sha256": written.plain.sha256}
        stored = part.model_copy(update=plain | {"objects": written.objects})
        parts = sorted((*table.parts, stored), key=lambda one: one.number)
        return table.model_copy(update={"parts": tuple(parts)})
    raise failures[0]


def _as_it_is(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return chunks


async def _dump(making: Making, target: Repository, files: dict[str, Copied], tables: tuple[Table, ...]) -> Dump:
    """The definitions, and how to restore this archive by hand."""
    prefix, recipients, dump = backup_prefix(making.id), making.recipients, making.manifest.dump
    script = load_script(tables, making.manifest.sequences, prefix, recipients)
    text = instructions(making.id, dump.tool.removeprefix("pg_dump "), recipients)
    made = {
        "load_script": await store_file(target.backend, f"{prefix}load.sh", script.encode(), recipients),
        "instructions": await store_file(target.backend, f"{prefix}RESTORE.txt", text.encode()),
    }
    return dump.model_copy(update={what: one.stored for what, one in files.items()} | made)


def _manifest(
    making: Making,
    tables: tuple[Table, ...],
    dump: Dump,
    exports: tuple[StoredFile, ...],
    left_out: tuple[str, ...],
) -> Manifest:
    return making.manifest.model_copy(
        update={
            "id": making.id,
            "kind": "archive",
            "archived": making.archived,
            "revision": 0,
            "finished_at": datetime.now(UTC),
            "base": None,
            "program": f"rowvault {version('rowvault')}",
            "tables": tables,
            "dump": dump,
            "capture": None,
            "compared": "",
            "gap": None,
            "exports": exports,
            "warnings": (*making.manifest.warnings, *making.warnings, *left_out),
            **making.said,
        }
    )
