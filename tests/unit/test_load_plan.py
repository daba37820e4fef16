"""Which stream loads what: tables whole and in order where that is even enough, giants by their parts."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.restoring.table_load import plan_loads
from storage.manifest import Name, Part, Table
from tests.manifests import made_up


def table(name: str, *sizes: int, load_into: str | None = None) -> Table:
    """A table with a part for each size; an empty part is one of size 0."""
    template = made_up().manifest.tables[0]
    part = template.parts[0]
    parts = tuple(part.model_copy(update={"number": n, "bytes": size, "rows": size}) for n, size in enumerate(sizes))
    into = Name(schema_name="public", name=load_into) if load_into else None
    return template.model_copy(update={"name": name, "parts": parts, "load_into": into})


def planned(*tables: Table, streams: int = 2) -> list[tuple[str, list[int], bool]]:
    loads = plan_loads(tables, streams)
    return [(load.table.name, [part.number for part in load.parts], load.in_order) for load in loads]


def test_tables_go_in_whole_the_largest_first() -> None:
    assert planned(table("a", 10, 10), table("b", 30), table("c", 5)) == [
        ("b", [0], True),
        ("a", [0, 1], True),
        ("c", [0], True),
    ]


def test_a_giant_goes_in_by_parts() -> None:
    assert planned(table("giant", 50, 50), table("small", 1)) == [
        ("giant", [0], False),
        ("giant", [1], False),
        ("small", [0], True),
    ]


def test_for_one_stream_every_table_goes_in_whole() -> None:
    assert planned(table("giant", 50, 50), streams=1) == [("giant", [0, 1], True)]


def test_what_may_belong_elsewhere_goes_in_by_parts_through_its_root() -> None:
    [load] = plan_loads([table("leaf", 5, load_into="root")], 2)
    assert (load.into.name, load.in_order) == ("root", False)


def test_nothing_is_loaded_of_empty_tables() -> None:
    assert planned(table("empty"), table("empty_part", 0)) == []


@given(sizes=st.lists(st.lists(st.integers(0, 100), max_size=4), max_size=6), streams=st.integers(1, 4))
def test_every_row_is_loaded_once(sizes: list[list[int]], streams: int) -> None:
    tables = [table(f"t{number}", *parts) for number, parts in enumerate(sizes)]
    loads = plan_loads(tables, streams)
    loaded: list[tuple[str, Part]] = [(load.table.name, part) for load in loads for part in load.parts]
    expected = [(one.name, part) for one in tables for part in one.parts if part.rows]
    assert sorted(loaded, key=str) == sorted(expected, key=str)
