"""How tables are cut into parts: every page in exactly one, the last one open-ended."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.postgres.catalogue import ColumnShape, Relation, TableShape
from jobs.postgres.copying import PAGES_PER_PART, PartPlan, largest_first, plan_parts
from jobs.postgres.identifiers import TableName

PAGE = 8192
TABLE = Relation(1, TableName("s p", 'od"d'), "r", False, False, None, False)
PAGES = st.integers(0, 2_000)


def shape(pages: int | None, toast_bytes: int = 0, *columns: ColumnShape) -> TableShape:
    return TableShape(columns, (), pages, (pages or 0) * PAGE + toast_bytes)


def ranges(parts: list[PartPlan]) -> list[tuple[int, int | None]]:
    return [(part.first_page or 0, part.end_page) for part in parts]


@given(pages=PAGES, toast=st.integers(0, 2**40), per_part=st.integers(1, 1_000))
def test_parts_cover_every_page_exactly_once_and_the_last_is_open_ended(pages: int, toast: int, per_part: int) -> None:
    found = ranges(plan_parts(TABLE, shape(pages, min(toast, pages * PAGE * 100)), per_part))
    assert found[0][0] == 0
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
    assert all(end is not None and start < end for start, end in found[:-1])
    assert found[-1][1] is None


@given(pages=PAGES, per_part=st.integers(1, 1_000))
def test_no_part_has_more_pages_than_asked_for(pages: int, per_part: int) -> None:
    found = ranges(plan_parts(TABLE, shape(pages), per_part))
    assert all((pages if end is None else end) - start <= per_part for start, end in found)


@given(pages=st.integers(1, 200_000), toast=st.integers(0, 2**36))
def test_parts_are_numbered_and_weigh_what_the_table_weighs(pages: int, toast: int) -> None:
    parts = plan_parts(TABLE, shape(pages, toast))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert 0 <= pages * PAGE + toast - sum(part.weight for part in parts) < len(parts)


def test_tables_heavy_with_toast_get_fewer_pages_a_part() -> None:
    plain = plan_parts(TABLE, shape(PAGES_PER_PART))
    heavy = plan_parts(TABLE, shape(PAGES_PER_PART, 3 * PAGES_PER_PART * PAGE))
    assert (len(plain), len(heavy)) == (1, 4)


def test_a_table_of_one_part_is_read_without_a_range() -> None:
    [part] = plan_parts(TABLE, shape(7))
    assert part.query.endswith('FROM ONLY "s p"."od""d"')


def test_an_empty_table_is_a_part_too() -> None:
    assert len(plan_parts(TABLE, shape(0))) == 1


def test_where_rows_cannot_be_found_by_page_the_table_is_one_part() -> None:
    [part] = plan_parts(TABLE, TableShape((), (), None, 2**40))
    assert (part.first_page, part.end_page) == (None, None)


def test_generated_columns_are_not_read() -> None:
    columns = (ColumnShape('a"', "int", False, True), ColumnShape("b", "int", True, False))
    [part] = plan_parts(TABLE, shape(1, 0, *columns))
    assert part.query.startswith('SELECT "a""" FROM')


def test_ranges_are_read_by_tuple_identifier() -> None:
    first, second = plan_parts(TABLE, shape(10), pages_per_part=5)
    assert first.query.endswith("WHERE ctid >= '(0,0)' AND ctid < '(5,0)'")
    assert second.query.endswith("WHERE ctid >= '(5,0)'")


@given(st.lists(st.integers(0, 2**50), max_size=20))
def test_the_largest_part_is_taken_first(weights: list[int]) -> None:
    parts = [PartPlan(TABLE.table, number, (), None, None, weight) for number, weight in enumerate(weights)]
    assert [part.weight for part in largest_first(parts)] == sorted(weights, reverse=True)
