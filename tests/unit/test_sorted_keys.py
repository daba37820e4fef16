"""Sorted lists of keys: what is known after any steps, and which of it went."""

from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.chains.sorted_keys import AT_ONCE, KeySieve, Step, fields_of, known_keys, lines_of
from jobs.errors import Unexplained
from jobs.postgres.copy_text import escaped
from tests.windows import cut

# Bytes below a tab, a tab and its escape, a backslash: what sorts differently before and after it is escaped.
VALUES = st.text(alphabet="a\x01\t\n\\bä", max_size=3)
KEYS = st.tuples(VALUES, VALUES)
SETS = st.sets(KEYS, max_size=12)


def line(key: tuple[str, ...]) -> bytes:
    return b"\t".join(map(escaped, key))


def listed(keys: set[tuple[str, ...]]) -> list[bytes]:
    """As the server sorts them: by the bytes of each value."""
    return [line(key) for key in sorted(keys, key=lambda key: [value.encode() for value in key])]


@given(SETS)
def test_lines_are_sorted_as_the_server_sorts_them(keys: set[tuple[str, ...]]) -> None:
    lines = listed(keys)
    assert sorted(lines, key=fields_of) == lines


@given(SETS, st.lists(SETS, max_size=4))
def test_what_is_known_is_what_was_there_after_the_last_step(
    first: set[tuple[str, ...]], states: list[set[tuple[str, ...]]]
) -> None:
    steps, before = [], first
    for after in states:
        written = {key for key in after if key in before and len(key[0]) == 1}
        steps.append(Step(listed(before - after | written), listed(after - before | written)))
        before = after
    assert list(known_keys(iter(listed(first)), steps)) == listed(before)


@given(SETS, SETS, st.data())
def test_a_sieve_gives_what_went_and_what_was_written(
    before: set[tuple[str, ...]], now: set[tuple[str, ...]], data: st.DataObject
) -> None:
    written = now - before | data.draw(st.sets(st.sampled_from(sorted(now & before)))) if now & before else now - before
    sieve = KeySieve("t", iter(listed(before)))
    text = b"".join((b"1\t" if one in map(line, written) else b"0\t") + one + b"\n" for one in listed(now))
    told = b"".join(chain(*map(sieve.feed, cut(text, data.draw(st.integers(1, 50)))), sieve.finish()))
    assert list(lines_of([told])) == listed(before - now | (written & before))
    assert (sieve.keys, sieve.written, sieve.known) == (len(now), len(written), len(before))
    assert (sieve.removed, sieve.fresh) == (len(before - now | (written & before)), len(now - before))


def test_a_row_that_was_neither_known_nor_written_is_not_believed() -> None:
    with pytest.raises(Unexplained, match=r"public\.t"):
        list(KeySieve("public.t", iter([b"a", b"c"])).feed(b"0\ta\n0\tb\n0\tc\n"))


def test_however_many_keys_went_a_few_are_told_of_at_once() -> None:
    known = (b"%07d" % number for number in range(3 * AT_ONCE))
    sieve = KeySieve("t", known)
    pieces = [len(piece.splitlines()) for piece in chain(sieve.feed(b"0\t%07d\n" % (2 * AT_ONCE)), sieve.finish())]
    assert (sum(pieces), max(pieces)) == (3 * AT_ONCE - 1, AT_ONCE)


def test_a_sieve_reads_nothing_before_it_is_fed() -> None:
    def known() -> Iterator[bytes]:
        raise AssertionError("read in the thread that made it")
        yield b""

    KeySieve("t", known())
