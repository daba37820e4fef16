"""Telling the rows of two tables apart, against plain dictionaries as the oracle."""

import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.diff import without_shared
from jobs.errors import JobError
from jobs.row_buckets import FILES, Buckets, Kind, Layout, Rows, compare, tell_apart
from storage.manifest import Part

Pair = tuple[bytes, bytes]
Table = dict[Pair, Pair]
FIELDS = st.text("ab\\N\0é", max_size=3).map(str.encode)  # neither tabs nor line ends: COPY escapes them
KEYS = st.tuples(FIELDS, FIELDS)
TABLES = st.dictionaries(KEYS, st.tuples(FIELDS, FIELDS), max_size=20)
LINES = st.lists(st.lists(FIELDS, min_size=2, max_size=2).map(b"\t".join), max_size=20)


def line(key: Pair, row: Pair) -> bytes:
    """The key's columns are the third and the first."""
    return b"\t".join((key[1], row[0], key[0], row[1]))


def differences(
    backup: list[bytes], other: list[bytes], layout: Layout, *, cut: int = 7, shown: int = 100
) -> tuple[dict[Kind, int], dict[Kind, list[bytes]]]:
    """Counts by kind, and keys by kind, after both sides came in pieces of `cut` bytes."""
    with Buckets(files=3) as one, Buckets(files=3) as two:
        for lines, into in ((backup, one), (other, two)):
            rows, text = Rows(layout, into), b"".join(line + b"\n" for line in lines)
            for start in range(0, len(text), cut):
                rows.feed(text[start : start + cut])
            assert into.rows == len(lines)
        counts, keys = compare(one, two, shown)
    return {kind: counts[kind] for kind in keys}, {kind: sorted(some) for kind, some in keys.items()}


@settings(max_examples=50)
@given(backup=TABLES, other=TABLES, cut=st.integers(1, 40))
def test_rows_with_keys_are_missing_changed_or_extra(backup: Table, other: Table, cut: int) -> None:
    expected = {
        "missing": sorted(b"\t".join(key) for key in backup.keys() - other.keys()),
        "changed": sorted(b"\t".join(key) for key in backup.keys() & other.keys() if backup[key] != other[key]),
        "extra": sorted(b"\t".join(key) for key in other.keys() - backup.keys()),
    }
    lines = [[line(*item) for item in random.sample(list(side.items()), len(side))] for side in (backup, other)]
    assert differences(lines[0], lines[1], Layout(None, (2, 0)), cut=cut) == (
        {kind: len(keys) for kind, keys in expected.items()},
        expected,
    )


@settings(max_examples=50)
@given(backup=LINES, other=LINES)
def test_rows_without_a_key_are_a_bag_of_lines(backup: list[bytes], other: list[bytes]) -> None:
    counts, _ = differences(backup, other, Layout(None, ()))
    missing, extra = Counter(backup) - Counter(other), Counter(other) - Counter(backup)
    assert counts == {"missing": missing.total(), "changed": 0, "extra": extra.total()}


@settings(max_examples=50)
@given(backup=TABLES)
def test_columns_that_only_one_side_has_are_left_out(backup: Table) -> None:
    ours, theirs = Layout.of("kxlv", "klv", "lk"), Layout.of("klv", "klv", "lk")
    lines = [line(*item) for item in backup.items()]
    shorter = [b"\t".join(fields[:1] + fields[2:]) for fields in (line.split(b"\t") for line in lines)]
    assert tell_apart(ours.records(lines), theirs.records(shorter)) == {"missing": {}, "changed": {}, "extra": {}}


def test_a_key_that_is_there_twice_now_is_a_changed_row_and_an_extra_one() -> None:
    counts, _ = differences([b"1\ta"], [b"1\tb", b"1\tc"], Layout(None, (0,)))
    assert counts == {"missing": 0, "changed": 1, "extra": 1}


def test_no_more_keys_are_kept_than_are_shown() -> None:
    counts, keys = differences([b"%d" % n for n in range(1000)], [], Layout(None, (0,)), shown=3)
    assert counts["missing"] == 1000
    assert len(keys["missing"]) == 3


@pytest.mark.parametrize("files", [1, FILES])
def test_files_that_are_too_large_are_spread_over_others_with_the_same_outcome(files: int) -> None:
    numbers = range(5000)
    layout = Layout(None, (0,))
    with Buckets(files=files) as one, Buckets(files=files) as two:
        one.add(layout.records(b"%d\told" % n for n in numbers))
        two.add(layout.records(b"%d\t%s" % (n, b"old" if n % 10 else b"new") for n in numbers if n % 7))
        counts = Counter[str]()
        for ours, theirs in one.pairs(two, largest=100):
            found = tell_apart(ours, theirs)
            assert max(ours.tell(), theirs.tell()) <= 100
            counts += Counter({kind: keys.total() for kind, keys in found.items()})
    assert counts["missing"] == sum(1 for n in numbers if not n % 7)
    assert counts["changed"] == sum(1 for n in numbers if n % 7 and not n % 10)


def test_equal_lines_without_end_end_all_the_same() -> None:
    layout = Layout(None, ())
    with Buckets() as one, Buckets() as two:
        one.add(layout.records([b"the same"] * 300))
        two.add(layout.records([b"the same"] * 301))
        found = [tell_apart(*pair) for pair in one.pairs(two, largest=100)]
    assert sum(apart["extra"].total() for apart in found) == 1
    assert sum(apart["missing"].total() for apart in found) == 0


def test_the_temporary_files_have_no_names(tmp_path: Path) -> None:
    with Buckets(tmp_path) as buckets:
        buckets.add(Layout(None, (0,)).records([b"1\ta"]))
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"room for temporary files in .*nowhere: No such file"):
        Buckets(tmp_path / "nowhere")


def test_no_room_is_said() -> None:
    with Buckets() as buckets, Path("/dev/full").open("wb", buffering=0) as full:
        os.dup2(full.fileno(), buckets.files[crc32(b"k") % FILES].fileno())
        with pytest.raises(JobError, match=f"{tempfile.gettempdir()}: No space left on device"):
            buckets.add(b"k%b\n" % (b"x" * 20) for _ in range(1000))


def part(number: int, content: str) -> Part:
    return Part(number=number, first_page=None, end_page=None, rows=1, bytes=1, sha256=content, objects=())


@settings(max_examples=50)
@given(mine=st.lists(st.sampled_from("abc")), others=st.lists(st.sampled_from("abc")))
def test_parts_that_both_sides_have_are_left_out_as_often_as_both_have_them(mine: list[str], others: list[str]) -> None:
    left, right = without_shared(list(map(part, range(9999), mine)), list(map(part, range(9999), others)))
    assert Counter(one.sha256 for one in left) == Counter(mine) - Counter(others)
    assert Counter(one.sha256 for one in right) == Counter(others) - Counter(mine)
