"""The two ways to see that lines are the ones that were backed up: in order by parts, and as a bag."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from jobs.postgres.content import Bag, BagTotal, InOrder, PartHash

lines = st.lists(st.binary(max_size=12).map(lambda value: value.replace(b"\n", b" ")), max_size=12)


def text(rows: list[bytes]) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data cut at some lengths, the rest as the last chunk."""
    cut, position = [], 0
    for size in sizes:
        cut.append(data[position : position + size])
        position += size
    return [*cut, data[position:]]


def promised(parts: list[list[bytes]]) -> list[PartHash]:
    return [PartHash(len(rows), hashlib.sha256(text(rows)).hexdigest()) for rows in parts]


def holds(parts: list[list[bytes]], data: bytes, sizes: list[int]) -> bool:
    check = InOrder(promised(parts))
    for chunk in chunks(data, sizes):
        check.feed(chunk)
    return check.finished()


def bag(data: bytes, sizes: list[int]) -> BagTotal:
    gathered = Bag()
    for chunk in chunks(data, sizes):
        gathered.feed(chunk)
    return gathered.total()


sizes = st.lists(st.integers(0, 20), max_size=6)


@given(parts=st.lists(lines, max_size=4), sizes=sizes)
def test_the_same_lines_in_order_are_recognised_however_they_are_cut(
    parts: list[list[bytes]], sizes: list[int]
) -> None:
    assert holds(parts, b"".join(map(text, parts)), sizes)


@given(parts=st.lists(lines, max_size=4), other=st.lists(lines, max_size=4), sizes=sizes)
def test_other_lines_are_not(parts: list[list[bytes]], other: list[list[bytes]], sizes: list[int]) -> None:
    data = b"".join(map(text, other))
    assert holds(parts, data, sizes) == (data == b"".join(map(text, parts)))


@given(rows=lines, order=st.randoms(), sizes=sizes)
def test_a_bag_does_not_mind_the_order(rows: list[bytes], order: st.DrawFn, sizes: list[int]) -> None:
    shuffled = sorted(rows, key=lambda _: order.random())  # type: ignore[attr-defined]
    assert bag(text(rows), sizes) == bag(text(shuffled), [])


@given(rows=lines, other=lines)
def test_a_bag_tells_other_lines_apart(rows: list[bytes], other: list[bytes]) -> None:
    assert (bag(text(rows), []) == bag(text(other), [])) == (sorted(rows) == sorted(other))


@given(rows=lines, more=lines)
def test_bags_add_up(rows: list[bytes], more: list[bytes]) -> None:
    assert bag(text(rows), []) + bag(text(more), []) == bag(text(rows + more), [])
