"""Counting what passes by of a window: changes by table, commits, and who was not yet visible at its end."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from jobs.postgres.change_log import LogEnd, WindowTally
from tests.windows import begin, commit_at, cut, delete, end, insert, truncate, update, window

TABLE, OTHER = 16384, 4_000_000_000
FIRST, SECOND = commit_at(1000, 700, 1), commit_at(2000, 705, 2)
WINDOW = window(
    [
        *(begin(FIRST), insert(TABLE, [b"1", b"one"]), truncate(OTHER), end(FIRST)),
        *(begin(SECOND), update(TABLE, [b"1", None]), delete(TABLE, [b"1"]), insert(OTHER, [b"2"]), end(SECOND)),
    ]
)


def counted(
    pieces: list[bytes], start: int = 0, xmax: int = 800, in_progress: frozenset[int] = frozenset()
) -> WindowTally:
    """What is counted of a window that begins at an LSN."""
    tally = WindowTally(start, LogEnd(3000, datetime(2026, 1, 1, tzinfo=UTC), xmax, in_progress))
    for piece in pieces:
        tally.feed(piece)
    tally.finish()
    return tally


def test_changes_are_counted_by_table_a_truncate_as_one() -> None:
    assert counted([WINDOW]).changes == {TABLE: 3, OTHER: 2}


def test_commits_are_counted_and_the_last_one_is_known() -> None:
    tally = counted([WINDOW])
    assert (tally.commits, tally.last) == (2, SECOND)


@given(st.integers(1, 200))
def test_a_window_may_come_cut_anywhere(size: int) -> None:
    assert counted(cut(WINDOW, size)).changes == counted([WINDOW]).changes


def test_a_transaction_that_an_earlier_window_has_does_not_count_again() -> None:
    tally = counted([WINDOW], start=1001)
    assert (tally.changes, tally.commits) == ({TABLE: 2, OTHER: 1}, 1)


def test_a_table_of_which_only_an_earlier_window_has_changes_is_not_named() -> None:
    assert counted([WINDOW], start=2001).changes == {}


def test_transactions_that_no_snapshot_saw_at_the_end_are_remembered() -> None:
    assert counted([WINDOW], xmax=702).unseen == [(705, 2000)]
    assert counted([WINDOW], in_progress=frozenset({700})).unseen == [(700, 1000)]
