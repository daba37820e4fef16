"""Foreign keys, and what columns may hold, as a backup's `schema.sql` declares them: pg_dump writes them regularly.

What is read here decides which rows an erasure looks at, and what may stand in those that stay; nothing is run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.postgres.identifiers import TableName

# Unquoted are names of a-z, 0-9 and _ alone: quote_identifier() in the server, fmtId() in pg_dump.
_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_]*)'
_TABLE = rf"(?P<{{}}>{_NAME}\.{_NAME})"
_LIST = rf"{_NAME}(?:, (?:PERIOD )?{_NAME})*"
_PERIOD = re.compile(rf", PERIOD {_NAME}")
_FOREIGN = re.compile(
    rf"^ALTER TABLE (?:ONLY )?{_TABLE.format('child')}\n"
    rf"    ADD CONSTRAINT (?P<name>{_NAME}) FOREIGN KEY \((?P<columns>{_LIST})\) "
    rf"REFERENCES {_TABLE.format('parent')}\((?P<references>{_LIST})\)",
    re.MULTILINE,
)
_UNIQUE = re.compile(
    rf"^ALTER TABLE (?:ONLY )?{_TABLE.format('table')}\n"
    rf"    ADD CONSTRAINT {_NAME} (?:PRIMARY KEY|UNIQUE(?: NULLS NOT DISTINCT)?) \((?P<columns>{_LIST})\)",
    re.MULTILINE,
)
_UNIQUE_INDEX = re.compile(
    rf"^CREATE UNIQUE INDEX {_NAME} ON (?:ONLY )?{_TABLE.format('table')} USING \w+ \((?P<columns>.*)\)", re.MULTILINE
)
_CREATE = re.compile(
    rf"^CREATE (?:UNLOGGED )?TABLE {_TABLE.format('table')} \(\n(?P<body>.*?)\n\)(?:[^;]*);", re.MULTILINE | re.DOTALL
)
_COLUMN = re.compile(rf"^    (?P<column>{_NAME}) (?P<rest>.*)$", re.MULTILINE)
_CHECK = re.compile(rf"^    CONSTRAINT {_NAME} CHECK (?P<check>.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns of a table that point to columns of another, which tell its rows apart. Of a key for a period these are
    the others: whom it is about.
    """

    name: str
    child: TableName
    columns: tuple[str, ...]
    parent: TableName
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a table's columns must be: those that are never NULL, in a unique constraint or index, in a check."""

    not_null: frozenset[str] = frozenset()
    unique: frozenset[str] = frozenset()
    checks: tuple[str, ...] = ()

    def and_also(self, other: "Declared") -> "Declared":
        """What both declare, of one table in two backups, or of two partitions."""
        checks = tuple(dict.fromkeys((*self.checks, *other.checks)))
        return Declared(self.not_null | other.not_null, self.unique | other.unique, checks)

    def checked(self, column: str) -> bool:
        """Whether a check may be about a column."""
        return any(re.search(rf"\b{re.escape(column)}\b", check) for check in self.checks)


def foreign_keys(sql: str) -> tuple[ForeignKey, ...]:
    """Every foreign key that the definitions declare."""
    return tuple(
        ForeignKey(
            _plain(found["name"]),
            _table(found["child"]),
            _columns(found["columns"]),
            _table(found["parent"]),
            _columns(found["references"]),
        )
        for found in _FOREIGN.finditer(sql)
    )


@dataclass(slots=True)
class _Gathered:
    not_null: set[str] = field(default_factory=set)
    unique: set[str] = field(default_factory=set)
    checks: list[str] = field(default_factory=list)


def declared(sql: str) -> dict[TableName, Declared]:
    """What each table declares of its columns."""
    tables: dict[TableName, _Gathered] = {}
    for found in _CREATE.finditer(sql):
        one = tables.setdefault(_table(found["table"]), _Gathered())
        one.not_null |= {_plain(column["column"]) for column in _columns_of(found["body"])}
        one.checks += [check["check"] for check in _CHECK.finditer(found["body"])]
    for found in (*_UNIQUE.finditer(sql), *_UNIQUE_INDEX.finditer(sql)):
        names = re.findall(_NAME, found["columns"])
        tables.setdefault(_table(found["table"]), _Gathered()).unique |= {_plain(name) for name in names}
    return {
        table: Declared(frozenset(one.not_null), frozenset(one.unique), tuple(one.checks))
        for table, one in tables.items()
    }


def _columns_of(body: str) -> Iterator[re.Match[str]]:
    return (found for found in _COLUMN.finditer(body) if " NOT NULL" in found["rest"])


def _table(text: str) -> TableName:
    schema, name = re.findall(_NAME, text)
    return TableName(_plain(schema), _plain(name))


def _columns(text: str) -> tuple[str, ...]:
    return tuple(map(_plain, re.findall(_NAME, _PERIOD.sub("", text))))


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
