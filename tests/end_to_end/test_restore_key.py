"""Restoring single rows: keys of every kind, however they are written, wherever in the table they lie."""

from pathlib import Path

import pytest

from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Source
from jobs.postgres.identifiers import BadName
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.scope import Scope
from storage.errors import Corrupt
from storage.objects import put
from tests.conftest import CreateDatabase
from tests.round_trip import SMALL_PIECES, Taken, back_up, bring_back
from tests.servers import Database

KEYED = """
    CREATE TYPE "Mood.of ""it"" x" AS ENUM ('it''s', E'tab\\there', '\\N');
    CREATE DOMAIN whole AS numeric(10, 0); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
    CREATE TABLE "by=""all"" x" (
        n numeric(20, 0), "c.c" char(3), u uuid, "At=" timestamptz, b bytea, m "Mood.of ""it"" x", w whole, s short,
        v varchar(3), value text, PRIMARY KEY (s, n, "c.c", u, "At=", b, m, w, v)
    );
    INSERT INTO "by=""all"" x"
    SELECT n, 'ab', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-01-01 00:00:00Z', '\\x00ff0a', E'tab\\there', 7,
           E'a\\\\b\\n', 'abc', repeat('x', 100) || n
      FROM generate_series(12345678901234567000, 12345678901234567400) n;
    CREATE TABLE loose (n numeric PRIMARY KEY);
    INSERT INTO loose VALUES (1.00);
    CREATE TABLE paged (id int PRIMARY KEY, filling text);
    INSERT INTO paged SELECT n, repeat('x', 500) FROM generate_series(1, 100) n;
"""
TABLE = '"by=""all"" x"'
KEY = {
    "n": "012345678901234567123", "c.c": "ab", "u": "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",
    "At=": "2026-01-01 05:30:00+05:30", "b": "\\000\\377\\012", "m": "tab\there", "w": "7.0", "s": "a\\b\n", "v": "abc",
}  # fmt: skip


@pytest.fixture
async def keyed(any_database: Database) -> Database:
    await any_database.execute(KEYED)
    return any_database


async def taken_of(database: Database) -> Taken:
    return await back_up(database, copying=SMALL_PIECES)


async def test_a_key_of_many_types_is_found_however_it_is_written(keyed: Database) -> None:
    taken = await taken_of(keyed)
    rows = f"SELECT md5(string_agg(t::text, ',' ORDER BY n)) FROM {TABLE} t"
    before = await keyed.value(rows)
    await keyed.execute(f"UPDATE {TABLE} SET value = 'lost' WHERE n = {KEY['n']}")
    result = await bring_back(taken, keyed, Scope((TABLE,), KEY))
    assert (result.touched[0].updated, result.touched[0].inserted) == (1, 0)
    assert await keyed.value(rows) == before


@pytest.fixture
async def pages(create_database: CreateDatabase) -> Database:
    return await create_database(key="keyed", build=KEYED)


async def test_rows_at_the_ends_of_parts_are_found(pages: Database) -> None:
    taken = await taken_of(pages)
    (paged,) = (table for table in taken.manifest.tables if table.name == "paged")
    assert len(paged.parts) > 2
    of_pages = "SELECT unnest(ARRAY[min(id), max(id)]) FROM paged GROUP BY split_part(ctid::text, ',', 1)"
    ends = [number for (number,) in await pages.fetch(of_pages)]
    await pages.execute("DELETE FROM paged")
    for number in ends[:6]:
        await bring_back(taken, pages, Scope(("paged",), {"id": str(number)}))
    assert await pages.fetch("SELECT id FROM paged ORDER BY id") == [(number,) for number in sorted(ends[:6])]


async def test_a_row_comes_back_where_there_are_no_client_programs(pages: Database, tmp_path: Path) -> None:
    taken = await taken_of(pages)
    await pages.execute("DELETE FROM paged WHERE id = 7")
    options, places = RestoreOptions(pg_bin=tmp_path), [taken.repository]
    plan = await plan_restore(places, taken.manifest, Source(pages.dsn), Scope(("paged",), {"id": "7"}), options)
    assert (await restore(plan, places, options)).touched[0].inserted == 1


@pytest.mark.parametrize(("column", "value"), [("n", "12345678901234567123.4"), ("v", "abcd"), ("c.c", "abcd")])
async def test_a_value_that_a_cast_would_change_is_no_key(pages: Database, column: str, value: str) -> None:
    with pytest.raises(BadName, match=f"--key {column}: the value does not fit its type"):
        await bring_back(await taken_of(pages), pages, Scope((TABLE,), KEY | {column: value}))


async def test_a_key_that_may_look_different_is_refused(pages: Database) -> None:
    with pytest.raises(UnsafeTarget, match="equal values of type numeric"):
        await bring_back(await taken_of(pages), pages, Scope(("loose",), {"n": "1"}))


async def test_a_row_that_was_found_needs_no_part_after_it_and_its_own_must_be_whole(pages: Database) -> None:
    await pages.execute("INSERT INTO paged SELECT n, repeat('x', 500) FROM generate_series(101, 1000) n")
    taken = await taken_of(pages)
    await pages.execute("DELETE FROM paged WHERE id = 1")
    (paged,) = [table for table in taken.manifest.tables if table.name == "paged"]
    await taken.repository.backend.delete([stored.name for stored in paged.parts[-1].objects])
    await bring_back(taken, pages, Scope(("paged",), {"id": "1"}))
    assert await pages.value("SELECT length(filling) FROM paged WHERE id = 1") == 500
    await pages.execute("DELETE FROM paged WHERE id = 1")
    await put(taken.repository.backend, paged.parts[0].objects[0].name, b"rot")
    with pytest.raises(Corrupt):
        await bring_back(taken, pages, Scope(("paged",), {"id": "1"}))
    assert await pages.value("SELECT count(*) FROM paged WHERE id = 1") == 0
