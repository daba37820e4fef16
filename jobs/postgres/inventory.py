"""Everything a backup must know of the database at its snapshot, read in one go before the copying begins."""

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
    read_sequences,
    read_shapes,
    roles_named_by,
    schemas_needed_by,
)
from jobs.postgres.copying import PartPlan, largest_first, plan_parts
from jobs.postgres.errors import translated
from jobs.postgres.snapshot import SnapshotSession


@dataclass(frozen=True, slots=True)
class Inventory:
    """The database as the snapshot sees it. `schemas` are those to dump, with all that they depend on."""

    relations: tuple[Relation, ...]
    chosen: Chosen
    shapes: dict[int, TableShape]
    schemas: tuple[str, ...]
    extensions: tuple[Extension, ...]
    roles: tuple[str, ...]
    sequences: tuple[SequenceState, ...]
    foreign_keys: tuple[ForeignKey, ...]
    large_objects: int

    def parts(self, pages_per_part: int) -> list[PartPlan]:
        """What there is to copy, the largest first."""
        plans = [plan_parts(one, self.shapes[one.oid], pages_per_part) for one in self.chosen.relations]
        return largest_first([part for parts in plans for part in parts])


async def read_inventory(session: SnapshotSession) -> Inventory:
    """Read the inventory in the coordinator's session."""
    connection = session.connection
    with translated("reading the catalogue"):
        chosen_schemas = {relation.table.schema for relation in session.chosen.relations}
        schemas = sorted(await schemas_needed_by(connection, chosen_schemas))
        sequences = [
            relation.table
            for relation in session.relations
            if relation.kind == "S" and relation.table.schema in schemas and not relation.of_extension
        ]
        return Inventory(
            relations=session.relations,
            chosen=session.chosen,
            shapes=await read_shapes(connection, [relation.oid for relation in session.chosen.relations]),
            schemas=tuple(schemas),
            extensions=await read_extensions(connection),
            roles=await roles_named_by(connection, schemas),
            sequences=await read_sequences(connection, sequences),
            foreign_keys=await read_foreign_keys(connection),
            large_objects=await count_large_objects(connection),
        )
