"""What stands in anonymised rows: NULL where it may, something neutral of the type, or made up to be unique."""

import pytest

from jobs.erasing.foreign_keys import Declared
from jobs.erasing.marks import Substitute
from jobs.erasing.neutral import substitutes
from jobs.erasing.subject import Found
from jobs.errors import UnsafeTarget
from jobs.postgres.identifiers import TableName
from storage.manifest import Column
from tests.manifests import made_up

NEEDED = Declared(frozenset({"c"}))
UNIQUE = Declared(frozenset({"c"}), frozenset({"c"}))


def made(kind: str, declared: Declared) -> Substitute:
    """What stands for a column of that type."""
    [table] = made_up().manifest.tables
    table = table.model_copy(update={"columns": (Column(name="id", type="integer"), Column(name="c", type=kind))})
    [one] = substitutes(Found(TableName("public", "t"), (table,), frozenset()), declared, {"id"})
    assert one.column == "c"
    return one


def test_what_may_be_null_is() -> None:
    assert made("anything(3)", Declared()).field == "\\N"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("text", ""),
        ("character varying(3)", ""),
        ("numeric(12,6)", "0"),
        ("timestamp(3) with time zone", "1970-01-01 00:00:00+00"),
        ("timestamp without time zone", "1970-01-01 00:00:00"),
        ("text[]", "{}"),
        ("extensions.vector(3)", "[0,0,0]"),
        ("bytea", "\\\\x"),
    ],
)
def test_what_must_hold_something_is_neutral(kind: str, field: str) -> None:
    assert made(kind, NEEDED) == Substitute("c", field)


@pytest.mark.parametrize(
    ("kind", "unique"), [("character varying(50)", "text"), ("bigint", "number"), ("uuid", "uuid")]
)
def test_what_must_be_unique_is_made_of_each_value(kind: str, unique: str) -> None:
    assert made(kind, UNIQUE).unique == unique


@pytest.mark.parametrize(
    ("kind", "declared", "why"),
    [
        ("mood", NEEDED, "nothing neutral is known for mood"),
        ("character varying(5)", UNIQUE, "it is unique, and nothing can be made up"),
        ("smallint", UNIQUE, "it is unique, and nothing can be made up"),
        ("text", Declared(frozenset({"c"}), frozenset(), ("((length(c) > 0))",)), "a check is about it"),
    ],
)
def test_what_nothing_can_stand_for_is_refused(kind: str, declared: Declared, why: str) -> None:
    with pytest.raises(UnsafeTarget, match=why):
        made(kind, declared)
