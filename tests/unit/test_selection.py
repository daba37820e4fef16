"""Which tables are backed up: what patterns choose among the relations of a database."""

import itertools

import pytest

from jobs.postgres.catalogue import Chosen, Relation, choose, read_relations
from jobs.postgres.errors import NoSuchTable
from jobs.postgres.identifiers import TableName
from tests.round_trip import selection
from tests.servers import Database

_oids = itertools.count(1)


def relation(
    schema: str, name: str, kind: str = "r", parent: Relation | None = None, extension: bool = False
) -> Relation:
    return Relation(
        oid=next(_oids),
        table=TableName(schema, name),
        kind=kind,
        unlogged=False,
        row_security=False,
        partition_of=parent.oid if parent else None,
        of_extension=extension,
    )


def names(relations: tuple[Relation, ...]) -> set[str]:
    return {str(one.table) for one in relations}


EVENTS = relation("public", "events", "p")
OLD = relation("archive", "events_old", "p", EVENTS)
RELATIONS = (
    relation("app", "orders"),
    relation("public", "Orders"),
    relation("public", "orders"),
    relation("public", "all_orders", "v"),
    relation("public", "counted", "m"),
    relation("public", "elsewhere", "f"),
    relation("public", "orders_id_seq", "S"),
    relation("public", "spatial_ref_sys", extension=True),
    EVENTS,
    relation("public", "events_new", parent=EVENTS),
    OLD,
    relation("archive", "events_2020", parent=OLD),
)


def chosen(*tables: str, exclude: tuple[str, ...] = ()) -> Chosen:
    return choose(RELATIONS, selection(tables, exclude))


def test_without_patterns_it_is_every_table_of_public_and_every_leaf_of_its_partitioned_ones() -> None:
    assert names(chosen().relations) == {"public.orders", "public.Orders", "public.events_new", "archive.events_2020"}


def test_a_partitioned_table_stands_for_its_leaves_in_whatever_schema() -> None:
    assert names(chosen("events").relations) == {"public.events_new", "archive.events_2020"}


def test_a_leaf_can_be_chosen_alone() -> None:
    assert names(chosen("events_new").relations) == {"public.events_new"}


def test_every_pattern_adds_its_tables() -> None:
    assert names(chosen("app.*", "orders").relations) == {"app.orders", "public.orders"}


def test_exclusion_wins_and_is_remembered() -> None:
    found = chosen(exclude=("orders", "archive.*"))
    assert names(found.relations) == {"public.Orders", "public.events_new"}
    assert names(found.excluded) == {"public.orders", "archive.events_old", "archive.events_2020"}


def test_excluding_a_partitioned_table_excludes_its_leaves() -> None:
    assert names(chosen(exclude=("events",)).relations) == {"public.orders", "public.Orders"}


@pytest.mark.parametrize(
    "pattern", ["order", "ORDERS", "app.Orders", "all_orders", "counted", "elsewhere", "orders_id_seq"]
)
def test_a_pattern_that_matches_no_table_is_an_error_that_names_it(pattern: str) -> None:
    with pytest.raises(NoSuchTable, match=pattern):
        chosen("orders", pattern)


def test_tables_of_extensions_are_theirs() -> None:
    with pytest.raises(NoSuchTable):
        chosen("spatial_ref_sys")


def test_nothing_left_after_exclusion_is_an_error() -> None:
    with pytest.raises(NoSuchTable, match="no table to back up"):
        chosen("app.*", exclude=("*.orders",))


def test_a_partitioned_table_elsewhere_does_not_make_up_for_an_empty_public() -> None:
    with pytest.raises(NoSuchTable, match="no table to back up"):
        choose((relation("app", "events", "p"),), selection())


def test_a_partitioned_table_without_leaves_is_nothing_to_copy_and_no_error() -> None:
    assert choose((EVENTS,), selection()).relations == ()


async def test_schemas_of_the_system_and_our_own_never_match(database: Database) -> None:
    await database.execute(
        """
        CREATE SCHEMA rowvault; CREATE TABLE rowvault.lineage (token text);
        CREATE TEMPORARY TABLE passing (n int); CREATE TABLE lasting (n int);
        """
    )
    async with database.connect() as connection:
        relations = await read_relations(connection)
    assert names(choose(relations, selection(["*.*"])).relations) == {"public.lasting"}
    for pattern in ("pg_catalog.*", "information_schema.*", "rowvault.*", "pg_toast.*", "pg_temp*.*"):
        with pytest.raises(NoSuchTable):
            choose(relations, selection([pattern]))
