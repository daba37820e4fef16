"""Names of tables: how they are quoted for SQL, how people write them, and how patterns choose them.

The only module that puts a name into SQL text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class TableName(NamedTuple):
    """A table's schema and name, exactly as the catalogue has them."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{readable(self.schema)}.{readable(self.name)}"


class BadName(ValueError):
    """A table, column or pattern is not written as the command line and the settings want it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def quote(name: str) -> str:
    """A name as an SQL identifier, always in double quotes.

    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
    """
    return '"' + name.replace('"', '""') + '"'


def qualified(table: TableName) -> str:
    """`"schema"."name"`."""
    return f"{quote(table.schema)}.{quote(table.name)}"


def column_list(columns: Iterable[str]) -> str:
    """`"a", "b"`; empty for no columns."""
    return ", ".join(quote(column) for column in columns)


_BARE = re.compile(r'[^\s.,"=*?\[\]]+')


def readable(name: str) -> str:
    """A name as people write it: bare if it can be, else in double quotes."""
    return name if _BARE.fullmatch(name) else quote(name)


# A word is a quoted part, or a run of characters without a meaning of their own, `*` and `?` in patterns among them.
_PART = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"|(?P<bare>[^\s.,"=]+)')


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    quoted: bool


def _words(text: str) -> list[_Word]:
    """Split `a."b.c"` at its unquoted dots."""
    words, position = [], 0
    while True:
        match = _PART.match(text, position)
        if match is None:
            raise BadName(f"{text!r} is not a table name", 'put odd characters in double quotes, as in public."a.b"')
        quoted = match["quoted"] is not None
        words.append(_Word(match["quoted"].replace('""', '"') if quoted else match["bare"], quoted))
        position = match.end()
        if position == len(text):
            return words
        if text[position] != "." or len(words) == 2:
            raise BadName(f"{text!r} is not a table name", "write SCHEMA.TABLE, odd characters in double quotes")
        position += 1


def parse_table(text: str, known: Sequence[TableName]) -> TableName:
    """The table that a person named; raises `BadName` or `LookupError`.

    Without a schema it is the one in `public`, else the only one of that name.
    """
    words = _words(text)
    if any(not word.quoted and set("*?[]") & set(word.text) for word in words):
        raise BadName(f"{text!r} holds a glob character", "to mean it as part of a name, put it in double quotes")
    if len(words) == 2:
        return _known(TableName(words[0].text, words[1].text), known)
    matches = [table for table in known if table.name == words[0].text]
    public = TableName("public", words[0].text)
    if public in matches or not matches:
        return _known(public, known)
    if len(matches) > 1:
        raise BadName(f"{text} is in several schemas: {', '.join(map(str, matches))}", "write SCHEMA.TABLE")
    return matches[0]


def parse_column(text: str) -> str:
    """The column that a person named; raises `BadName`."""
    words = _words(text)
    if len(words) != 1 or (not words[0].quoted and set("*?[]") & set(text)):
        raise BadName(f"{text!r} is not a column name", "put odd characters in double quotes")
    return words[0].text


_ASSIGNED = re.compile(r'((?:"(?:[^"]|"")*"|[^"=])*)=')


def parse_key(text: str) -> tuple[str, str]:
    """Column and value of `COL=VALUE`, split at the first `=` outside double quotes; raises `BadName`."""
    match = _ASSIGNED.match(text)
    if match is None:
        raise BadName(f"{text!r} is not COL=VALUE", "write it with a `=`, odd column names in double quotes")
    return parse_column(match[1]), text[match.end() :]


_COLUMN_OF = re.compile(r'(?P<table>.+)\.(?P<column>"(?:[^"]|"")*"|[^\s.,"=]+)', re.DOTALL)


def parse_column_of(text: str) -> tuple[str, str]:
    """The table, as it is written, and the column of `TABLE.COL`; raises `BadName`."""
    match = _COLUMN_OF.fullmatch(text)
    if match is None:
        raise BadName(f"{text!r} is not TABLE.COL", 'put odd characters in double quotes, as in orders."e.mail"')
    return match["table"], parse_column(match["column"])


def split_assignment(text: str) -> tuple[str, str]:
    """What stands before and after the first `=` outside double quotes; raises `BadName`."""
    match = _ASSIGNED.match(text)
    if match is None:
        raise BadName(f"{text!r} lacks a =", "put names with odd characters in double quotes")
    return match[1], text[match.end() :]


def _known(table: TableName, known: Sequence[TableName]) -> TableName:
    if table not in known:
        raise LookupError(f"no table {table}")
    return table


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob on `schema.name`: case-sensitive, `*` and `?` stay on their side of the dot, quoted parts are literal."""

    text: str
    schema: re.Pattern[str]
    name: re.Pattern[str]

    def matches(self, table: TableName) -> bool:
        """Whether the pattern chooses this table."""
        return bool(self.schema.fullmatch(table.schema) and self.name.fullmatch(table.name))


def parse_pattern(text: str) -> Pattern:
    """Read one pattern; without a schema it means `public`. Raises `BadName`."""
    words = _words(text.strip())
    schema = _expression(words[0]) if len(words) == 2 else re.compile("public")
    return Pattern(text.strip(), schema, _expression(words[-1]))


def _expression(word: _Word) -> re.Pattern[str]:
    if word.quoted:
        return re.compile(re.escape(word.text), re.DOTALL)
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(char) or re.escape(char) for char in word.text), re.DOTALL)


def split_list(text: str) -> list[str]:
    """Split at commas outside double quotes, dropping empty entries. A quote that is never closed stays where it is."""
    entries = re.findall(r'(?:"(?:[^"]|"")*"?|[^,"])+', text)
    return [entry.strip() for entry in entries if entry.strip()]
