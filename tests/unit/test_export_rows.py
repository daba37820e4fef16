"""Exported rows, read back by other programs: nothing of any value is lost or changed, whatever is in it."""

import csv
import hmac
import io
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.errors import BadExport
from jobs.exporting.as_csv import CsvRows
from jobs.exporting.as_json import EXACT_INTEGER, JsonRows
from jobs.exporting.as_parquet import ParquetRows
from jobs.exporting.columns import ExportedColumn, ExportedTable, Mask, parse_mask, reshaping
from jobs.exporting.copy_lines import whole_lines
from jobs.exporting.files import Formatter, Unfit, table_file
from jobs.exporting.types import TEXT, ColumnType, read_type
from jobs.postgres.copy_text import escaped
from jobs.postgres.identifiers import BadName
from storage.manifest import Column, Table
from storage.names import unescape
from tests.hostile import NAMES, identifiers, texts

KEY = b"0123456789abcdef"
Row = Sequence[str | None]


def copied(rows: Sequence[Row]) -> bytes:
    """As COPY writes them."""
    return b"".join(b"\t".join(b"\\N" if v is None else escaped(v) for v in row) + b"\n" for row in rows)


def written(make: Callable[[], Formatter], text: bytes, size: int = 20) -> bytes:
    """What a format makes of COPY text that comes in pieces."""
    formatter = make()
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    return b"".join([formatter.begin(), *map(formatter.rows, whole_lines(pieces, size)), formatter.end()])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[Row]]:
    names = draw(st.lists(identifiers(), min_size=1, max_size=4, unique=True))
    row = st.tuples(*(st.none() | texts(12) for _ in names))
    return names, draw(st.lists(row, max_size=6))


HARD: tuple[list[str], list[Row]] = (
    ["a"],
    [(None,), ("",), ("".join(map(chr, range(1, 256))),), ("\\" * 3 + '"' * 3,), ("\\N",), ("\\.",), ("",), (None,)],
)
"""Of one column, where nothing is an empty line."""

FIELD = re.compile(r'(?:"((?:[^"]|"")*)")?([,\n])')


def read_csv(text: str) -> list[list[str | None]]:
    """RFC 4180, telling what is quoted from what is not."""
    rows, row, at = list[list[str | None]](), list[str | None](), 0
    while at < len(text):
        field = FIELD.match(text, at)
        assert field is not None
        at = field.end()
        row.append(None if field[1] is None else field[1].replace('""', '"'))
        if field[2] == "\n":
            rows.append(row)
            row = []
    return rows


@example(HARD)
@given(tables())
def test_csv_keeps_every_value_and_tells_null_from_empty(table: tuple[list[str], list[Row]]) -> None:
    names, rows = table
    text = written(lambda: CsvRows(names), copied(rows)).decode()
    assert read_csv(text) == [names, *map(list, rows)]
    found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert found == [names, *([] if row == (None,) else [value or "" for value in row] for row in rows)]


@example(HARD, True)
@given(tables(), st.booleans())
def test_json_keeps_every_value(table: tuple[list[str], list[Row]], lines: bool) -> None:
    names, rows = table
    made = written(lambda: JsonRows(names, [TEXT] * len(names), lines=lines), copied(rows))
    found = [json.loads(line) for line in made.split(b"\n")[:-1]] if lines else json.loads(made)
    assert found == [dict(zip(names, row, strict=True)) for row in rows]


@example(HARD)
@given(tables())
def test_parquet_keeps_every_value(table: tuple[list[str], list[Row]]) -> None:
    names, rows = table
    found = parquet(names, [TEXT] * len(names), rows)
    assert found == [list(row) for row in rows]


def parquet(names: Sequence[str], types: Sequence[ColumnType], rows: Sequence[Row]) -> list[list[object]]:
    made = written(lambda: ParquetRows(names, types, "snappy"), copied(rows))
    return [list(row.values()) for row in pq.read_table(io.BytesIO(made)).to_pylist()]


def as_json(type_: str, *values: str | None) -> list[object]:
    text = written(lambda: JsonRows(["v"], [read_type(type_, ["public.vector"])], lines=True), copied(
        [(value,) for value in values]
    ))  # fmt: skip
    return [json.loads(line, parse_float=Decimal)["v"] for line in text.splitlines()]


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("integer", "-7", -7),
        ("bigint", str(EXACT_INTEGER), EXACT_INTEGER),
        ("bigint", str(EXACT_INTEGER + 1), str(EXACT_INTEGER + 1)),
        ("bigint", str(-(2**63)), str(-(2**63))),
        ("numeric(10,2)", "-0.10", Decimal("-0.10")),
        ("numeric", "0.000000000000001", Decimal("1e-15")),
        ("numeric", "123456789012345.6", "123456789012345.6"),
        ("numeric", "1" + "0" * 400, "1" + "0" * 400),
        ("numeric", "0." + "0" * 400 + "1", "0." + "0" * 400 + "1"),
        ("numeric", "NaN", "NaN"),
        ("numeric", "-Infinity", "-Infinity"),
        ("double precision", "1e+22", Decimal("1e22")),
        ("double precision", "NaN", "NaN"),
        ("real", "Infinity", "Infinity"),
        ("boolean", "t", True),
        ("boolean", "f", False),
        ("jsonb", '{"a": ["\\n\\\\", 1.10, null]}', {"a": ["\n\\", Decimal("1.10"), None]}),
        ("json", ' {"a"\n:\t"\\u0041"}\r\n', {"a": "A"}),
        ("timestamp with time zone", "2026-01-31 14:05:00.5+00", "2026-01-31T14:05:00.5+00:00"),
        ("timestamp without time zone", "2026-01-31 14:05:00", "2026-01-31T14:05:00"),
        ("timestamp with time zone", "infinity", "infinity"),
        ("timestamp with time zone", "4713-01-01 00:00:00+00 BC", "4713-01-01 00:00:00+00 BC"),
        ("date", "2026-01-31", "2026-01-31"),
        ("integer[]", "{1,NULL,3}", [1, None, 3]),
        ("integer[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        ("integer[]", "[0:1]={1,2}", "[0:1]={1,2}"),
        ("text[]", '{a,"NULL",NULL,"x,\\"y\\"\\\\ {}",""}', ["a", "NULL", None, 'x,"y"\\ {}', ""]),
        ("boolean[]", "{t,f}", [True, False]),
        ("double precision[]", "{NaN,1.5}", ["NaN", Decimal("1.5")]),
        ("public.vector(3)", "[1,2.5,-3e-05]", [1, Decimal("2.5"), Decimal("-3e-5")]),
        ("public.mood[]", "{a,b}", "{a,b}"),
        ('"char"', '"', '"'),
    ],
)
def test_json_values_are_what_every_reader_holds_exactly(type_: str, value: str, expected: object) -> None:
    assert as_json(type_, value) == [expected]
    assert as_json(type_, None, value, None) == [None, expected, None]


HOLDS_NOT = [
    ("timestamp with time zone", "infinity"),
    ("timestamp without time zone", "0001-01-01 00:00:00 BC"),
    ("date", "5874897-12-31"),
    ("time without time zone", "24:00:00"),
    ("numeric(10,2)", "NaN"),
    ("integer[]", "{{1,2},{3,4}}"),
    ("integer[]", "[0:1]={1,2}"),
]


@pytest.mark.parametrize(("type_", "value"), HOLDS_NOT)
def test_parquet_says_which_column_holds_what_its_type_cannot(type_: str, value: str) -> None:
    types = [TEXT, read_type(type_)]
    with pytest.raises(Unfit) as raised:
        parquet(["a", "b"], types, [("x", None), ("y", value)])
    assert raised.value.positions == {1}
    made = written(lambda: ParquetRows(["a", "b"], types, "snappy", raised.value.positions), copied([("y", value)]))
    assert pq.read_table(io.BytesIO(made)).to_pylist() == [{"a": "y", "b": value}]


def test_a_byte_order_mark_is_a_value_s_own() -> None:
    assert parquet(["a"], [TEXT], [("\ufeff",), ("\ufeffa",)]) == [["\ufeff"], ["\ufeffa"]]


def test_a_row_of_parquet_may_be_longer_than_what_is_read_at_a_time() -> None:
    assert parquet(["a", "b"], [TEXT, read_type("integer")], [("é" * 700_000, "1")]) == [["é" * 700_000, 1]]


@given(st.lists(st.binary(max_size=9)), st.lists(st.integers(1, 9)), st.integers(1, 20))
def test_lines_are_cut_at_their_ends_and_nowhere_else(lines: list[bytes], cuts: list[int], size: int) -> None:
    text = b"".join(line.replace(b"\n", b"") + b"\n" for line in lines)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(text[at : at + cut])
        at += cut
    found = list(whole_lines([*chunks, text[at:]], size))
    assert b"".join(found) == text
    assert all(piece.endswith(b"\n") for piece in found)


def exported(kinds: Sequence[str], masks: dict[int, Mask], omitted: Sequence[int] = ()) -> ExportedTable:
    columns = tuple(Column(name=f"c{at}", type=kind) for at, kind in enumerate(kinds))
    table = Table(
        schema_name="s", name="t", oid=1, partition_of=None, load_into=None, persistence="permanent",
        row_security=False, primary_key=(), columns=columns, parts=(),
    )  # fmt: skip
    kept = tuple(ExportedColumn(f"c{at}", TEXT, at, masks.get(at)) for at in range(len(kinds)) if at not in omitted)
    return ExportedTable(table, kept, tuple(f"c{at}" for at in omitted), (), len(kinds))


@given(st.lists(st.tuples(st.none() | texts(), st.none() | texts(), st.none() | texts()), min_size=1, max_size=5))
def test_masks_stand_for_values_and_leave_the_others_alone(rows: list[tuple[str | None, ...]]) -> None:
    masked = exported(["text"] * 3, {1: Mask("hash"), 2: Mask("fixed", "a\tb")}, omitted=[0])
    reshape = reshaping(masked, KEY)
    assert reshape is not None
    hashes = [None if v is None else hmac.new(KEY, v.encode(), "sha256").hexdigest() for _, v, _ in rows]
    assert reshape(copied(rows)) == copied([(one, "a\tb") for one in hashes])
    nothing = reshaping(exported(["text"] * 3, {1: Mask("null")}), KEY)
    assert nothing is not None
    assert nothing(copied(rows)) == copied([(a, None, c) for a, _, c in rows])


def test_a_value_has_the_same_hash_whatever_pads_it_and_another_by_another_key() -> None:
    padded, plain = exported(["character(9)"], {0: Mask("hash")}), exported(["text"], {0: Mask("hash")})
    one, other, by_another_key = reshaping(padded, KEY), reshaping(plain, KEY), reshaping(plain, KEY + b"!")
    assert one is not None
    assert other is not None
    assert by_another_key is not None
    assert one(b"ab       \n") == other(b"ab\n") != by_another_key(b"ab\n")


def test_without_a_column_each_row_is_still_there() -> None:
    reshape = reshaping(exported(["text"], {}, omitted=[0]), KEY)
    assert reshape is not None
    assert reshape(b"a\nb\n") == b"\n\n"
    assert written(lambda: CsvRows([]), b"\n\n") == b"\n\n\n"
    assert json.loads(written(lambda: JsonRows([], [], lines=False), b"\n\n")) == [{}, {}]


@pytest.mark.parametrize("text", ["orders.note=rot13", "orders.note=", "orders.note", "orders.note=hash:x"])
def test_a_mask_is_one_of_three(text: str) -> None:
    with pytest.raises((BadExport, BadName)):
        parse_mask(text)


def test_a_mask_may_hold_anything_and_so_may_the_column_s_name() -> None:
    assert parse_mask('"a=b"."c.d"=fixed:x=y:z') == ('"a=b"."c.d"', Mask("fixed", "x=y:z"))
    assert parse_mask("public.orders.note=null") == ("public.orders.note", Mask("null"))


@given(identifiers(), identifiers())
def test_a_table_s_file_tells_its_name_and_fits_any_file_system(schema: str, table: str) -> None:
    folder, file = table_file(schema, table, ".jsonl.gz").split("/")
    assert (unescape(folder), unescape(file.removesuffix(".jsonl.gz"))) == (schema, table)
    assert len(file) <= 255
    assert "." not in folder + file.removesuffix(".jsonl.gz")  # no folder is called as export.json is


def test_files_of_hostile_names_are_all_different() -> None:
    made = {table_file(schema, table, ".csv") for schema in NAMES for table in NAMES}
    assert len(made) == len(set(NAMES)) ** 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numeric(10,2)", ColumnType("numeric", (10, 2))),
        ("numeric(3,-2)[]", ColumnType("numeric", (3, -2), array=True)),
        ("timestamp(3) with time zone", ColumnType("timestamp with time zone", (3,))),
        ("character varying(40)[]", ColumnType("character varying", (40,), array=True)),
        ("public.vector(3)", ColumnType("vector", (3,))),
        ("other.vector(3)", ColumnType("other.vector", (3,))),
        ('public."Mood(3)"', ColumnType('public."Mood(3)"')),
        ('"char"', ColumnType('"char"')),
    ],
)
def test_types_are_read_as_postgresql_writes_them(text: str, expected: ColumnType) -> None:
    assert read_type(text, ["public.vector"]) == expected
