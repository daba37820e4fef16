"""Makes of a backup one without the rows of an erasure: exactly the objects concerned are written anew.

The same function erases, and filters what is read of a backup that an erasure did not reach.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jobs.concurrency import task_group
from jobs.copying.instructions import instructions, load_script
from jobs.copying.part_reading import read_part
from jobs.copying.rewriting import Change, Rewritten, rewrite
from jobs.copying.schema_copy import store_file
from jobs.copying.table_copy import CopyOptions
from jobs.erasing.holdings import Reading, Shapes
from jobs.erasing.marks import Judge, Marked
from jobs.erasing.search import STREAMS, Searched
from jobs.erasing.text import Count, TextFilter
from jobs.erasing.window import WindowCount, WindowFilter
from jobs.postgres.pgoutput import lsn_number
from storage.age import Recipients
from storage.backends.protocol import Backend
from storage.increments import AnyBackup, Beside, Difference, Increment, Log, TableChanges, TableDifference
from storage.manifest import Dump, Manifest, Part, Table
from storage.names import backup_prefix, revised_object, revision_prefix
from storage.repository import Repository

NameOf = Callable[[str, int], str]


@dataclass(frozen=True, slots=True)
class Target:
    """Where what is written anew goes: under which name a piece of what had a name before."""

    backend: Backend
    name: NameOf
    options: CopyOptions


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Rewrites backups of one place. `searched` says which contents hold something; what it lacks is looked through."""

    repository: Repository
    target: Target
    marked: Sequence[Marked]
    shapes: Shapes
    searched: Searched
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STREAMS))

    async def without(self, manifest: AnyBackup, before: dict[int, int]) -> AnyBackup:
        """A backup without the rows; the very same if it has none.

        `before` are rows of the tables that were compared, by oid, as of `beside.previous`.
        """
        if isinstance(manifest, Manifest):
            return await self.full(manifest)
        if isinstance(manifest, Increment):
            return await self.increment(manifest, before)
        return await self.difference(manifest, before)

    async def full(self, manifest: Manifest) -> Manifest:
        """A full backup without the rows; the very same if it has none."""
        async with task_group() as group:
            made = [group.create_task(self._table(manifest, table)) for table in manifest.tables]
        tables = tuple(task.result() for task in made)
        if tables == manifest.tables:
            return manifest
        return manifest.model_copy(update={"tables": tables})

    async def increment(self, manifest: Increment, before: dict[int, int]) -> Increment:
        """The same of a window."""
        beside = await self._beside(manifest, manifest.beside, before)
        reading = Reading(self.repository, "window", manifest.log, None, manifest.kind)
        if beside is manifest.beside and not await self._holds(reading):
            return manifest
        update: dict[str, object] = {"beside": beside}
        if await self._holds(reading):
            count = WindowCount()
            window = WindowFilter(self.marked, count, since=lsn_number(manifest.start))
            written = await self._written(manifest.log, window.kept, empty=True)
            log = {
                "messages": manifest.log.messages - count.messages,
                "bytes": written.plain.bytes,
                "sha256": written.plain.sha256,
                "objects": written.objects,
            }
            update |= {"log": manifest.log.model_copy(update=log), "changes": _fewer(manifest.changes, count)}
        return manifest.model_copy(update=update)

    async def difference(self, manifest: Difference, before: dict[int, int]) -> Difference:
        """The same of a backup that compared tables."""
        beside = await self._beside(manifest, manifest.beside, before)
        return manifest if beside is manifest.beside else manifest.model_copy(update={"beside": beside})

    async def _table(self, manifest: Manifest, table: Table) -> Table:
        marked = self._marked(table)
        if marked is None:
            return table
        async with task_group() as group:
            made = [group.create_task(self._rows(manifest.kind, table, part, marked, set())) for part in table.parts]
        parts = tuple(task.result() for task in made)
        keys = await self._keys(manifest.kind, table, table.keys, marked, set()) if table.keys else None
        if parts == table.parts and keys == table.keys:
            return table
        return table.model_copy(update={"parts": parts, "keys": keys})

    async def _beside(self, manifest: AnyBackup, beside: Beside | None, before: dict[int, int]) -> Beside | None:
        if beside is None:
            return None
        tables = tuple([await self._difference(manifest, one, before) for one in beside.tables])
        return beside if tables == beside.tables else beside.model_copy(update={"tables": tables})

    async def _difference(self, manifest: AnyBackup, one: TableDifference, before: dict[int, int]) -> TableDifference:
        stored = (one.removed, one.added, one.keys, *one.parts)
        if not self.shapes.knows(manifest, one.oid) and not any(part.objects for part in stored if part is not None):
            return one
        table, gone = self.shapes.table(manifest, one.oid), set[bytes]()
        marked = self._marked(table)
        if marked is None:
            return one
        removed = await self._listed(manifest.kind, table, one.removed, marked, gone, "keys")
        added = await self._listed(manifest.kind, table, one.added, marked, gone, "rows")
        keys = await self._listed(manifest.kind, table, one.keys, marked, set(), "keys")
        parts = tuple([await self._rows(manifest.kind, table, part, marked, set()) for part in one.parts])
        rows, changes = one.rows, one.changes
        if parts:
            rows = changes = sum(part.rows for part in parts)
        elif one.oid in before:
            rows = before[one.oid] - _rows(removed) + _rows(added)
            changes -= len(gone)
        return one.model_copy(
            update={
                "removed": removed if _rows(removed) else None,
                "added": added if _rows(added) else None,
                "keys": keys,
                "parts": parts,
                "rows": rows,
                "changes": changes,
            }
        )

    async def _listed(
        self, kind: str, table: Table, part: Part | None, marked: Marked, gone: set[bytes], what: str
    ) -> Part | None:
        if part is None or not part.objects:
            return part
        if what == "keys":
            return await self._keys(kind, table, part, marked, gone)
        return await self._rows(kind, table, part, marked, gone, empty=False)

    async def _rows(
        self, kind: str, table: Table, part: Part, marked: Marked, gone: set[bytes], *, empty: bool = True
    ) -> Part:
        return await self._text(Reading(self.repository, "rows", part, table, kind), marked, gone, empty=empty)

    async def _keys(self, kind: str, table: Table, part: Part, marked: Marked, gone: set[bytes]) -> Part:
        if not part.objects:
            return part
        return await self._text(Reading(self.repository, "keys", part, table, kind), marked, gone, empty=False)

    async def _text(self, reading: Reading, marked: Marked, gone: set[bytes], *, empty: bool) -> Part:
        async with self.turns:
            return await self._text_in_turn(reading, marked, gone, empty=empty)

    async def _text_in_turn(self, reading: Reading, marked: Marked, gone: set[bytes], *, empty: bool) -> Part:
        part = reading.part
        assert isinstance(part, Part)
        assert reading.table is not None
        if not await self._holds(reading):
            return part
        count = Count()
        text = TextFilter(Judge(marked, reading.columns), reading.columns, count, reading.table.primary_key)
        written = await self._written(part, text.kept, empty=empty)
        gone |= count.keys if marked.how == "drop" else set()
        return part.model_copy(
            update={
                "rows": written.lines,
                "bytes": written.plain.bytes,
                "sha256": written.plain.sha256,
                "objects": written.objects,
            }
        )

    async def _written(self, part: Part | Log, change: Change, *, empty: bool) -> Rewritten:
        first = part.objects[0].name
        return await rewrite(
            self.repository,
            self.target.backend,
            part,
            change,
            lambda piece: self.target.name(first, piece),
            self.target.options,
            empty=empty,
        )

    async def _holds(self, reading: Reading) -> bool:
        """Whether something of it is not to stay; looked at once."""
        known = self.searched.windows if reading.what == "window" else self.searched.rows
        if reading.key not in known:
            await look_through(reading, self.marked, self.searched)
        return self.searched.changed(reading) > 0

    def _marked(self, table: Table) -> Marked | None:
        return next((one for one in self.marked if one.is_of(table)), None)


async def look_through(reading: Reading, marked: Sequence[Marked], searched: Searched) -> None:
    """Count what of a content is not to stay as it is."""
    if reading.what == "window":
        window = WindowFilter(marked, WindowCount())
        await read_part(reading.repository, reading.part, lambda chunks: window.look(chunks, lambda *_: None))
        searched.windows[reading.key] = window.count
        return
    assert reading.table is not None
    one = next((one for one in marked if one.is_of(reading.table)), None)
    count = searched.rows[reading.key] = Count()
    if one is not None:
        text = TextFilter(Judge(one, reading.columns), reading.columns, count)
        await read_part(reading.repository, reading.part, lambda chunks: sum(1 for _ in text.look(chunks)))


def _rows(part: Part | None) -> int:
    return 0 if part is None else part.rows


def _fewer(changes: tuple[TableChanges, ...], count: WindowCount) -> tuple[TableChanges, ...]:
    return tuple(one.model_copy(update={"changes": one.changes - count.dropped.get(one.oid, 0)}) for one in changes)


async def revised(
    rewriter: Rewriter, manifest: AnyBackup, erasures: Sequence[str], before: dict[int, int]
) -> AnyBackup | None:
    """The next revision of a backup, its objects written; None if nothing of it is to change."""
    made = await rewriter.without(manifest, before)
    if made is manifest:
        return None
    revision = manifest.revision + 1
    made = made.model_copy(update={"revision": revision, "erasures": (*manifest.erasures, *erasures)})
    if isinstance(made, Manifest):
        # Exports are in any format: they go as they are, and whoever wants them makes them anew of what stays.
        return made.model_copy(update={"dump": await _by_hand(made, rewriter.target), "exports": ()})
    return made


async def _by_hand(manifest: Manifest, target: Target) -> Dump:
    """The script that loads the rows, and the text beside it, of a backup whose objects have other names."""
    prefix, revised = backup_prefix(manifest.id), revision_prefix(manifest.id, manifest.revision)
    folder = revised.removeprefix(prefix)
    recipients = target.options.recipients
    script = load_script(manifest.tables, manifest.sequences, prefix, recipients, folder)
    text = instructions(manifest.id, manifest.dump.tool.removeprefix("pg_dump "), recipients, folder)
    return manifest.dump.model_copy(
        update={
            "load_script": await store_file(target.backend, f"{revised}load.sh", script.encode(), recipients),
            "instructions": await store_file(target.backend, f"{revised}RESTORE.txt", text.encode()),
        }
    )


def in_place(repository: Repository, manifest: AnyBackup, options: CopyOptions) -> Target:
    """Write a backup's next revision beside it, for whom the backup is encrypted."""
    revision = manifest.revision + 1
    keys = manifest.encryption.recipients if manifest.encryption else ()
    recipients = Recipients(tuple(keys)) if keys else None
    return Target(
        repository.backend,
        lambda name, piece: revised_object(name, manifest.id, revision, piece),
        replace(options, recipients=recipients),
    )
