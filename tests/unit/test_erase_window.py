"""Windows without the changes of erased rows: what is not concerned stays byte for byte, wherever the bytes are cut."""

from struct import pack

from hypothesis import given
from hypothesis import strategies as st

from jobs.erasing.marks import Marked, Substitute, Values
from jobs.erasing.window import WindowCount, WindowFilter
from jobs.postgres.copy_text import escaped
from jobs.postgres.identifiers import TableName
from jobs.postgres.pgoutput import changes
from jobs.postgres.window_frames import Fresh, frames, read_row, write_row
from tests.windows import UNTOUCHED, begin, commit_at, cut, delete, end, insert, truncate, update, window

OURS, OTHER = 100, 200
NAME = TableName("public", "people")


def relation(oid: int, name: bytes, *columns: bytes) -> bytes:
    """The message that tells what a table looks like."""
    described = b"".join(b"\0" + column + b"\0" + pack("!Ii", 25, -1) for column in columns)
    return b"R" + pack("!I", oid) + b"public\0" + name + b"\0d" + pack("!h", len(columns)) + described


def people(*keys: bytes, **more: object) -> Marked:
    """The rows with these ids."""
    values = Values()
    for key in keys:
        values.add(("id",), escaped(key.decode()))
    return Marked(NAME, frozenset([OURS]), frozenset([NAME]), (("id",),), values, **more)  # type: ignore[arg-type]


def kept(data: bytes, marked: Marked, size: int = 1 << 20, since: int = 0) -> tuple[bytes, WindowCount]:
    count = WindowCount()
    return b"".join(WindowFilter([marked], count, since).kept(iter(cut(data, size)))), count


RELATIONS = [relation(OURS, b"people", b"id", b"note"), relation(OTHER, b"letters", b"id", b"note")]
IDS = st.sampled_from([b"1", b"2", b"3", b"t\tab", b"\\N", b""])
NOTES = st.one_of(st.none(), st.binary(max_size=30).filter(lambda text: b"\0" not in text), st.just(UNTOUCHED))
ROWS = st.tuples(IDS, NOTES).map(list)
MESSAGES = st.one_of(
    st.builds(insert, st.sampled_from([OURS, OTHER]), ROWS),
    st.builds(lambda oid, new: update(oid, new), st.sampled_from([OURS, OTHER]), ROWS),
    st.builds(lambda oid, new, key: update(oid, new, key=[key, None]), st.sampled_from([OURS, OTHER]), ROWS, IDS),
    st.builds(lambda oid, new, old: update(oid, new, old=old), st.sampled_from([OURS, OTHER]), ROWS, ROWS),
    st.builds(lambda oid, key: delete(oid, [key, None]), st.sampled_from([OURS, OTHER]), IDS),
    st.just(truncate(OURS, OTHER)),
    st.just(b"O" + bytes(9)),
)


def is_erased(message: bytes, keys: set[bytes]) -> bool:
    """Whether a message is about one of our rows, by another reading of it than the filter's own."""
    if message[:1] not in (b"I", b"U", b"D") or message[1:5] != pack("!I", OURS):
        return False
    row = read_row(message)
    return any(fields[0] in {escaped(key.decode()) for key in keys} for fields in (row.old, row.new) if fields)


@given(st.lists(MESSAGES, max_size=30), st.sets(IDS), st.integers(1, 200))
def test_everything_but_the_erased_rows_stays_byte_for_byte(messages: list[bytes], keys: set[bytes], size: int) -> None:
    commit = commit_at(1000)
    data = window([begin(commit), *RELATIONS, *messages, end(commit)])
    left = [message for message in messages if not is_erased(message, keys)]
    found, count = kept(data, people(*keys), size)
    assert found == window([begin(commit), *RELATIONS, *left, end(commit)])
    assert count.messages == len(messages) - len(left)


@given(st.lists(MESSAGES, max_size=10), st.integers(1, 100))
def test_the_pieces_of_a_window_are_its_bytes(messages: list[bytes], size: int) -> None:
    data = window(messages)
    assert b"".join(framing + message for framing, message in frames(cut(data, size))) == data


@given(MESSAGES.filter(lambda message: message[:1] in (b"I", b"U", b"D")))
def test_a_row_is_written_as_it_was_read(message: bytes) -> None:
    assert write_row(read_row(message)) == message


def test_changes_count_only_from_where_the_window_begins() -> None:
    early, late = commit_at(1000), commit_at(2000)
    one = [relation(OURS, b"people", b"id", b"note"), insert(OURS, [b"1", b"x"])]
    data = window([begin(early), *one, end(early), begin(late), *one, end(late)])
    found, count = kept(data, people(b"1"), since=2000)
    assert (count.messages, count.dropped) == (2, {OURS: 1})
    assert list(changes([found])) == []


def test_a_table_is_known_by_its_name_where_its_oid_is_new() -> None:
    data = window([begin(commit_at(1)), relation(999, b"people", b"id"), insert(999, [b"1"])])
    assert kept(data, people(b"1"))[1].messages == 1


def test_a_value_that_the_new_row_leaves_out_is_the_old_ones() -> None:
    row = update(OURS, [UNTOUCHED, b"new"], old=[b"1", b"old"])
    data = window([begin(commit_at(1)), *RELATIONS, row])
    assert kept(data, people(b"1"))[1].messages == 1


def test_rows_that_stay_lose_what_tells_of_whom_they_are() -> None:
    marked = people(b"1", how="anonymise", substitutes=(Substitute("note", "\\N"),))
    messages = [insert(OURS, [b"1", b"secret"]), update(OURS, [b"1", UNTOUCHED]), insert(OURS, [b"2", b"other"])]
    found, count = kept(window([begin(commit_at(1)), *RELATIONS, *messages]), marked)
    expected = [insert(OURS, [b"1", None]), *messages[1:]]
    assert found == window([begin(commit_at(1)), *RELATIONS, *expected])
    assert (count.changed, count.messages) == (1, 0)


def test_a_reference_to_an_erased_row_becomes_null() -> None:
    values = Values()
    values.add(("note",), b"7")
    marked = Marked(NAME, frozenset([OURS]), frozenset([NAME]), (), values, links=(("note",),))
    messages = [insert(OURS, [b"1", b"7"]), update(OURS, [b"1", b"8"], old=[b"1", b"7"]), insert(OURS, [b"2", b"8"])]
    found, _ = kept(window([begin(commit_at(1)), *RELATIONS, *messages]), marked)
    expected = [insert(OURS, [b"1", None]), update(OURS, [b"1", b"8"], old=[b"1", None]), messages[2]]
    assert found == window([begin(commit_at(1)), *RELATIONS, *expected])


@given(st.integers(1, 300), st.sampled_from([0, 1500, 2500, 9000]))
def test_transactions_that_an_earlier_window_has_are_stored_without_their_changes(size: int, since: int) -> None:
    early, late = commit_at(1000), commit_at(2000)
    one = [*RELATIONS, insert(OURS, [b"1", b"x" * 40]), truncate(OURS)]
    without = [*RELATIONS, truncate(OURS)]
    fresh = Fresh(since)
    data = window([begin(early), *one, end(early), begin(late), *one, end(late)])
    found = b"".join(map(fresh.feed, cut(data, size))) + fresh.finish()
    expected = [without if commit.lsn < since else one for commit in (early, late)]
    assert found == window([begin(early), *expected[0], end(early), begin(late), *expected[1], end(late)])
    assert fresh.left_out == sum(messages is without for messages in expected)
