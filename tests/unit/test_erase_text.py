"""COPY text without the rows of an erasure, by few values or many, in plain or as hashes."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.erasing.marks import Digests, Document, Judge, Known, Marked, Substitute, Values, digest, substituted
from jobs.erasing.text import Count, TextFilter
from jobs.postgres.copy_text import escaped
from jobs.postgres.identifiers import TableName
from tests.windows import cut

COLUMNS = ("a", "b", "c")
FIELDS = st.one_of(st.sampled_from(["1", "11", "", "\\N", "a\tb", "x\ny", "\\", "t"]), st.text(max_size=4)).map(escaped)
ROWS = st.lists(st.tuples(FIELDS, FIELDS, st.one_of(FIELDS, st.just(b"\\N"))), max_size=20)


def text_of(rows: Sequence[tuple[bytes, ...]]) -> bytes:
    return b"".join(b"\t".join(row) + b"\n" for row in rows)


def marked(known: Known, *by: tuple[str, ...], document: Document | None = None) -> Marked:
    name = TableName("public", "t")
    return Marked(name, frozenset([1]), frozenset([name]), by, known, document)


def kept(text: bytes, one: Marked, size: int = 1 << 20, columns: tuple[str, ...] = COLUMNS) -> tuple[bytes, Count]:
    count = Count()
    return b"".join(TextFilter(Judge(one, columns), columns, count).kept(iter(cut(text, size)))), count


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("by", [("a",), ("b",), ("c",), ("c", "a")])
@settings(max_examples=30)
@given(rows=ROWS, wanted=ROWS, size=st.integers(1, 40), many=st.booleans())
def test_exactly_the_rows_with_a_known_value_go(
    by: tuple[str, ...],
    hashed: bool,
    rows: list[tuple[bytes, ...]],
    wanted: list[tuple[bytes, ...]],
    size: int,
    many: bool,
) -> None:
    at = [COLUMNS.index(column) for column in by]
    keys = {b"\t".join(row[position] for position in at) for row in wanted if b"\\N" not in [row[p] for p in at]}
    keys |= {str(number).encode() * len(by) for number in range(100, 150 if many else 100)}
    known: Known = Digests(b"salt", {by: frozenset(digest(b"salt", by, key) for key in keys)})
    if not hashed:
        known = values = Values()
        for key in keys:
            values.add(by, key)
    left = [row for row in rows if b"\t".join(row[position] for position in at) not in keys]
    found, count = kept(text_of(rows), marked(known, by), size)
    assert found == text_of(left)
    assert count.concerned == len(rows) - len(left)


VALUES = st.one_of(st.text(max_size=5), st.sampled_from(['"', "\\", "a/b", "é", "☃", "true", "7", "\n\t"]))


@given(value=VALUES, other=VALUES, ascii_only=st.booleans())
def test_what_a_document_holds_at_a_path_is_found_however_it_is_written(
    value: str,
    other: str,
    ascii_only: bool,
) -> None:
    values = Values()
    document = Document("b", ("who", "0"))
    values.add(document.columns, value.encode(errors="surrogatepass"))
    bodies = [{"who": [one, value]} for one in (value, other)]
    rows = [(b"1", escaped(json.dumps(body, ensure_ascii=ascii_only)), b"\\N") for body in bodies]
    found, _ = kept(text_of(rows), marked(values, document=document))
    assert found == text_of([row for row, one in zip(rows, (value, other), strict=True) if one != value])


@pytest.mark.parametrize(
    ("body", "value"), [("[1.50]", "1.50"), ("[true]", "true"), ("[null]", None), ("[{}]", None), ("[]", None)]
)
def test_a_document_is_read_as_the_server_reads_it(body: str, value: str | None) -> None:
    found = Document("b", ("0",)).value(escaped(body))
    assert found == (value.encode() if value is not None else None)


@pytest.mark.parametrize(("step", "value"), [("-1", b"b"), ("--1", None), ("²", None), ("9" * 5000, None), ("", None)])
def test_what_is_no_number_is_no_element_of_an_array(step: str, value: bytes | None) -> None:
    assert Document("b", (step,)).value(b'["a", "b"]') == value


def test_lines_are_put_together_in_which_the_value_is_cut() -> None:
    values = Values()
    values.add(("b",), b"needle" * 50)
    row = (b"1", b"needle" * 50, b"x")
    assert kept(text_of([row, row]), marked(values, ("b",)), 7)[0] == b""


def test_a_table_of_one_column_may_hold_an_empty_text() -> None:
    values = Values()
    values.add(("a",), b"")
    assert kept(b"\nx\n\n\ny\n", marked(values, ("a",)), columns=("a",))[0] == b"x\ny\n"


def test_mentions_are_counted_in_the_rows_that_stay_alone() -> None:
    values, count = Values(), Count()
    values.add(("a",), b"who@x")
    text = text_of([(b"who@x", b"who@x", b""), (b"2", b"by who@x too", b"who@x"), (b"3", b"", b"")])
    found = list(TextFilter(Judge(marked(values, ("a",)), COLUMNS), COLUMNS, count, (), b"who@x").look(iter([text])))
    assert len(found) == 1
    assert count.mentions == {"b": 1, "c": 1}


@pytest.mark.parametrize("unique", ["text", "number", "uuid"])
def test_what_stands_for_a_value_is_its_own_and_stands_for_itself(unique: str) -> None:
    one = Substitute("a", "", unique)  # type: ignore[arg-type]
    made = substituted(b"salt", one, b"value")
    assert made == substituted(b"salt", one, b"value")
    assert made == substituted(b"salt", one, made)
    assert made != substituted(b"salt", one, b"other")
    assert made != substituted(b"pepper", one, b"value")
