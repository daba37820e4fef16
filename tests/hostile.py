"""Hostile data: names and values that break whatever treats them as anything but data.

hard_schema(major)    SQL for one database with everything hard in it, the same every time
databases()           Hypothesis: SQL for a small database of hostile names, types and values
identifiers()         Hypothesis: one hostile name
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.servers import quoted

FIXED = Path(__file__).with_name("hostile.sql")
NAMES_SCHEMA = "names/of 'tables'"
NAME_BYTES = 63
SYSTEM_COLUMNS = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}

NAMES = (
    *(".", "..", "...", ".hidden", "a.b", "a/b", "/", "../../etc/passwd", "a\\b", "\\", "C:", "CON", "nul.txt"),
    *('"', '""', 'a"b', "'", "it's", "''", "`", "$1", "$$", "%", "%s", "%2F", "%%", "=", "a=b", "~", "~1", "-"),
    *("--", "-- Name: x", ";", "; DROP TABLE x;", "/*", "*", "?", "[a]", "{}", "(", "&", "<b>", "|", "^", "@", "#"),
    *(" ", "  ", " leading", "trailing ", "two  spaces", "\t", "tab\there", "new\nline", "\n", "cr\r\nlf", "\x01"),
    *("UPPER", "upper", "Upper", "select", "SELECT", "table", "user", "null", "NULL", "true", "public", "1", "1a"),
    *(
        "é",
        "e\u0301",
        "ß",
        "ẞ",
        "İ",
        "ı",
        "🦄",
        "👩\u200d👩\u200d👧",
        "漢字",
        "\u202e",
        "\ufeff",
        "\u00a0",
        "\U0010ffff",
    ),
    *("n" * NAME_BYTES, "語" * 21, "🦄" * 15 + "abc", '"' * NAME_BYTES, "." * NAME_BYTES, "/" * NAME_BYTES),
    *("manifest.json", "part-0", "data", "_", "__", "a,b", "a:b", "a\u2028b", "\\N", "\\.", "\x7f"),
)

EXTRA_FROM_16 = """
    CREATE EXTENSION vector;
    CREATE TABLE vectors (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), v vector(3), h halfvec(3), s sparsevec(5), vs vector[]
    );
    INSERT INTO vectors VALUES
        (md5('1')::uuid, '[1,-0.1,1e-30]', '[1,2,3]', '{1:0.5,5:-1}/5', ARRAY['[1,2]'::vector, NULL]),
        (md5('2')::uuid, '[0,0,3e38]', '[0,65504,-1]', '{}/5', '{}'), (md5('3')::uuid, NULL, NULL, NULL, NULL);
    CREATE INDEX by_hnsw ON vectors USING hnsw (v vector_l2_ops) WITH (m = 8, ef_construction = 20);
    CREATE INDEX by_ivfflat ON vectors USING ivfflat (v vector_cosine_ops) WITH (lists = 2);
"""
EXTRA_FROM_18 = """
    CREATE TABLE virtual (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL, c text);
    INSERT INTO virtual (a, c) VALUES (1, 'x'), (NULL, NULL);
    CREATE TABLE not_enforced (id int CONSTRAINT loose CHECK (id > 0) NOT ENFORCED);
    INSERT INTO not_enforced VALUES (-1);
    CREATE TABLE nulls_tolerated (id int);
    INSERT INTO nulls_tolerated VALUES (NULL);
    ALTER TABLE nulls_tolerated ADD CONSTRAINT "not.null" NOT NULL id NOT VALID;
    CREATE TABLE temporal (id int4range, valid daterange, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
    INSERT INTO temporal VALUES ('[1,2)', '[2026-01-01,2026-02-01)'), ('[1,2)', '[2026-02-01,)');
"""
EXTRA_WITH_CONTRIB = """
    CREATE SCHEMA extensions;
    CREATE EXTENSION hstore SCHEMA extensions;
    CREATE EXTENSION citext SCHEMA extensions;
    CREATE EXTENSION "uuid-ossp" SCHEMA extensions;
    CREATE EXTENSION ltree SCHEMA extensions;
    CREATE EXTENSION btree_gist SCHEMA extensions;
    CREATE EXTENSION pg_trgm SCHEMA extensions;
    CREATE TABLE contributed (
        id uuid PRIMARY KEY DEFAULT extensions.uuid_generate_v4(), h extensions.hstore, c extensions.citext UNIQUE,
        l extensions.ltree, room int, during tstzrange, x xml,
        EXCLUDE USING gist (room WITH =, during WITH &&)
    );
    INSERT INTO contributed VALUES
        (md5('1')::uuid, '"a b"=>"\\"q\\"", c=>NULL, ""=>""',
         'CaSe', 'top.sub', 1, '[2026-01-01,2026-02-01)',
         '<a b="c">&lt;é<!-- x --></a>'),
        (md5('2')::uuid, '', NULL, '', 1, '[2026-02-01,)', 'no element'),
        (md5('3')::uuid, NULL, NULL, NULL, NULL, NULL, NULL);
    CREATE INDEX by_trigram ON contributed USING gin ((c::text) extensions.gin_trgm_ops);
    CREATE MATERIALIZED VIEW uses_extension AS SELECT id, h OPERATOR(extensions.->) 'a b' AS q FROM contributed;
"""


def hard_schema(major: int) -> str:
    """SQL that fills an empty database of that server with everything hard; 15 is the one with contrib."""
    parts = [FIXED.read_text(), *map(_named_table, NAMES)]
    parts += [EXTRA_WITH_CONTRIB] if major == 15 else [EXTRA_FROM_16]
    parts += [EXTRA_FROM_18] if major >= 18 else []
    return "\n".join(parts)


def _named_table(name: str) -> str:
    """A table of that name with a column of that name, in a schema where it meets no other kind of object."""
    table, column = f"{quoted(NAMES_SCHEMA)}.{quoted(name)}", quoted(name)
    return (
        f"CREATE SCHEMA IF NOT EXISTS {quoted(NAMES_SCHEMA)};"
        f"CREATE TABLE {table} ({column} text, other int DEFAULT 1);"
        f"INSERT INTO {table} VALUES ({literal(name)}), (NULL);"
        f"CREATE INDEX ON {table} ({column});"
        f"COMMENT ON COLUMN {table}.{column} IS {literal(name)};"
    )


def literal(value: str | None) -> str:
    """A value as SQL writes it, under standard_conforming_strings."""
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
SPECIAL_TEXTS = ("", "\\N", "\\.", "\\", "\t", "\n", "\r\n", "\\n", "\\x41", "NULL", "'", '"', "{}", "\u2028", "🦄")


def texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Any text PostgreSQL can hold, hostile ones first."""
    return st.one_of(st.sampled_from(SPECIAL_TEXTS), st.text(CHARACTERS, max_size=max_size))


def identifiers() -> st.SearchStrategy[str]:
    """Any name PostgreSQL takes without cutting it: 1 to 63 bytes of UTF-8."""
    return st.one_of(st.sampled_from(NAMES), st.text(CHARACTERS, min_size=1, max_size=NAME_BYTES).map(_cut))


def _cut(name: str) -> str:
    return name.encode()[:NAME_BYTES].decode(errors="ignore")


def _array(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    elements = st.lists(st.none() | values, max_size=4)
    return elements.map(lambda found: "{" + ",".join("NULL" if v is None else _element(v) for v in found) + "}")


def _element(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _lexeme(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _json() -> st.SearchStrategy[str]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts(10)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(10), inner, max_size=3), max_leaves=8
    ).map(lambda value: json.dumps(value, ensure_ascii=False))


def _range(low: int, high: int) -> st.SearchStrategy[str]:
    bounds = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    return st.just("empty") | st.just("(,)") | bounds.map(lambda pair: f"[{pair[0]},{pair[1]})")


def _moments(kind: Callable[..., st.SearchStrategy[object]], *special: str) -> st.SearchStrategy[str]:
    return st.sampled_from(special) | kind().map(str)


FLOATS = st.sampled_from(("NaN", "Infinity", "-Infinity", "-0", "5e-324")) | st.floats().map(repr)
NUMERICS = st.sampled_from(("NaN", "Infinity", "1e1000", "-1e-1000", "0.00", "-0")) | st.decimals(
    allow_nan=False, allow_infinity=False, places=8
).map(str)
HEX = st.binary(max_size=40).map(lambda data: "\\x" + data.hex())

TYPES: dict[str, st.SearchStrategy[str]] = {
    "text": texts(),
    "varchar(40)": texts(),
    "char(3)": texts(3),
    "bytea": HEX,
    "boolean": st.sampled_from(("t", "f")),
    "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": NUMERICS,
    "real": st.sampled_from(("NaN", "Infinity", "-0", "1e-45")) | st.floats(width=32).map(repr),
    "float8": FLOATS,
    "money": st.decimals(-92233720368547758, 92233720368547758, places=2).map(str),
    "date": _moments(st.dates, "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"),
    "time": _moments(st.times, "24:00"),
    "timestamp": _moments(st.datetimes, "infinity", "-infinity", "0001-01-01 00:00:00 BC"),
    "timestamptz": _moments(st.datetimes, "infinity", "-infinity", "294276-12-31 23:59:59.999999+00"),
    "interval": st.timedeltas().map(lambda span: f"{span.days} days {span.seconds} s {span.microseconds} us"),
    "uuid": st.uuids().map(str),
    "jsonb": _json(),
    "json": _json().map(lambda text: f"  {text}\n"),
    "inet": st.ip_addresses().map(str),
    "varbit": st.text("01", max_size=20),
    "tsvector": st.lists(texts(10).filter(bool).map(_lexeme), max_size=3).map(" ".join),
    "point": st.tuples(FLOATS, FLOATS).map(lambda pair: f"({pair[0]},{pair[1]})"),
    "int4range": _range(-(2**31), 2**31 - 2),
    "int8multirange": _range(-(2**63), 2**63 - 2).map(lambda r: "{" + ("" if r == "empty" else r) + "}"),
    "text[]": _array(texts(10)),
    "bytea[]": _array(HEX),
    "float8[]": _array(FLOATS),
    "hostile_mood": st.sampled_from(("it's", "a,b", "\\N", "🦄")),
    "hostile_domain": texts(5).map(lambda text: text + "."),
    "hostile_pair": st.tuples(st.integers(0, 9), texts(10)).map(lambda pair: f"({pair[0]},{_element(pair[1])})"),
}
OWN_TYPES = """
    CREATE TYPE hostile_mood AS ENUM ('it''s', 'a,b', '\\N', '🦄');
    CREATE DOMAIN hostile_domain AS text CHECK (VALUE LIKE '%.');
    CREATE TYPE hostile_pair AS (n int, "t t" text);
"""


@dataclass(frozen=True)
class Column:
    """A column; its type is one of `TYPES`."""

    name: str
    type: str


@dataclass(frozen=True)
class Table:
    """A table and its rows, values as the types' input functions take them."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str | None, ...], ...]

    def sql(self) -> str:
        """What makes and fills it."""
        table = f"{quoted(self.schema)}.{quoted(self.name)}"
        columns = ", ".join(f"{quoted(column.name)} {column.type}" for column in self.columns)
        statements = [f"CREATE TABLE {table} ({columns});"]
        for row in self.rows:
            values = ", ".join(
                f"{literal(value)}::{column.type}" for value, column in zip(row, self.columns, strict=True)
            )
            statements.append(f"INSERT INTO {table} {f'VALUES ({values})' if row else 'DEFAULT VALUES'};")
        return "\n".join(statements)


@st.composite
def tables(draw: st.DrawFn, schema: str) -> Table:
    """A table of up to six columns of any type, with up to eight rows."""
    names = draw(st.lists(identifiers().filter(lambda name: name not in SYSTEM_COLUMNS), max_size=6, unique=True))
    columns = tuple(Column(name, draw(st.sampled_from(list(TYPES)))) for name in names)
    row = st.tuples(*(st.none() | TYPES[column.type] for column in columns))
    return Table(schema, draw(identifiers()), columns, tuple(draw(st.lists(row, max_size=8))))


@st.composite
def databases(draw: st.DrawFn) -> str:
    """SQL that fills an empty database with some hostile schemas and tables."""
    schemas = draw(st.lists(identifiers().filter(_may_be_a_schema), min_size=1, max_size=2, unique=True))
    made = [
        table
        for schema in schemas
        for table in draw(st.lists(tables(schema), max_size=3, unique_by=lambda table: table.name))
    ]
    create = [f"CREATE SCHEMA {quoted(schema)};" for schema in schemas if schema != "public"]
    return "\n".join([OWN_TYPES, *create, *(table.sql() for table in made)])


def _may_be_a_schema(name: str) -> bool:
    return not name.startswith("pg_") and name != "information_schema"
