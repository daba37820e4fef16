"""Reading a window of the change log: messages out of COPY's stream, and changes out of messages."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.postgres.pgoutput import NULL, UNCHANGED, Change, Garbled, Messages, changes, lsn_number, lsn_text
from tests.windows import UNTOUCHED, begin, commit_at, cut, delete, end, insert, kinds, truncate, update, window

TABLE, OTHER = 16384, 4_000_000_000
FIRST, SECOND = commit_at(1000, 700, 1.25), commit_at(2000, 4_294_967_295, 2)
TWO_TRANSACTIONS = [
    *(begin(FIRST), insert(TABLE, [b"1", b"one"]), end(FIRST)),
    *(begin(SECOND), delete(TABLE, [b"1", None]), insert(OTHER, [b"2"]), end(SECOND)),
]


def read(*messages: bytes, since: int = 0) -> list[Change]:
    """The changes of one transaction that holds these messages."""
    return list(changes([window([begin(FIRST), *messages, end(FIRST)])], since))


def only(message: bytes) -> Change:
    (change,) = read(message)
    return change


def test_an_insert_has_the_fields_of_its_row() -> None:
    assert only(insert(TABLE, [b"1", b"one"])) == Change("insert", TABLE, FIRST, None, [b"1", b"one"])


def test_fields_are_what_copy_writes() -> None:
    values = [b"", None, b"\\N", b"\\", b"tab\there", b"line\nend\r", b"\b\f\v", "é".encode(), b"\x01"]
    expected = [b"", NULL, rb"\\N", rb"\\", rb"tab\there", rb"line\nend\r", rb"\b\f\v", "é".encode(), b"\x01"]
    assert only(insert(TABLE, values)).new == expected


def test_an_update_of_other_columns_says_no_earlier_key() -> None:
    assert only(update(TABLE, [b"1", b"two"])) == Change("update", TABLE, FIRST, None, [b"1", b"two"])


def test_an_update_of_the_key_says_the_earlier_one() -> None:
    change = only(update(TABLE, [b"2", b"one"], key=[b"1", None]))
    assert (change.old, change.new) == ([b"1", NULL], [b"2", b"one"])


def test_an_update_with_a_full_identity_says_the_earlier_row() -> None:
    change = only(update(TABLE, [b"1", b"two"], old=[b"1", b"one"]))
    assert (change.old, change.new) == ([b"1", b"one"], [b"1", b"two"])


def test_a_toasted_value_that_was_not_touched_is_told_from_null() -> None:
    assert only(update(TABLE, [b"1", UNTOUCHED, None])).new == [b"1", UNCHANGED, NULL]


def test_a_text_that_looks_like_the_mark_of_an_untouched_value_is_escaped() -> None:
    assert only(insert(TABLE, [rb"\U"])).new == [rb"\\U"]


def test_a_delete_says_the_key() -> None:
    assert only(delete(TABLE, [b"1", None])) == Change("delete", TABLE, FIRST, [b"1", NULL], None)


def test_a_truncate_is_a_change_of_each_of_its_tables() -> None:
    assert read(truncate(TABLE, OTHER)) == [Change("truncate", oid, FIRST) for oid in (TABLE, OTHER)]


def test_other_messages_are_passed_over() -> None:
    relation = b"R" + pack("!I", TABLE) + b"public\0t\0d" + pack("!h", 0)
    assert kinds(read(relation, b"Y" + bytes(9), b"O" + bytes(9), insert(TABLE, [b"1"]))) == ["insert"]


def test_every_change_knows_its_transaction() -> None:
    found = changes([window(TWO_TRANSACTIONS)])
    assert [(change.oid, change.commit) for change in found] == [(TABLE, FIRST), (TABLE, SECOND), (OTHER, SECOND)]


@given(st.integers(1, 400))
def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    whole = window(TWO_TRANSACTIONS)
    assert list(changes(cut(whole, size))) == list(changes([whole]))


@pytest.mark.parametrize(("since", "left"), [(1000, 3), (1001, 2), (2000, 2), (2001, 0)])
def test_transactions_that_an_earlier_window_has_are_left_out_whole(since: int, left: int) -> None:
    assert len(list(changes([window(TWO_TRANSACTIONS)], since))) == left


def test_an_empty_window_has_no_changes() -> None:
    assert list(changes([window([])])) == []


@given(st.integers(0, len(window(TWO_TRANSACTIONS)) - 1))
def test_a_window_that_ends_early_is_garbled(length: int) -> None:
    with pytest.raises(Garbled):
        list(changes([window(TWO_TRANSACTIONS)[:length]]))


def test_what_comes_after_the_end_is_garbled() -> None:
    with pytest.raises(Garbled):
        list(changes([window(TWO_TRANSACTIONS) + b"x"]))


@pytest.mark.parametrize("data", [b"x" * 40, window([])[:19] + pack("!hiqiIi", 2, 8, 0, 4, 0, 0)])
def test_what_is_no_window_is_garbled(data: bytes) -> None:
    with pytest.raises(Garbled):
        list(changes([data]))


def test_messages_come_as_soon_as_they_are_whole() -> None:
    reader, whole = Messages(), window([begin(FIRST), end(FIRST)])
    assert list(reader.feed(whole[: -len(end(FIRST)) - 2])) == [begin(FIRST)]
    assert list(reader.feed(whole[-len(end(FIRST)) - 2 :])) == [end(FIRST)]
    reader.finish()


@given(st.integers(0, (1 << 64) - 1))
def test_an_lsn_is_read_as_it_is_written(number: int) -> None:
    assert lsn_number(lsn_text(number)) == number


def test_an_lsn_is_written_as_the_server_does() -> None:
    assert lsn_text(0x16B374D848) == "16/B374D848"
    assert lsn_text(0) == "0/0"
