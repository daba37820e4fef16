"""The part of `doctor` that looks at the tables: which are chosen, what the role may read of them, what is left out."""

from dataclasses import dataclass

from jobs.checks.findings import Finding, checked, size, some
from jobs.describe import describe_not_covered
from jobs.postgres.catalogue import (
    Chosen,
    Relation,
    Selection,
    choose,
    count_large_objects,
    read_extensions,
    read_foreign_keys,
    read_relations,
    read_schemas,
)
from jobs.postgres.checkup import (
    Filtered,
    filtered_tables,
    not_selectable,
    read_total_bytes,
    schemas_not_usable,
)
from jobs.postgres.connection import Connection
from jobs.postgres.errors import PostgresError, translated
from jobs.postgres.identifiers import TableName, qualified, quote
from jobs.postgres.inventory import schemas_to_dump
from storage.manifest import ForeignKeyOutside, NotCovered


@dataclass(frozen=True, slots=True)
class TablesExam:
    """What was found, what is chosen, and how many bytes that takes on the server (None: not known)."""

    findings: list[Finding]
    chosen: Chosen | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a backup would touch. `schemas` are dumped whole, with all that they depend on."""

    relations: tuple[Relation, ...]
    chosen: Chosen
    schemas: frozenset[str]
    role: str

    def dumped(self, kinds: str) -> list[Relation]:
        """The relations of these kinds (pg_class.relkind) that pg_dump or the backup itself reads or locks."""
        touched = {relation.oid for relation in self.chosen.relations}
        return [
            relation
            for relation in self.relations
            if relation.kind in kinds
            and (relation.oid in touched or (relation.table.schema in self.schemas and not relation.of_extension))
        ]


async def examine_tables(connection: Connection, selection: Selection, role: str) -> TablesExam:
    """Look at the tables of a selection."""
    try:
        scope = await _read_scope(connection, selection, role)
    except PostgresError as error:
        return TablesExam([Finding("tables", "problem", error.message, error.hint)])
    findings = [
        *_judge_selection(scope, selection),
        *await checked("schemas", _schemas(connection, scope)),
        *await checked("privileges", _privileges(connection, scope)),
        *await checked("sequences", _sequences(connection, scope)),
        *await checked("row security", _row_security(connection, scope)),
        *await checked("coverage", _coverage(connection, scope, selection)),
    ]
    try:
        total = await read_total_bytes(connection, scope.chosen)
    except PostgresError as error:
        return TablesExam([*findings, Finding("size", "warning", error.message, error.hint)], scope.chosen)
    findings.append(Finding("size", "ok", f"the chosen tables take {size(total)} on the server"))
    return TablesExam(findings, scope.chosen, total)


async def _read_scope(connection: Connection, selection: Selection, role: str) -> _Scope:
    with translated("reading the catalogue"):
        relations = await read_relations(connection)
        chosen = choose(relations, selection)
        schemas = await schemas_to_dump(connection, chosen, await read_extensions(connection))
    return _Scope(relations, chosen, frozenset(schemas), role)


def _judge_selection(scope: _Scope, selection: Selection) -> list[Finding]:
    count = len(scope.chosen.relations)
    if count == 0:
        none = Finding("tables", "problem", "no table is chosen", "look at ROWVAULT_TABLES and ROWVAULT_EXCLUDE_TABLES")
        return [none]
    tables = [relation.table for relation in scope.relations if relation.kind in "rp"]
    idle = [pattern.text for pattern in selection.exclude if not any(map(pattern.matches, tables))]
    findings = [Finding("tables", "ok", f"{count} tables are chosen")]
    if idle:
        message = f"in ROWVAULT_EXCLUDE_TABLES, {some(idle)} matches no table"
        findings.append(
            Finding("tables", "warning", message, "correct ROWVAULT_EXCLUDE_TABLES: names are case-sensitive")
        )
    return findings


async def _schemas(connection: Connection, scope: _Scope) -> list[Finding]:
    wanted = {relation.table.schema for relation in scope.dumped("rpS")}
    return [
        Finding(
            "schemas",
            "problem",
            f"the role {scope.role} may not use the schema {schema}",
            f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(scope.role)};",
        )
        for schema in await schemas_not_usable(connection, wanted)
    ] or [Finding("schemas", "ok", f"the role may use the schemas to dump: {some(sorted(scope.schemas))}")]


async def _privileges(connection: Connection, scope: _Scope) -> list[Finding]:
    tables = scope.dumped("rp")
    chosen = {relation.oid for relation in scope.chosen.relations}
    return [
        _no_select(relation, scope.role, chosen=relation.oid in chosen)
        for relation in await not_selectable(connection, tables)
    ] or [Finding("privileges", "ok", f"the role may SELECT from all {len(tables)} tables to copy or dump")]


def _no_select(relation: Relation, role: str, *, chosen: bool) -> Finding:
    # Whole schemas are dumped, and pg_dump locks every table in them, which takes SELECT.
    why = "" if chosen else ", whose definition is dumped with its schema"
    return Finding(
        "privileges",
        "problem",
        f"the role {role} may not SELECT from {relation.table}{why}",
        f"GRANT SELECT ON {qualified(relation.table)} TO {quote(role)};",
        table=str(relation.table),
    )


async def _sequences(connection: Connection, scope: _Scope) -> list[Finding]:
    sequences = scope.dumped("S")
    return [
        Finding(
            "sequences",
            "problem",
            f"the role {scope.role} may not SELECT from the sequence {relation.table}",
            f"GRANT SELECT ON SEQUENCE {qualified(relation.table)} TO {quote(scope.role)};",
            table=str(relation.table),
        )
        for relation in await not_selectable(connection, sequences)
    ] or [Finding("sequences", "ok", f"the role may read all {len(sequences)} sequences")]


async def _row_security(connection: Connection, scope: _Scope) -> list[Finding]:
    return [_filtered(found, scope.role) for found in await filtered_tables(connection, scope.chosen)] or [
        Finding("row security", "ok", "row security hides no row from the role")
    ]


def _filtered(found: Filtered, role: str) -> Finding:
    table = found.relation.table
    if found.forced:
        instead = f"or, as the owner {found.owner}: ALTER TABLE {qualified(table)} NO FORCE ROW LEVEL SECURITY;"
    else:
        instead = f"or connect as its owner {found.owner}, or as another role that has BYPASSRLS"
    return Finding(
        "row security",
        "problem",
        f"row security of {table} would hide rows from the role {role}, so a backup is refused",
        f"ALTER ROLE {quote(role)} BYPASSRLS; (as a superuser) {instead}",
        table=str(table),
    )


async def _coverage(connection: Connection, scope: _Scope, selection: Selection) -> list[Finding]:
    with translated("looking at what is not chosen"):
        keys = await read_foreign_keys(connection)
        large_objects = await count_large_objects(connection)
        others = [schema for schema in await read_schemas(connection) if schema not in scope.schemas]
    missing = describe_not_covered(scope.relations, scope.chosen, keys, large_objects, others)
    outside = [relation.table for relation in scope.relations if str(relation.table) in set(missing.tables)]
    with_tables = {table.schema for table in outside}
    findings = [
        *_judge_schemas([schema for schema in missing.schemas if schema in with_tables], selection),
        *_judge_bare_schemas([schema for schema in missing.schemas if schema not in with_tables]),
        *_judge_tables([table for table in outside if table.schema not in missing.schemas]),
        *_judge_others(missing),
    ]
    return findings or [Finding("coverage", "ok", "nothing is left out")]


def _judge_schemas(schemas: list[str], selection: Selection) -> list[Finding]:
    if not schemas:
        return []
    patterns = ",".join(f"{quote(schema)}.*" for schema in schemas)
    hint = f"add {patterns} to ROWVAULT_TABLES" if selection.tables else f"set ROWVAULT_TABLES=public.*,{patterns}"
    return [Finding("coverage", "warning", f"schemas that are not covered: {some(schemas)}", hint)]


def _judge_bare_schemas(schemas: list[str]) -> list[Finding]:
    if not schemas:
        return []
    message = f"schemas without tables of which not even definitions are kept: {some(schemas)}"
    return [Finding("coverage", "warning", message, "keep them apart: pg_dump --schema-only --schema=NAME")]


def _judge_tables(tables: list[TableName]) -> list[Finding]:
    if not tables:
        return []
    message = f"tables that are neither chosen nor excluded: {some(tables)}"
    hint = "add them to ROWVAULT_TABLES, or to ROWVAULT_EXCLUDE_TABLES"
    return [Finding("coverage", "warning", message, hint)]


def _judge_others(missing: NotCovered) -> list[Finding]:
    found = []
    if missing.large_objects:
        message = f"{missing.large_objects} large objects outside tables are not covered"
        hint = "back them up apart, by pg_dump -b, or move them into bytea columns"
        found.append(Finding("coverage", "warning", message, hint))
    return found + [_outside(key) for key in missing.foreign_keys]


def _outside(key: ForeignKeyOutside) -> Finding:
    table = str(TableName(key.schema_name, key.table))
    return Finding(
        "coverage",
        "warning",
        f"foreign key {key.name} of {table} points outside the chosen tables: {key.references}",
        f"add {key.references} to ROWVAULT_TABLES, else a restore cannot have the key",
        table=table,
    )
