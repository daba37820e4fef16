"""What becomes of a table's rows by the change log, against a dictionary of rows as the oracle."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.chains import merge, replay
from jobs.chains.known_keys import ManyKeys
from jobs.chains.merge import Merge
from jobs.chains.replay import Room, TableStates
from jobs.postgres.pgoutput import NULL, UNCHANGED, Change
from storage.errors import Corrupt
from storage.manifest import Column, Table
from tests.manifests import made_up
from tests.windows import commit_at, cut

COMMIT = commit_at(1000)
LITTLE = 600
"""Bytes of memory for states, so that most of them go to disk."""

Key = tuple[bytes, bytes]
Row = tuple[bytes, bytes]
Rows = dict[Key, Row]
Make = Callable[[], TableStates]

NAMES = ("large", "b", "twice", "a", "c")
TABLE = made_up().manifest.tables[0].model_copy(
    update={
        "columns": tuple(Column(name=name, type="text", generated=name == "twice") for name in NAMES),
        "identity": ("a", "b"),
    }
)  # fmt: skip
"""Rows are `large`, `b`, `a`, `c` in the log and in the data; the key is (`a`, `b`)."""


def fields(key: Key, row: Row) -> list[bytes]:
    return [row[0], key[1], key[0], row[1]]


def only_key(key: Key) -> list[bytes]:
    return [NULL, key[1], key[0], NULL]


def inserted(key: Key, row: Row) -> Change:
    return Change("insert", TABLE.oid, COMMIT, None, fields(key, row))


def updated(key: Key, row: Row, before: Key | None = None) -> Change:
    return Change("update", TABLE.oid, COMMIT, only_key(before) if before else None, fields(key, row))


def deleted(key: Key) -> Change:
    return Change("delete", TABLE.oid, COMMIT, only_key(key), None)


TRUNCATED = Change("truncate", TABLE.oid, COMMIT)


def text(rows: Rows) -> bytes:
    return b"".join(b"\t".join(fields(key, row)) + b"\n" for key, row in rows.items())


def merged(states: TableStates, base: Rows, size: int = 1000, parts: int = 1) -> list[bytes]:
    """The lines that come out of a base in so many parts, read in pieces of that size."""
    merging, keys = Merge(states), list(base)
    out = b""
    for number in range(0 if states.truncated else parts):
        some = {key: base[key] for key in keys[number::parts]}
        pieces = cut(text(some), size)
        out += b"".join(merging.kept(iter(pieces)) if merging.touches(iter(pieces)) else pieces)
    return sorted((out + b"".join(merging.left())).splitlines())


def replayed(states: TableStates, happened: list[Change], base: Rows) -> list[bytes]:
    for change in happened:
        states.apply(change)
    return merged(states, base)


@pytest.fixture
def states(tmp_path: Path) -> Iterator[TableStates]:
    with closing(TableStates(TABLE, tmp_path, Room())) as made:
        yield made


KEYS = st.tuples(st.sampled_from([b"1", b"2", NULL]), st.sampled_from([b"x", b"y"]))
LARGE = st.sampled_from([b"L" * 20, b"", NULL])
ROWS = st.tuples(LARGE, st.sampled_from([b"p", b"q"]))


def one_change(draw: st.DataObject, rows: Rows) -> Change:
    """Something that may happen to these rows, and does."""
    there = sorted(rows)
    kind = draw.draw(st.sampled_from("IIIUUUUKKDDT" if there else "IIT"))
    if kind == "T":
        rows.clear()
        return TRUNCATED
    if kind == "I":
        free = draw.draw(KEYS.filter(lambda key: key not in rows) if len(there) < 6 else st.none())
        if free is not None:
            rows[free] = draw.draw(ROWS)
            return inserted(free, rows[free])
    key = draw.draw(st.sampled_from(there))
    was = rows.pop(key)
    if kind == "D":
        return deleted(key)
    new = draw.draw(ROWS)
    untouched = draw.draw(st.booleans())
    after = draw.draw(KEYS.filter(lambda one: one not in rows)) if kind == "K" else key
    rows[after] = (was[0] if untouched else new[0], new[1])
    return updated(after, (UNCHANGED if untouched else new[0], new[1]), key if kind == "K" else None)


@settings(max_examples=150)
@given(base=st.dictionaries(KEYS, ROWS, max_size=6), count=st.integers(0, 14), draw=st.data(),
       size=st.integers(1, 60), parts=st.integers(1, 3), few=st.sampled_from([0, 10]))  # fmt: skip
def test_any_changes_of_any_base_make_the_rows_that_they_made(
    base: Rows, count: int, draw: st.DataObject, size: int, parts: int, few: int
) -> None:
    rows = dict(base)
    with (
        patch.object(merge, "FEW", few),
        tempfile.TemporaryDirectory() as folder,
        closing(TableStates(TABLE, Path(folder), Room(LITTLE))) as states,
    ):
        for _ in range(count):
            states.apply(one_change(draw, rows))
        assert merged(states, base, size, parts) == sorted(text(rows).splitlines())


def test_a_table_that_the_log_does_not_name_is_untouched(states: TableStates) -> None:
    assert not states.touched


@pytest.mark.parametrize("change", [inserted((b"1", b"x"), (b"", b"")), deleted((b"1", b"x")), TRUNCATED])
def test_any_change_touches_a_table(states: TableStates, change: Change) -> None:
    states.apply(change)
    assert states.touched


def test_all_tables_go_to_disk_together_once_their_room_is_full(tmp_path: Path) -> None:
    room, other = Room(LITTLE), TABLE.model_copy(update={"oid": TABLE.oid + 1})
    with closing(TableStates(TABLE, tmp_path, room)) as one, closing(TableStates(other, tmp_path, room)) as two:
        one.apply(inserted((b"1", b"x"), (b"", b"")))
        two.apply(inserted((b"1", b"x"), (b"", b"")))
        assert (one.count(), two.count()) == (0, 0)
        two.apply(inserted((b"2", b"x"), (b"", b"")))
        assert (one.count(), two.count()) == (1, 2)


def test_an_untouched_value_follows_its_row_from_key_to_key(states: TableStates) -> None:
    large = b"L" * 9000
    states.apply(updated((b"2", b"x"), (UNCHANGED, b"q"), (b"1", b"x")))
    states.apply(inserted((b"1", b"x"), (b"another", b"r")))
    states.apply(updated((b"3", b"x"), (UNCHANGED, b"s"), (b"2", b"x")))
    expected = {(b"3", b"x"): (large, b"s"), (b"1", b"x"): (b"another", b"r")}
    assert merged(states, {(b"1", b"x"): (large, b"p")}) == sorted(text(expected).splitlines())


def test_a_key_that_is_itself_an_untouched_large_value_is_taken_from_the_earlier_row(states: TableStates) -> None:
    """The server then says the key in full beside it: REPLICA IDENTITY, or a primary key, of a long text."""
    for large in (b"new", b"newer"):
        new = [large, UNCHANGED, b"1", b"q"]
        states.apply(Change("update", TABLE.oid, COMMIT, only_key((b"1", b"long")), new))
    expected = {(b"1", b"long"): (b"newer", b"q")}
    assert merged(states, {(b"1", b"long"): (b"old", b"p")}) == text(expected).splitlines()


KEY = (b"1", b"x")
MISFITS: dict[str, tuple[list[Change], Rows, str]] = {
    "a row comes twice": ([inserted(KEY, (b"", b""))] * 2, {}, "a key that is taken"),
    "a row comes that the base has": ([inserted(KEY, (b"", b""))], {KEY: (b"", b"")}, "has already"),
    "a row goes twice": ([deleted(KEY)] * 2, {KEY: (b"", b"")}, "deleted before"),
    "a row goes that is nowhere": ([deleted(KEY)], {}, "1 rows were changed that are not in it"),
    "a row changes that is nowhere": ([updated(KEY, (b"", b""))], {}, "1 rows were changed that are not in it"),
    "a row changes after a truncate": ([TRUNCATED, updated(KEY, (b"", b""))], {KEY: (b"", b"")}, "TRUNCATE"),
    "a row has another width": (
        [Change("insert", TABLE.oid, COMMIT, None, [b"1", b"x"])], {}, "2 columns instead of 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("happened", "base", "said"), MISFITS.values(), ids=MISFITS)
def test_changes_that_do_not_fit_are_refused_and_name_the_table(
    states: TableStates, happened: list[Change], base: Rows, said: str
) -> None:
    with pytest.raises(Corrupt, match=said) as refused:
        replayed(states, happened, base)
    assert "public.Orders" in refused.value.message


@given(st.sets(st.binary(max_size=8)), st.sets(st.binary(max_size=8)))
def test_every_key_that_is_known_passes(inside: set[bytes], others: set[bytes]) -> None:
    assert inside <= set(ManyKeys(inside).hits([*inside, *others]))


def test_almost_everything_else_is_held_back() -> None:
    found = ManyKeys(b"in %d" % number for number in range(10_000))
    assert len(found.hits([b"out %d" % number for number in range(10_000)])) < 20


def test_the_key_of_a_line_is_the_same_text_however_it_lies(tmp_path: Path) -> None:
    for identity in (["large"], ["c"], ["a", "b"]):
        rows = replay.Rows(table_with(*identity))
        line = [b"l", b"b", b"a", b"c"]
        assert rows.keys([b"\t".join(line)]) == [rows.key(line)]


def table_with(*identity: str) -> Table:
    return TABLE.model_copy(update={"identity": identity})
