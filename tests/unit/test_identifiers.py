"""How tables are named: quoted for SQL, written by people, chosen by patterns."""

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.postgres.identifiers import (
    BadName,
    TableName,
    column_list,
    parse_column_of,
    parse_pattern,
    parse_table,
    qualified,
    quote,
    split_list,
)
from tests.hostile import identifiers
from tests.servers import Database

NAMES = st.builds(TableName, identifiers(), identifiers())
ORDERS = TableName("public", "orders")
KNOWN = [
    ORDERS,
    TableName("public", "Orders"),
    TableName("public", "a.b"),
    TableName("app", "orders"),
    TableName("app", "users"),
    TableName("one", "twice"),
    TableName("two", "twice"),
]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=NAMES, column=identifiers())
async def test_the_server_takes_a_quoted_name_for_exactly_that_name(
    database: Database, table: TableName, column: str
) -> None:
    async with database.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(table.schema)}")
            await connection.execute(f"CREATE TABLE {qualified(table)} ({column_list([column])} int)")
            oid = await connection.fetchval("SELECT $1::text::regclass::oid", qualified(table))
            found = await connection.fetchrow(
                "SELECT nspname, relname, attname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                " JOIN pg_attribute ON attrelid = c.oid AND attnum = 1 WHERE c.oid = $1",
                oid,
            )
        except (asyncpg.ReservedNameError, asyncpg.DuplicateColumnError):
            return  # a schema pg_…, a column named like a system column: nobody has such a one
        finally:
            await transaction.rollback()
    assert tuple(found) == (*table, column)


@given(NAMES)
def test_every_name_is_found_by_the_way_it_is_shown(table: TableName) -> None:
    assert parse_table(str(table), [table]) == table


@given(NAMES)
def test_every_name_is_found_by_its_quoted_form(table: TableName) -> None:
    assert parse_table(qualified(table), [table]) == table


@given(NAMES, NAMES)
def test_a_quoted_pattern_chooses_that_table_alone(table: TableName, other: TableName) -> None:
    pattern = parse_pattern(qualified(table))
    assert pattern.matches(table)
    assert pattern.matches(other) == (other == table)


@given(NAMES)
def test_stars_choose_every_name(table: TableName) -> None:
    assert parse_pattern("*.*").matches(table)


@given(st.lists(NAMES, max_size=5))
def test_a_list_is_split_between_names_not_inside_them(tables: list[TableName]) -> None:
    assert split_list(",".join(map(qualified, tables))) == [qualified(table) for table in tables]
    assert split_list(" , ".join(map(str, tables)) + ",") == [str(table) for table in tables]


@pytest.mark.parametrize("text", ['"a', 'b,"a', 'a"b,c'])
def test_a_quote_that_is_never_closed_is_not_lost_in_splitting(text: str) -> None:
    with pytest.raises(BadName):
        [parse_pattern(entry) for entry in split_list(text)]


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("orders", ORDERS),
        ("public.orders", ORDERS),
        ('"public"."orders"', ORDERS),
        ("Orders", TableName("public", "Orders")),
        ('public."a.b"', TableName("public", "a.b")),
        ('"a.b"', TableName("public", "a.b")),
        ("app.orders", TableName("app", "orders")),
        ("users", TableName("app", "users")),
    ],
)
def test_a_table_is_found_by(text: str, table: TableName) -> None:
    assert parse_table(text, KNOWN) == table


@pytest.mark.parametrize(
    "text", ["ORDERS", "public.users", "nowhere", '"public.orders"', "APP.orders", "a", '""', 'a.""']
)
def test_no_table_is_meant_by(text: str) -> None:
    with pytest.raises(LookupError):
        parse_table(text, KNOWN)


def test_a_name_in_several_schemas_must_be_told_apart() -> None:
    with pytest.raises(BadName, match=r"one\.twice, two\.twice"):
        parse_table("twice", KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "a.", ".a", "a.b.c", "a b", "a,b", "a=b", 'a"b', '"a', '"a"b', 'a."b"c'),
        *("order*", "order?", "[a]", "a.*", "a\nb"),
    ],
)
def test_it_is_no_way_to_write_a_table(text: str) -> None:
    with pytest.raises(BadName):
        parse_table(text, KNOWN)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("orders", {"public.orders"}),
        ("ORDERS", set()),
        ("Orders", {"public.Orders"}),
        ("?rders", {"public.orders", "public.Orders"}),
        ("or*", {"public.orders"}),
        ("*.orders", {"public.orders", "app.orders"}),
        ("*", {"public.orders", "public.Orders", 'public."a.b"'}),
        ("app.*", {"app.orders", "app.users"}),
        ("a*", {'public."a.b"'}),
        ("app?users", set()),
        ("app*", set()),
        ('public."a.b"', {'public."a.b"'}),
        ('public."*"', set()),
        ('"*".orders', set()),
        ("t*.twice", {"two.twice"}),
        (" app.users ", {"app.users"}),
    ],
)
def test_a_pattern_chooses(pattern: str, chosen: set[str]) -> None:
    parsed = parse_pattern(pattern)
    assert {str(table) for table in KNOWN if parsed.matches(table)} == chosen


@pytest.mark.parametrize("text", ["", "a.b.c", "a.", "a b", '"a', "=", "a,b"])
def test_it_is_no_way_to_write_a_pattern(text: str) -> None:
    with pytest.raises(BadName):
        parse_pattern(text)


@pytest.mark.parametrize("name", ["[a]", "a[b]", "^a$", "a|b", "a+", "(a)", "{1}", "\\d"])
def test_only_stars_and_question_marks_mean_something_in_a_pattern(name: str) -> None:
    assert parse_pattern(name).matches(TableName("public", name))
    assert not parse_pattern(name).matches(TableName("public", "a"))


def test_a_star_matches_line_breaks_too() -> None:
    assert parse_pattern("a*").matches(TableName("public", "a\nb"))


@pytest.mark.parametrize(
    ("text", "table", "column"),
    [
        ("t.c", "t", "c"),
        ("public.t.c", "public.t", "c"),
        ('"a.b"."c.d"', '"a.b"', "c.d"),
        ('t."a""b"', "t", 'a"b'),
        ('s."t.u"."c=d"', 's."t.u"', "c=d"),
    ],
)
def test_a_column_is_named_with_its_table(text: str, table: str, column: str) -> None:
    assert parse_column_of(text) == (table, column)


@pytest.mark.parametrize("text", ["c", "t.", ".c", 't."c', "t.*", "t.a b"])
def test_what_is_no_column_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        parse_column_of(text)
