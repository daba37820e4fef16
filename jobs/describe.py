"""Where the database's catalogue becomes the manifest's words. Pure functions."""

from collections.abc import Collection

from jobs.postgres.catalogue import Chosen, ForeignKey, Relation, SequenceState, ancestry
from jobs.postgres.identifiers import TableName
from jobs.postgres.inventory import Inventory
from jobs.postgres.lineage import Lineage
from jobs.postgres.snapshot import Snapshot
from storage import manifest as stored
from storage.age import Recipients


def describe_source(lineage: Lineage) -> stored.Source:
    """Which database, of which lineage."""
    return stored.Source(
        system_identifier=lineage.system_identifier,
        timeline=lineage.timeline,
        database=lineage.database,
        server_version=lineage.server_version,
        server_version_num=lineage.server_version_num,
        encoding=lineage.encoding,
        token=lineage.token,
    )


def describe_snapshot(snapshot: Snapshot) -> stored.Snapshot:
    """The one moment."""
    return stored.Snapshot(xmin=snapshot.xmin, xmax=snapshot.xmax, in_progress=snapshot.in_progress, lsn=snapshot.lsn)


def describe_tables(
    inventory: Inventory,
    parts: dict[TableName, list[stored.Part]],
    keys: dict[TableName, stored.Part],
    in_log: Collection[int],
) -> tuple[stored.Table, ...]:
    """The tables with the parts and lists of keys that were stored; `in_log`: oids of those in the change log."""
    by_oid = {relation.oid: relation for relation in inventory.relations}
    return tuple(
        _describe_table(relation, inventory, parts[relation.table], by_oid, logged=relation.oid in in_log).model_copy(
            update={"keys": keys.get(relation.table)}
        )
        for relation in inventory.chosen.relations
    )


def _describe_table(
    relation: Relation, inventory: Inventory, parts: list[stored.Part], by_oid: dict[int, Relation], *, logged: bool
) -> stored.Table:
    shape, log = inventory.shapes[relation.oid], inventory.logs[relation.oid]
    parent = by_oid[relation.partition_of].table if relation.partition_of else None
    above = ancestry(relation, by_oid)
    root = above[-1].table if any(one.hashes_oids for one in above) else None
    return stored.Table(
        schema_name=relation.table.schema,
        name=relation.table.name,
        oid=relation.oid,
        partition_of=str(parent) if parent else None,
        load_into=stored.Name(schema_name=root.schema, name=root.name) if root else None,
        persistence="unlogged" if relation.unlogged else "permanent",
        row_security=relation.row_security,
        primary_key=shape.primary_key,
        identity=log.identity if logged else (),
        fingerprint=log.fingerprint,
        columns=tuple(
            stored.Column(name=column.name, type=column.type, generated=column.generated, identity=column.identity)
            for column in shape.columns
        ),
        parts=tuple(sorted(parts, key=lambda part: part.number)),
    )


def describe_encryption(recipients: Recipients | None) -> stored.Encryption | None:
    """For whom everything is encrypted; None where it is not."""
    return stored.Encryption(recipients=recipients.keys) if recipients else None


def describe_sequences(states: tuple[SequenceState, ...]) -> tuple[stored.Sequence, ...]:
    """Where the sequences stood."""
    return tuple(
        stored.Sequence(
            schema_name=state.table.schema,
            name=state.table.name,
            last_value=str(state.last_value),
            is_called=state.is_called,
        )
        for state in states
    )


def describe_schema_only(inventory: Inventory) -> tuple[stored.SchemaOnly, ...]:
    """What stands in the schema dump without rows of its own in this backup."""
    with_rows = {relation.oid for relation in inventory.chosen.relations}
    names = {relation.oid: str(relation.table) for relation in inventory.relations}
    return tuple(
        stored.SchemaOnly(
            schema_name=relation.table.schema,
            name=relation.table.name,
            kind=_KINDS[relation.kind],
            partition_of=names[relation.partition_of] if relation.partition_of else None,
        )
        for relation in inventory.relations
        if relation.kind in _KINDS
        and relation.table.schema in inventory.scope.schemas
        and relation.oid not in with_rows
        and not relation.of_extension
    )


_KINDS: dict[str, stored.RelationKind] = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


def describe_not_covered(
    relations: tuple[Relation, ...],
    chosen: Chosen,
    keys: tuple[ForeignKey, ...],
    large_objects: int,
    other_schemas: Collection[str],
) -> stored.NotCovered:
    """What the database holds beside the chosen tables. Pure, so that `doctor` says the same beforehand.

    `other_schemas` are those of which not even the definitions are kept.
    """
    inside = {relation.oid for relation in chosen.relations}
    excluded = {relation.oid for relation in chosen.excluded}
    by_oid = {relation.oid: relation for relation in relations}
    with_rows = [relation for relation in relations if relation.has_rows]
    outside = [relation for relation in with_rows if relation.oid not in inside | excluded]
    covered_schemas = {relation.table.schema for relation in chosen.relations}
    return stored.NotCovered(
        schemas=tuple(sorted({relation.table.schema for relation in outside} - covered_schemas | set(other_schemas))),
        tables=tuple(str(relation.table) for relation in outside),
        excluded_tables=tuple(str(relation.table) for relation in chosen.excluded if relation.has_rows),
        large_objects=large_objects,
        foreign_keys=tuple(
            stored.ForeignKeyOutside(
                schema_name=key.table_name.schema,
                table=key.table_name.name,
                name=key.name,
                references=str(key.references_name),
            )
            for key in keys
            if not _covered(key.references, inside, by_oid)
            and (_covered(key.table, inside, by_oid) or _leads_out(key, other_schemas))
        ),
    )


def _leads_out(key: ForeignKey, other_schemas: Collection[str]) -> bool:
    """Whether a key is in a schema of which the definitions are kept, and what it points to is not."""
    return key.references_name.schema in other_schemas and key.table_name.schema not in other_schemas


def _covered(oid: int, inside: set[int], by_oid: dict[int, Relation]) -> bool:
    """Whether a table's rows are in the backup; a partitioned table's are if all its leaves' are."""
    relation = by_oid.get(oid)
    if relation is None or relation.has_rows:
        return oid in inside
    return all(_covered(child.oid, inside, by_oid) for child in by_oid.values() if child.partition_of == oid)


def describe_warnings(lineage: Lineage, inventory: Inventory, missing: stored.NotCovered) -> tuple[str, ...]:
    """What a person should know of this backup, a sentence each."""
    warnings = []
    if lineage.token is None:
        warnings.append("the role may not write Rowvault's own schema, so a clone of the source cannot be told from it")
    if missing.schemas:
        warnings.append(f"schemas that are not covered: {', '.join(missing.schemas)}")
    if inventory.outside_schemas:
        named = ", ".join(inventory.outside_schemas[:5]) + (", …" if len(inventory.outside_schemas) > 5 else "")
        warnings.append(f"what belongs to the database and to no schema is not covered: {named}")
    if missing.large_objects:
        warnings.append(f"{missing.large_objects} large objects outside tables are not covered")
    warnings += [
        f"foreign key {key.name} of {key.schema_name}.{key.table} points outside: {key.references}"
        for key in missing.foreign_keys
    ]
    views = [relation for relation in inventory.relations if relation.kind == "m"]
    if any(view.table.schema in inventory.scope.schemas for view in views):
        warnings.append("materialized views are kept as definitions: restoring fills them anew")
    return tuple(warnings)
