"""Finding rows by their text: the same lines as by reading every line, however the text is cut."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from jobs.chains.row_search import Needle

# Few values, so that they meet; some that look like others' ends, like NULL, or like escapes.
VALUES = st.sampled_from([b"", b"a", b"aa", b"ab", b"b", b"\\N", b"\\t", b"\\\\", b"\xc3\xa9", b"1", b"12"])
WIDTH = 3


def oracle(rows: Sequence[Sequence[bytes]], sought: Needle) -> list[bytes]:
    return [b"\t".join(row) + b"\n" for row in rows if all(row[position] == value for position, value in sought.fields)]


@st.composite
def chunks_of(draw: st.DrawFn, text: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(data=st.data(), width=st.integers(1, WIDTH))
def test_the_lines_that_hold_the_values_are_found_however_the_text_is_cut(data: st.DataObject, width: int) -> None:
    rows = data.draw(st.lists(st.tuples(*[VALUES] * width), max_size=12))
    positions = data.draw(st.lists(st.integers(0, width - 1), min_size=1, unique=True))
    sought = Needle(tuple((position, data.draw(VALUES)) for position in positions), width)
    text = b"".join(b"\t".join(row) + b"\n" for row in rows)
    assert list(sought.lines_of(data.draw(chunks_of(text)))) == oracle(rows, sought)
