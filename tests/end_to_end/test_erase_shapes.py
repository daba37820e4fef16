"""Erasing where tables changed between backups: renamed, made anew, with other columns and types."""

from dataclasses import replace

import pytest

from jobs.erase import EraseOptions, erase, resume
from jobs.erasing.subject import Predicate
from jobs.errors import NotThere, UnsafeTarget
from jobs.postgres.connection import Source
from jobs.progress import no_progress
from jobs.removal import remove
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.scope import Scope
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.erasing import Unreliable, erased, objects_with, plan
from tests.following import Follower, following
from tests.round_trip import memory

BUILD = """
    CREATE TABLE people (id int PRIMARY KEY, mail text NOT NULL, since date, code text);
    INSERT INTO people
    SELECT n, 'p' || n || '@example.org', '2026-01-01'::date + n, 'c' || n FROM generate_series(1, 9) n;
    CREATE TABLE parcels (id int PRIMARY KEY, person int);
    INSERT INTO parcels SELECT n, n FROM generate_series(1, 9) n;
"""
MAIL = b"p7@example.org"


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    made = following(await create_database(key="erase shapes", build=BUILD))
    await made.begin()
    return made


async def test_a_value_is_sought_as_each_type_of_its_column_wrote_it(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 7")
    await follower.database.execute("ALTER TABLE people ALTER since TYPE timestamp")
    await follower.full()
    await erased(follower, "since", "2026-01-08", "people")
    assert await objects_with(follower.places, MAIL) == []


async def test_where_a_column_was_renamed_the_value_under_the_other_name_is_told(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 7")
    await follower.database.execute("ALTER TABLE people RENAME mail TO email")
    await follower.full()
    with pytest.raises(NotThere, match="no backup has a row") as raised:
        await erased(follower, "email", "p7@example.org", "people")
    assert "public.people.mail" in raised.value.hint
    await erased(follower, "mail", "p7@example.org", "people")
    assert await objects_with(follower.places, MAIL) == []


async def test_a_table_under_two_names_is_one(follower: Follower) -> None:
    await follower.database.execute("ALTER TABLE people RENAME TO persons")
    await follower.full()
    await follower.change("DELETE FROM persons WHERE id = 7")
    made = await plan(follower, Predicate("mail", "p7@example.org"))
    assert [(str(one.table), sum(one.rows.values())) for one in made.tables] == [("public.persons", 2)]
    assert (await erase(made, follower.places, EraseOptions(), no_progress)).state == "success"
    assert await objects_with(follower.places, MAIL) == []


async def test_what_points_to_a_renamed_table_is_found(follower: Follower) -> None:
    await follower.database.execute("ALTER TABLE people RENAME TO persons")
    await follower.database.execute("ALTER TABLE parcels ADD FOREIGN KEY (person) REFERENCES persons ON DELETE CASCADE")
    await follower.full()
    await follower.change("DELETE FROM persons WHERE id = 7")
    with pytest.raises(UnsafeTarget, match=r"rows and changes of public\.parcels"):
        await erased(follower, "mail", "p7@example.org", "people")
    await erased(follower, "mail", "p7@example.org", "people", children="cascade")
    await follower.require_latest()


async def test_an_anonymised_row_fits_every_shape_that_its_table_had(
    follower: Follower, create_database: CreateDatabase
) -> None:
    await follower.database.execute("ALTER TABLE parcels ADD FOREIGN KEY (person) REFERENCES people ON DELETE CASCADE")
    before = await follower.full()
    await follower.database.execute("ALTER TABLE people ALTER mail DROP NOT NULL, ALTER code SET NOT NULL")
    await follower.database.execute("ALTER TABLE people RENAME TO persons")
    after = await follower.full()
    await follower.change("DELETE FROM persons WHERE id = 7")
    await erased(follower, "mail", "p7@example.org", "people", children="anonymise")
    assert await objects_with(follower.places, MAIL) == []
    for full in (before, after):
        target = Source((await create_database()).dsn)
        stored = await follower.primary.manifest(full.id)
        planned = await plan_restore(follower.places, stored, target, Scope(), RestoreOptions())
        assert (await restore(planned, follower.places, RestoreOptions())).as_it_should_be


async def test_a_copy_that_has_older_tables_of_that_name_is_gone_through(create_database: CreateDatabase) -> None:
    """The place that knows of the erasure has nothing from when the table was another one."""
    away = Unreliable()
    places = memory(), Repository("s3", away)
    follower = following(await create_database(key="erase shapes", build=BUILD), *places)
    old = await follower.begin()
    for statement in ("CREATE TABLE new (LIKE people INCLUDING ALL)", "INSERT INTO new SELECT * FROM people",
                      "DROP TABLE people", "ALTER TABLE new RENAME TO people"):  # fmt: skip
        await follower.database.execute(statement)
    assert (await follower.take()).kind == "full"
    await follower.change("DELETE FROM people WHERE id = 7")
    away.fails = True
    await remove(places[:1], [old.id])
    await erase(await plan(follower, Predicate("mail", "p7@example.org")), places, EraseOptions(), no_progress)
    away.fails = False
    for only in (replace(follower, places=places), replace(follower, places=(places[1],))):
        lines = await only.backed_up(wanted=old.id)
        assert len(lines["public.people"]) == 9 - (only.places == places)
    [finished] = await resume(places, EraseOptions(), no_progress)
    assert finished.state == "success"
    assert await objects_with(places, MAIL) == []


async def test_what_was_text_before_it_was_json_is_no_document(follower: Follower) -> None:
    await follower.change("UPDATE people SET code = 'not json: \"p7@example.org\"' WHERE id = 8")
    await follower.change('UPDATE people SET code = \'{"mail": "p7@example.org"}\' WHERE id = 7')
    await follower.full()
    await follower.database.execute("UPDATE people SET code = '{}' WHERE id <> 7")
    await follower.database.execute("ALTER TABLE people ALTER code TYPE jsonb USING code::jsonb")
    await follower.full()
    await follower.database.execute("DELETE FROM people WHERE id = 7")
    await erased(follower, "code", "p7@example.org", "people", path="mail")
    assert await objects_with(follower.places, b"7\tp7@example.org") == []


async def test_a_document_is_sought_as_the_type_that_its_column_had_wrote_it(create_database: CreateDatabase) -> None:
    """A jsonb is written in one way alone, the json that it was before in any."""
    follower = following(await create_database())
    await follower.database.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, data json);"
        r"""INSERT INTO notes VALUES (1, '{"to": "p7\u0040example.org"}')"""
    )
    await follower.begin()
    await follower.change("DELETE FROM notes")
    await follower.database.execute("ALTER TABLE notes ALTER data TYPE jsonb")
    await follower.database.execute("""INSERT INTO notes VALUES (2, '{"to": "p7@example.org"}')""")
    await follower.full()
    await follower.change("DELETE FROM notes")
    await erased(follower, "data", "p7@example.org", "notes", path="to")
    assert await objects_with(follower.places, b"u0040example.org", MAIL) == []


async def test_what_points_to_a_row_for_a_period_goes_with_it(create_database: CreateDatabase) -> None:
    build = """
        CREATE TABLE people (id int4range, valid daterange, mail text, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
        INSERT INTO people SELECT int4range(n, n + 1), '[2026-01-01,2027-01-01)', 'p' || n || '@example.org'
          FROM generate_series(1, 9) n;
        CREATE TABLE stays (n int PRIMARY KEY, person int4range, valid daterange,
                            FOREIGN KEY (person, PERIOD valid) REFERENCES people (id, PERIOD valid));
        INSERT INTO stays SELECT n, int4range(n, n + 1), '[2026-02-01,2026-03-01)' FROM generate_series(1, 9) n;
    """
    follower = following(await create_database(key="erase periods", build=build))
    full = await follower.begin()
    await follower.database.execute("DELETE FROM stays WHERE n = 7")
    await follower.change("DELETE FROM people WHERE mail = 'p7@example.org'")
    with pytest.raises(UnsafeTarget, match=r"rows and changes of public\.stays"):
        await erased(follower, "mail", "p7@example.org")
    await erased(follower, "mail", "p7@example.org", children="cascade")
    lines = await follower.backed_up(wanted=full.id)
    assert (len(lines["public.people"]), len(lines["public.stays"])) == (8, 8)
