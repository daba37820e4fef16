"""Whom an erasure is about: the tables that have the column, and rows of theirs, more as they are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs.erasing.holdings import root_of
from jobs.erasing.marks import Columns, Document, Fields, How, Judge, Marked, Substitute, Values
from jobs.errors import NotThere
from jobs.postgres.copy_text import escaped
from jobs.postgres.identifiers import BadName, TableName, parse_table, readable
from jobs.scope import tables_by_name
from storage.manifest import Manifest, Table

Children = Literal["cascade", "null", "anonymise"]
"""What becomes of rows that point to erased ones: they go, lose the reference, or keep a row of nothing but keys."""
JSON = ("json", "jsonb")


@dataclass(frozen=True, slots=True)
class Predicate:
    """What a person says of the rows: a column's value, or what its JSON document holds at a path; of which tables."""

    column: str
    value: str
    tables: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


@dataclass(slots=True)
class Found:
    """The rows of one table, or of the partitions of one, as far as they are known.

    `seeds` are the columns by which the first were found, `keys` those that tell rows apart; of every row that is found
    these are known from then on. What it held in those that are `noted` is `pointed_to` by others, and by itself tells
    nobody: a row of somebody else may hold it later.
    """

    table: TableName
    tables: tuple[Table, ...]  # as each full backup has it, the newest last
    names: frozenset[TableName]
    seeds: list[Columns] = field(default_factory=list)
    links: list[Columns] = field(default_factory=list)
    noted: set[Columns] = field(default_factory=set)
    document: Document | None = None
    values: Values = field(default_factory=Values)
    pointed_to: Values = field(default_factory=Values)
    how: How = "drop"
    substitutes: tuple[Substitute, ...] = ()
    salt: bytes = b""

    @property
    def oids(self) -> frozenset[int]:
        """Those that it had."""
        return frozenset(table.oid for table in self.tables)

    @property
    def named(self) -> frozenset[TableName]:
        """All names that it, and its partitions, ever had."""
        return self.names | {self.table, *(TableName(table.schema_name, table.name) for table in self.tables)}

    @property
    def types(self) -> Mapping[str, str]:
        """The types of its columns, as they were last."""
        return {column.name: column.type for table in self.tables for column in table.columns}

    def types_of(self, name: str) -> tuple[str, ...]:
        """The types that a column had, each once, the newest last."""
        found = [column.type for table in self.tables for column in table.columns if column.name == name]
        return tuple(dict.fromkeys(reversed(found)))[::-1]

    @property
    def keys(self) -> tuple[Columns, ...]:
        """What told its rows apart: a primary key, or what the change log knows them by."""
        found: dict[Columns, None] = {}
        for table in self.tables:
            generated = {column.name for column in table.columns if column.generated}
            for columns in (table.primary_key, table.identity):
                if columns and not generated & set(columns):
                    found[columns] = None
        return tuple(found)

    @property
    def is_sought(self) -> bool:
        """Whether rows of it go, and not only what they hold in links."""
        return bool(self.seeds) or self.document is not None

    def marked(self) -> Marked:
        """What is known now, for whoever goes through rows."""
        by = dict.fromkeys((*self.seeds, *self.keys)) if self.is_sought else {}
        return Marked(
            table=self.table,
            oids=self.oids,
            names=self.names,
            by=tuple(by),
            known=self.values,
            document=self.document,
            how=self.how,
            links=tuple(self.links),
            substitutes=self.substitutes,
            salt=self.salt,
        )

    def take(self, judge: Judge, fields: Fields) -> None:
        """A row is concerned: know it by all that tells it apart."""
        for known, sets in ((self.values, self.keys), (self.pointed_to, self.noted)):
            for columns in filter(judge.has, sets):
                value = judge.value(fields, columns)
                if value is not None:
                    known.add(columns, value)


def subjects(fulls: Sequence[Manifest], predicate: Predicate) -> list[Found]:
    """The tables that a predicate is about, no row found yet.

    Raises `NotThere` for a table that no backup has; `BadName` for a column that none has, or that several tables have
    of which none was named, and for a path into what is no JSON.
    """
    if not fulls:
        raise NotThere("there is no full backup yet", "there is nothing to erase")
    named = _distinct(fulls, [_named(fulls, text) for text in predicate.tables]) or _having(fulls, predicate.column)
    for one in named:
        _check_column(one, predicate)
        if predicate.path:
            one.document = Document(predicate.column, predicate.path)
        else:
            one.seeds.append((predicate.column,))
    return named


def sought(found: Found, predicate: Predicate, value: str) -> None:
    """Begin with the value as the database writes it."""
    if found.document is not None:
        found.values.add(found.document.columns, value.encode())
    else:
        found.values.add((predicate.column,), escaped(value))


def table_found(fulls: Sequence[Manifest], name: TableName) -> Found:
    """All that backups know under a name: a table, however often it was made anew or renamed, or its partitions."""
    there = [table for full in fulls for table in tables_by_name(full).get(name, ())]
    oids = {table.oid for table in there}
    same = [table for full in fulls for table in full.tables if table.oid in oids]
    names = frozenset(TableName(table.schema_name, table.name) for table in there)
    return Found(name, tuple(same), names)


def _named(fulls: Sequence[Manifest], text: str) -> Found:
    known = {name for full in fulls for name in tables_by_name(full)}
    try:
        return table_found(fulls, parse_table(text, tuple(known)))
    except LookupError as error:
        raise NotThere(f"no backup has a table {text}", "rowvault show BACKUP lists the tables of one") from error


def _having(fulls: Sequence[Manifest], column: str) -> list[Found]:
    roots = {root_of(full, table) for full in fulls for table in full.tables if _has(table, column)}
    found = _distinct(fulls, [table_found(fulls, one) for one in roots])
    if not found:
        raise BadName(
            f"no table of any backup has a column {readable(column)}", "rowvault show BACKUP --json lists them"
        )
    if len(found) > 1:
        names = ", ".join(map(str, sorted(one.table for one in found)))
        raise BadName(
            f"several tables have a column {readable(column)}: {names}", "say which are meant: --table, once for each"
        )
    return found


def _distinct(fulls: Sequence[Manifest], found: Sequence[Found]) -> list[Found]:
    """Of several names of the same tables the one of now; of a table and some of its partitions the table."""
    now = tables_by_name(fulls[-1])
    kept = list[Found]()
    for one in sorted(found, key=lambda one: (len(one.oids), one.table in now), reverse=True):
        if not any(one.oids <= other.oids for other in kept):
            kept.append(one)
    return kept


def _has(table: Table, column: str) -> bool:
    return any(one.name == column and not one.generated for one in table.columns)


def _check_column(found: Found, predicate: Predicate) -> None:
    if not any(_has(table, predicate.column) for table in found.tables):
        there = sorted({one.name for table in found.tables for one in table.columns if not one.generated})
        raise BadName(
            f"{found.table} has no column {readable(predicate.column)} in any backup, or a generated one",
            f"it has: {', '.join(map(readable, there))}",
        )
    kind = found.types[predicate.column]
    if predicate.path and kind not in JSON:
        raise BadName(f"--json-path: column {readable(predicate.column)} of {found.table} is {kind}", "it takes JSON")
