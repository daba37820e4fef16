"""The right to erasure on real backups: the subject's rows are nowhere any more, and everything else is as it was."""

from datetime import datetime

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.chains.points import At
from jobs.erase import EraseOptions, resume
from jobs.errors import UnsafeTarget
from jobs.progress import no_progress
from storage.manifest import Manifest
from tests.conftest import CreateDatabase
from tests.erasing import BEFORE, BUILD, erased, followed, objects_with, without
from tests.following import Follower, Lines, comparing, following


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    return await followed(create_database)


async def moments_with_person_7(follower: Follower) -> list[tuple[datetime, Lines]]:
    """Let a person live, change and go, through windows and another full backup; moments, and what was there then."""
    moments = []
    for statement in (
        "DELETE FROM parcels WHERE person = 7",
        "UPDATE people SET note = note || '!' WHERE id IN (7, 8)",
        "UPDATE people SET mail = 'moved7@example.org' WHERE id = 7",
        "UPDATE people SET id = 7007 WHERE id = 7",
        "INSERT INTO people VALUES (1001, 'other@example.org', 'other')",
    ):
        await follower.database.execute(statement)
        moments.append((await follower.now(), await follower.lines()))
        await follower.window()
    await follower.full()
    await follower.database.execute("DELETE FROM people WHERE id = 7007")
    moments.append((await follower.now(), await follower.lines()))
    return moments


async def test_a_person_is_gone_from_every_moment_and_everybody_else_is_as_before(follower: Follower) -> None:
    moments = await moments_with_person_7(follower)
    result = await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert result.state == "success"
    assert await objects_with(follower.places, *BEFORE) == []
    for moment, lines in moments:
        found = await follower.backed_up(At(moment))
        assert found == without(lines, "public.people", b"7\t", b"7007\t")
    await follower.require_latest()


async def test_whoever_only_changed_the_value_is_alive(follower: Follower) -> None:
    await follower.change("UPDATE people SET mail = 'new@example.org' WHERE id = 7")
    with pytest.raises(UnsafeTarget, match=r"1 of these rows are still in public\.people"):
        await erased(follower, "mail", "p7@example.org", "people", children="null")


async def test_keys_may_be_of_several_columns_and_hold_anything(follower: Follower) -> None:
    before = await follower.lines()
    moment = await follower.now()
    for where, value in (("k=1", "tab\there"), ("k=1", "\\N"), ("mail", "empty@example.org")):
        key = value if where == "k=1" else ""
        await follower.database.execute('UPDATE odd SET mail = \'x\' WHERE "k=1" = $1 AND "K 2" = 1', key)
        await follower.database.execute('DELETE FROM odd WHERE "k=1" = $1', key)
        await erased(follower, where, value, "odd")
    assert await follower.backed_up(At(moment)) == before | {"public.odd": []}
    await follower.require_latest()


async def test_a_row_is_followed_into_another_partition(follower: Follower) -> None:
    before = await follower.lines()
    moment = await follower.now()
    await follower.change("UPDATE days SET day = '2026-06-01' WHERE n = 5", "DELETE FROM days WHERE n = 5")
    await erased(follower, "mail", "day5@example.org", "days")
    assert await follower.backed_up(At(moment)) == without(before, "public.days_rest", b"2025-12-06\t5\t")
    assert await objects_with(follower.places, b"day5@example.org") == []
    await follower.require_latest()


async def test_rows_of_a_table_without_a_key_are_known_by_the_value_alone(follower: Follower) -> None:
    before = await follower.lines()
    await follower.change("INSERT INTO keyless VALUES ('a@example.org', 3)")
    await follower.change("DELETE FROM keyless WHERE mail = 'a@example.org'")
    await erased(follower, "mail", "a@example.org", "keyless")
    assert await objects_with(follower.places, b"a@example.org\t") == []
    base = (await follower.primary.catalogue()).entries[-1].id
    assert await follower.backed_up(wanted=base) == before | {"public.keyless": [b"b@example.org\t2"]}
    await follower.require_latest()


async def test_a_person_is_found_in_a_document(follower: Follower) -> None:
    before = await follower.lines()
    moment = await follower.now()
    await follower.change("""UPDATE documents SET body = '{"who": null}' WHERE id = 9""")
    await follower.change("DELETE FROM documents WHERE id = 9")
    await erased(follower, "body", "d9@example.org", path="who.mail")
    assert await objects_with(follower.places, b"d9@example.org") == []
    assert await follower.backed_up(At(moment)) == without(before, "public.documents", b"9\t")
    await follower.require_latest()


async def test_whoever_signs_up_again_stays(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 8", "DELETE FROM parcels WHERE person IS NULL")
    await erased(follower, "mail", "p8@example.org", "people", children="null")
    await follower.change("INSERT INTO people VALUES (8, 'p8@example.org', 'again')")
    moment, lines = await follower.now(), await follower.lines()
    await follower.change("UPDATE people SET note = 'and again' WHERE id = 8")
    assert await follower.backed_up(At(moment)) == lines
    assert await resume(follower.places, EraseOptions(), no_progress) == []
    await follower.require_latest()


async def test_whoever_has_now_what_a_person_had_before_stays(create_database: CreateDatabase) -> None:
    """What others point to tells of nobody any more once it was given up."""
    follower = following(await create_database())
    await follower.database.execute(
        "CREATE TABLE people (id int PRIMARY KEY, mail text UNIQUE);"
        "CREATE TABLE posts (id int PRIMARY KEY, author text REFERENCES people (mail) ON UPDATE CASCADE);"
        "INSERT INTO people VALUES (7, 'first@example.org'), (8, 'p8@example.org')"
    )
    await follower.begin()
    moment = await follower.now()
    await follower.change(
        "UPDATE people SET mail = 'moved7@example.org' WHERE id = 7",
        "UPDATE people SET mail = 'first@example.org' WHERE id = 8",
    )
    await follower.full()
    await follower.change("DELETE FROM people WHERE id = 7")
    await erased(follower, "mail", "moved7@example.org", "people")
    assert await objects_with(follower.places, b"moved7@example.org", b"7\tfirst@example.org") == []
    assert (await follower.backed_up(At(moment)))["public.people"] == [b"8\tp8@example.org"]
    await follower.require_latest()


async def test_archives_are_erased_from_and_kept_backups_too(follower: Follower) -> None:
    before = await follower.lines()
    made = await archive(follower.places, ArchiveOptions(keep=True))
    assert made is not None
    await follower.change("DELETE FROM documents WHERE id = 9")
    result = await erased(follower, "id", "9", "documents")
    assert made.id in {one.backup for one in result.revisions}
    assert await objects_with(follower.places, b"d9@example.org") == []
    expected = without(before, "public.documents", b"9\t")
    assert await follower.backed_up(wanted=made.id) == expected
    again = await archive(follower.places, ArchiveOptions())
    assert again is not None
    assert await follower.backed_up(wanted=again.id) == await follower.lines()


async def test_a_table_that_was_renamed_is_the_same(follower: Follower) -> None:
    before, moment = await follower.lines(), await follower.now()
    await follower.change("UPDATE people SET note = 'last' WHERE id = 7")
    await follower.database.execute("ALTER TABLE people RENAME TO persons")
    assert (await follower.take()).kind == "full"
    with pytest.raises(UnsafeTarget, match="1 of these rows are still in"):
        await erased(follower, "mail", "p7@example.org", "people", children="cascade")
    await follower.change("DELETE FROM persons WHERE id = 7")
    await erased(follower, "mail", "p7@example.org", "people", children="cascade")
    assert await objects_with(follower.places, b"p7@example.org") == []
    found = await follower.backed_up(At(moment))
    assert found["public.people"] == without(before, "public.people", b"7\t")["public.people"]
    await follower.require_latest()


async def test_two_erasures_are_two_revisions(follower: Follower) -> None:
    before, moment = await follower.lines(), await follower.now()
    await follower.change("DELETE FROM documents WHERE id IN (3, 4)")
    await erased(follower, "id", "3", "documents")
    await erased(follower, "id", "4", "documents")
    base = (await follower.primary.catalogue()).entries[-1].id
    manifest = await follower.primary.manifest(base)
    assert (manifest.revision, len(manifest.erasures)) == (2, 2)
    assert await follower.backed_up(At(moment)) == without(before, "public.documents", b"3\t", b"4\t")


async def test_tables_that_are_compared_go_on_being_compared(create_database: CreateDatabase) -> None:
    follower = comparing(await create_database(key="erase", build=BUILD))
    await follower.begin()
    states = [(await follower.primary.catalogue()).entries[0].id], [await follower.lines()]
    for statements in (
        ["UPDATE people SET note = 'compared' WHERE id = 7", "INSERT INTO keyless VALUES ('c@example.org', 3)"],
        ["UPDATE people SET id = 7007 WHERE id = 7"],
        ["INSERT INTO people VALUES (400, 'p400@example.org', '')"],
        ["DELETE FROM people WHERE id = 7007", "DELETE FROM keyless WHERE v = 1"],
    ):
        states[0].append((await follower.compare("SELECT 1", "DELETE FROM parcels WHERE person = 7", *statements)).id)
        states[1].append(await follower.lines())
    await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert await objects_with(follower.places, b"p7@example.org", b"note of person 7\n") == []
    await erased(follower, "mail", "a@example.org", "keyless")
    assert await objects_with(follower.places, b"a@example.org\t1") == []
    for backup, lines in zip(*states, strict=True):
        found = await follower.backed_up(wanted=backup)
        expected = without(lines, "public.people", b"7\t", b"7007\t")
        assert found["public.people"] == expected["public.people"]
        assert found["public.keyless"] == without(lines, "public.keyless", b"a@")["public.keyless"]
        manifest = await follower.primary.backup(backup)
        tables = manifest.tables if isinstance(manifest, Manifest) else manifest.beside.tables  # type: ignore[union-attr]
        assert {table.name: table.rows for table in tables} == {
            name.removeprefix("public."): len(rows) for name, rows in found.items()
        }
    difference = await follower.compare("INSERT INTO people VALUES (7, 'p7@example.org', 'again')")
    assert difference.beside.previous is not None
    await follower.require_latest()
