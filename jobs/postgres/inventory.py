"""Everything a backup must know of the database at its snapshot: first what dumping and copying begin with."""

from dataclasses import dataclass

from jobs.postgres.catalogue import (
    Chosen,
    Extension,
    ForeignKey,
    Relation,
    SequenceState,
    TableShape,
    count_large_objects,
    read_extensions,
    read_foreign_keys,
    read_schemas,
    read_sequences,
    read_shapes,
)
from jobs.postgres.connection import Connection
from jobs.postgres.dependencies import (
    objects_outside_schemas,
    roles_named_by,
    schemas_needed_by,
    servers_named_by,
    tablespaces_named_by,
)
from jobs.postgres.errors import translated
from jobs.postgres.snapshot import SnapshotSession
from jobs.postgres.table_logs import TableLog, read_table_logs


@dataclass(frozen=True, slots=True)
class Scope:
    """What is dumped: `schemas` whole, with all that they depend on, and the extensions."""

    schemas: tuple[str, ...]
    extensions: tuple[Extension, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The database as the snapshot sees it: all that a manifest tells beside rows and definitions.

    `other_schemas` are those that are not dumped. `outside_schemas` names objects that belong to no schema; `roles`,
    `servers` and `tablespaces` are those that the dump names.
    """

    relations: tuple[Relation, ...]
    chosen: Chosen
    scope: Scope
    shapes: dict[int, TableShape]
    logs: dict[int, TableLog]
    other_schemas: tuple[str, ...]
    roles: tuple[str, ...]
    servers: tuple[str, ...]
    tablespaces: tuple[str, ...]
    outside_schemas: tuple[str, ...]
    sequences: tuple[SequenceState, ...]
    foreign_keys: tuple[ForeignKey, ...]
    large_objects: int


async def read_scope(session: SnapshotSession) -> Scope:
    """What the dump of the definitions must know to begin."""
    async with session.alone() as connection:
        with translated("reading the catalogue"):
            extensions = await read_extensions(connection)
            return Scope(tuple(sorted(await schemas_to_dump(connection, session.chosen, extensions))), extensions)


async def read_chosen_shapes(session: SnapshotSession) -> dict[int, TableShape]:
    """What the copying of the chosen tables must know to begin, by their oids."""
    async with session.alone() as connection:
        with translated("reading the catalogue"):
            return await read_shapes(connection, [relation.oid for relation in session.chosen.relations])


async def read_inventory(session: SnapshotSession, scope: Scope, shapes: dict[int, TableShape]) -> Inventory:
    """Read the rest in the coordinator's session, which has nothing else to do while others copy."""
    schemas = [*scope.schemas]
    sequences = [
        relation.table
        for relation in session.relations
        if relation.kind == "S" and relation.table.schema in schemas and not relation.of_extension
    ]
    async with session.alone() as connection:
        with translated("reading the catalogue"):
            return Inventory(
                relations=session.relations,
                chosen=session.chosen,
                scope=scope,
                shapes=shapes,
                logs=await read_table_logs(connection, shapes),
                other_schemas=tuple(name for name in await read_schemas(connection) if name not in schemas),
                roles=await roles_named_by(connection, schemas),
                servers=await servers_named_by(connection, schemas),
                tablespaces=await tablespaces_named_by(connection, schemas),
                outside_schemas=await objects_outside_schemas(connection),
                sequences=await read_sequences(connection, sequences),
                foreign_keys=await read_foreign_keys(connection),
                large_objects=await count_large_objects(connection),
            )


async def schemas_to_dump(connection: Connection, chosen: Chosen, extensions: tuple[Extension, ...]) -> set[str]:
    """The schemas that are dumped whole: of the chosen tables, of extensions, and all that these depend on."""
    chosen_schemas = {relation.table.schema for relation in chosen.relations}
    return await schemas_needed_by(connection, chosen_schemas | _schemas_of(extensions))


def _schemas_of(extensions: tuple[Extension, ...]) -> set[str]:
    """Schemas that must be there before the extensions can be made; `public` and the system's always are."""
    return {one.schema for one in extensions if one.schema != "public" and not one.schema.startswith("pg_")}
