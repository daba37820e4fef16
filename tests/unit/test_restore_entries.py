"""Which entries of an archive are carried out, and which of them last."""

from jobs.postgres.ddl import ArchiveEntry
from jobs.postgres.identifiers import TableName
from jobs.restoring.entries import for_tables, wanted_entries
from storage.manifest import ForeignKeyOutside

LINES = [
    "8; 2615 2200 SCHEMA - public pg_database_owner",
    "9; 2615 2201 SCHEMA - public two postgres",
    "10; 2615 2202 SCHEMA - shop postgres",
    "11; 0 0 COMMENT - SCHEMA public pg_database_owner",
    "12; 0 0 ACL - SCHEMA public pg_database_owner",
    "13; 0 0 ACL - SCHEMA shop postgres",
    "14; 3079 1 EXTENSION - vector ",
    "15; 3079 2 EXTENSION - citext ",
    "16; 1259 3 TABLE shop orders postgres",
    "17; 2606 4 FK CONSTRAINT shop orders to_user postgres",
    "18; 2606 5 FK CONSTRAINT shop orders to_user_too postgres",
    "19; 826 6 DEFAULT ACL shop DEFAULT PRIVILEGES FOR TABLES postgres",
]


def listing(*lines: str) -> list[ArchiveEntry]:
    return [ArchiveEntry(int(line.partition(";")[0]), line, frozenset()) for line in lines]


def numbers(entries: tuple[ArchiveEntry, ...]) -> list[int]:
    return [entry.number for entry in entries]


def test_what_exists_is_left_out_and_what_cannot_be_dropped_again_goes_last() -> None:
    key = ForeignKeyOutside(schema_name="shop", table="orders", name="to_user", references="auth.users")
    found = wanted_entries(listing(*LINES), ["public", "public two", "shop"], {"public"}, {"vector"}, [key])
    assert numbers(found.making) == [9, 10, 15, 16, 18]
    assert numbers(found.rights) == [13]
    assert numbers(found.settling) == [11, 12, 19]


def test_of_schemas_that_begin_alike_the_longer_name_is_meant() -> None:
    found = wanted_entries(listing(*LINES), ["public", "public two", "shop"], {"public two"}, set(), [])
    assert 8 in numbers(found.making)
    assert 9 not in numbers(found.making)


def test_line_breaks_in_names_are_listed_as_spaces() -> None:
    entries = listing("1; 2615 1 SCHEMA - a  b postgres", "2; 2606 2 FK CONSTRAINT a  b t key postgres")
    key = ForeignKeyOutside(schema_name="a\r\nb", table="t", name="key", references="x.y")
    assert wanted_entries(entries, ["a\r\nb"], {"a\r\nb"}, set(), [key]).making == ()


TREE = {
    1: ("TABLE shop root me", ()),
    2: ("TABLE shop middle me", (1,)),
    3: ("TABLE shop leaf me", (2,)),
    4: ("TABLE shop other me", (1,)),
    5: ("TABLE ATTACH shop middle me", (1, 2)),
    6: ("TABLE ATTACH shop leaf me", (2, 3)),
    7: ("TABLE ATTACH shop other me", (1, 4)),
    8: ("INDEX shop by_id me", (3,)),
    9: ("VIEW shop of_both me", (3, 4)),
    10: ("VIEW shop of_view me", (11,)),
    11: ("VIEW shop of_leaf me", (3,)),
    12: ("TABLE shop else me", ()),
}


def test_a_table_brings_what_it_needs_and_what_needs_no_table_but_it() -> None:
    missing = [
        ArchiveEntry(number, f"{number}; 0 0 {text}", frozenset(needs)) for number, (text, needs) in TREE.items()
    ]
    for order in (missing, missing[::-1]):
        found = for_tables(order, [TableName("shop", "leaf")], ["me"])
        assert sorted(entry.number for entry in found) == [1, 2, 3, 5, 6, 8, 10, 11]
