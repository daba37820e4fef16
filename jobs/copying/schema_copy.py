"""Stores the definitions beside the data: a pg_dump archive, the same as SQL, roles, settings, instructions."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from jobs.concurrency import task_group
from jobs.copying.instructions import instructions, load_script
from jobs.errors import JobError
from jobs.postgres.connection import Source
from jobs.postgres.ddl import dump_roles, dump_schema, schema_as_sql
from jobs.postgres.inventory import Inventory, Scope
from jobs.postgres.tools import Tools
from jobs.temporary import temporary_folder
from storage.age import Recipients, stored_name
from storage.backends.protocol import Backend
from storage.codecs import Tally
from storage.manifest import Dump, Extension, Sequence, StoredFile, Table
from storage.names import backup_prefix


@dataclass(frozen=True, slots=True)
class SchemaFiles:
    """The stored definitions."""

    archive: StoredFile
    sql: StoredFile
    roles_sql: StoredFile


async def copy_schema(
    tools: Tools,
    source: Source,
    snapshot_id: str,
    scope: Scope,
    settings_sql: str,
    backup_id: str,
    backend: Backend,
    lock_timeout: float,
    recipients: Recipients | None,
) -> SchemaFiles:
    """Dump the schema at the snapshot, and the roles beside it, and store them."""
    prefix = backup_prefix(backup_id)
    try:
        with temporary_folder() as folder:
            archive = folder / "schema.dump"
            async with task_group() as group:
                roles = group.create_task(dump_roles(tools, source))
                await _dump_archive(tools, source, snapshot_id, scope, lock_timeout, archive)
                sql = await schema_as_sql(tools, archive)
            dumped = await asyncio.to_thread(archive.read_bytes)
    except OSError as error:
        raise JobError(
            f"the schema could not be dumped into a temporary file: {error}",
            "let TMPDIR name a folder that can be written to and has some room",
        ) from error
    return SchemaFiles(
        archive=await store_file(backend, f"{prefix}schema.dump", dumped, recipients),
        sql=await store_file(backend, f"{prefix}schema.sql", sql, recipients),
        roles_sql=await store_file(backend, f"{prefix}roles.sql", roles.result() + settings_sql.encode(), recipients),
    )


async def _dump_archive(
    tools: Tools, source: Source, snapshot_id: str, scope: Scope, lock_timeout: float, archive: Path
) -> None:
    extensions = [extension.name for extension in scope.extensions]
    with archive.open("wb") as file:
        async for block in dump_schema(tools, source, snapshot_id, scope.schemas, extensions, lock_timeout):
            await asyncio.to_thread(file.write, block)


async def store_dump(
    backend: Backend,
    backup_id: str,
    tools: Tools,
    inventory: Inventory,
    files: SchemaFiles,
    tables: tuple[Table, ...],
    sequences: tuple[Sequence, ...],
    recipients: Recipients | None,
) -> Dump:
    """Store the restore script and its instructions; return all that the manifest says of the schema."""
    prefix = backup_prefix(backup_id)
    script = load_script(tables, sequences, prefix, recipients)
    text = instructions(backup_id, tools.version, recipients)
    return Dump(
        tool=f"pg_dump {tools.version}",
        schemas=inventory.scope.schemas,
        extensions=tuple(
            Extension(name=extension.name, version=extension.version, schema_name=extension.schema)
            for extension in inventory.scope.extensions
        ),
        roles=inventory.roles,
        servers=inventory.servers,
        tablespaces=inventory.tablespaces,
        archive=files.archive,
        sql=files.sql,
        roles_sql=files.roles_sql,
        load_script=await store_file(backend, f"{prefix}load.sh", script.encode(), recipients),
        instructions=await store_file(backend, f"{prefix}RESTORE.txt", text.encode()),
    )


async def store_file(backend: Backend, name: str, data: bytes, recipients: Recipients | None = None) -> StoredFile:
    """Store some bytes, encrypted for recipients if there are any, and say what was stored."""
    name = stored_name(name, recipients)
    if recipients is not None:
        data = await asyncio.to_thread(recipients.seal, data)
    tally = Tally()
    tally.add(data)
    digest = tally.digest()
    upload = await backend.begin(name, sha256=digest.sha256)
    try:
        await upload.append(data)
        await upload.commit()
    finally:
        await upload.abort()
    return StoredFile(name=name, bytes=digest.bytes, sha256=digest.sha256)
