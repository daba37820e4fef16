"""The right to erasure on real backups: the subject's rows are nowhere any more, and everything else is as it was."""

from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.as_of import opened
from jobs.chains.points import At
from jobs.erase import EraseOptions, erase, resume
from jobs.erasing.checking import check, the_erasure
from jobs.erasing.plan import check_subject
from jobs.erasing.subject import Children, Predicate
from jobs.errors import NotThere, UnsafeTarget
from jobs.history import history
from jobs.postgres.connection import session
from jobs.progress import no_progress
from jobs.removal import remove
from jobs.sync import SyncOptions, sync
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Upload
from storage.erasures import read_erasures
from storage.errors import Corrupt, OutOfSpace
from storage.manifest import Manifest
from storage.repository import OtherSource, Repository
from tests.conftest import CreateDatabase
from tests.erasing import Unreliable, erased, objects_with, plan, require_verified, require_whole
from tests.following import Follower, Lines, comparing, following
from tests.keys import new_key
from tests.manifests import sound
from tests.places import Planter
from tests.round_trip import memory

BUILD = """
    CREATE TABLE people (id int PRIMARY KEY, mail text UNIQUE, note text);
    INSERT INTO people SELECT n, 'p' || n || '@example.org', 'note of person ' || n FROM generate_series(1, 300) n;
    CREATE TABLE parcels (id int PRIMARY KEY, person int REFERENCES people ON DELETE CASCADE, way text);
    INSERT INTO parcels SELECT n, 1 + n % 300, 'way ' || n FROM generate_series(1, 600) n;
    CREATE TABLE scans (id int PRIMARY KEY, parcel int REFERENCES parcels ON DELETE CASCADE, seen text);
    INSERT INTO scans SELECT n, n, 'scan ' || n FROM generate_series(1, 600) n;
    CREATE TABLE odd ("k=1" text, "K 2" int, mail text, PRIMARY KEY ("K 2", "k=1"));
    INSERT INTO odd VALUES (E'tab\there', 1, 'odd@example.org'), (E'tab\there', 2, 'even@example.org'),
                           ('\\N', 1, 'null@example.org'), ('', 1, 'empty@example.org');
    CREATE TABLE days (day date, n int, mail text, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
    CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE days_rest PARTITION OF days DEFAULT;
    INSERT INTO days SELECT '2025-12-01'::date + n, n, 'day' || n || '@example.org' FROM generate_series(1, 60) n;
    CREATE TABLE staff (id int PRIMARY KEY, boss int REFERENCES staff ON DELETE CASCADE, name text);
    INSERT INTO staff VALUES (1, NULL, 'one'), (2, 1, 'two'), (3, 2, 'three'), (4, 3, 'four'), (5, 1, 'five');
    CREATE TABLE keyless (mail text, v int); INSERT INTO keyless VALUES ('a@example.org', 1), ('b@example.org', 2);
    CREATE TABLE documents (id int PRIMARY KEY, body jsonb);
    INSERT INTO documents SELECT n, jsonb_build_object('who', jsonb_build_object('mail', 'd' || n || '@example.org'))
      FROM generate_series(1, 50) n;
"""
BEFORE = b"note of person 7\n", b"p7@example.org", b"moved7@example.org", b"note of person 7!"


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    """A database whose changes are captured, with its first full backup."""
    made = following(await create_database(key="erase", build=BUILD))
    await made.begin()
    return made


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


def without(lines: Lines, table: str, *starts: bytes) -> Lines:
    """The same without the rows that begin so."""
    return lines | {table: [line for line in lines[table] if not line.startswith(starts)]}


async def test_a_person_is_gone_from_every_moment_and_everybody_else_is_as_before(follower: Follower) -> None:
    moments = await moments_with_person_7(follower)
    result = await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert result.state == "success"
    assert await objects_with(follower.places, *BEFORE) == []
    for moment, lines in moments:
        found = await follower.backed_up(At(moment))
        assert found == without(lines, "public.people", b"7\t", b"7007\t")
    await follower.require_latest()


async def test_what_points_to_a_person_goes_too_however_deep(follower: Follower) -> None:
    before = await follower.lines()
    moment = await follower.now()
    await follower.change("DELETE FROM people WHERE id = 7")
    parcels = [line.split(b"\t")[0] for line in before["public.parcels"] if line.split(b"\t")[1] == b"7"]
    assert len(parcels) == 2
    await erased(follower, "id", "7", "people", children="cascade")
    found = await follower.backed_up(At(moment))
    expected = without(before, "public.people", b"7\t")
    expected = without(expected, "public.parcels", *(one + b"\t" for one in parcels))
    expected["public.scans"] = [line for line in expected["public.scans"] if line.split(b"\t")[1] not in parcels]
    assert found == expected
    await follower.require_latest()


async def test_what_points_to_a_person_may_lose_the_reference(follower: Follower) -> None:
    before = await follower.lines()
    moment = await follower.now()
    await follower.change("DELETE FROM people WHERE id = 7")
    await erased(follower, "mail", "p7@example.org", "people", children="null")
    found = await follower.backed_up(At(moment))
    parcels = [line.split(b"\t") for line in before["public.parcels"]]
    nulled = sorted(b"\t".join([a, b"\\N" if b == b"7" else b, c]) for a, b, c in parcels)
    assert found == without(before, "public.people", b"7\t") | {"public.parcels": nulled}


@pytest.mark.parametrize(("children", "left"), [("cascade", ["1", "5"]), ("null", ["1", "3", "4", "5"])])
async def test_rows_may_point_to_rows_of_their_own_table(
    follower: Follower, children: Children, left: list[str]
) -> None:
    moment = await follower.now()
    await follower.change("DELETE FROM staff WHERE id = 2")
    await erased(follower, "name", "two", children=children)
    found = (await follower.backed_up(At(moment)))["public.staff"]
    assert [line.decode().split("\t")[0] for line in found] == left
    assert (b"3\t\\N\tthree" in found) == (children == "null")
    await follower.require_latest()


PARTITIONED = """
    CREATE TABLE days ("Day" date, n int, mail text, PRIMARY KEY ("Day", n)) PARTITION BY RANGE ("Day");
    CREATE TABLE days_a PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE days_b PARTITION OF days DEFAULT;
    INSERT INTO days SELECT '2026-01-20'::date + n, n, 'day' || n || '@example.org' FROM generate_series(1, 30) n;
    CREATE TABLE "Kids" (id int PRIMARY KEY, d date, m int, FOREIGN KEY (m, d) REFERENCES days (n, "Day")
                         ON DELETE SET NULL) PARTITION BY HASH (id);
    CREATE TABLE kids0 PARTITION OF "Kids" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE kids1 PARTITION OF "Kids" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO "Kids" SELECT n, "Day", n FROM days;
"""


async def test_references_may_be_of_several_columns_from_partitions_to_partitions(
    create_database: CreateDatabase,
) -> None:
    follower = following(await create_database(key="erase, partitioned", build=PARTITIONED))
    await follower.begin()
    before, moment = await follower.lines(), await follower.now()
    await follower.change("DELETE FROM days WHERE n IN (5, 25)", 'DELETE FROM "Kids" WHERE id = 25')
    await erased(follower, "mail", "day5@example.org", "days", children="null")
    await erased(follower, "mail", "day25@example.org", "days_b", children="cascade")
    found = await follower.backed_up(At(moment))
    gone = {line for name in before for line in {*before[name]} - {*found[name]}}
    assert gone == {
        *(b"2026-01-25\t5\tday5@example.org", b"2026-02-14\t25\tday25@example.org"),
        *(b"5\t2026-01-25\t5", b"25\t2026-02-14\t25"),
    }
    assert [line for name in before for line in {*found[name]} - {*before[name]}] == [b"5\t\\N\t\\N"]
    await follower.require_latest()


async def test_a_person_may_stay_as_a_key_alone(follower: Follower) -> None:
    before = await follower.lines()
    moment = await follower.now()
    await follower.change("UPDATE people SET note = 'a new note' WHERE id = 7", "DELETE FROM people WHERE id = 7")
    await erased(follower, "mail", "p7@example.org", "people", children="anonymise")
    found = await follower.backed_up(At(moment))
    anonymous = sorted([*without(before, "public.people", b"7\t")["public.people"], b"7\t\\N\t\\N"])
    assert found == before | {"public.people": anonymous}
    assert await objects_with(follower.places, b"p7@example.org", b"note of person 7\n", b"a new note") == []


async def test_a_row_that_lives_on_without_its_reference_is_not_erased_with_what_it_pointed_to(
    create_database: CreateDatabase,
) -> None:
    build = BUILD.replace("REFERENCES parcels ON DELETE CASCADE", "REFERENCES parcels ON DELETE SET NULL")
    follower = following(await create_database(key="erase, set null", build=build))
    await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    with pytest.raises(UnsafeTarget, match=r"2 of these rows are still in public\.scans"):
        await erased(follower, "id", "7", "people", children="cascade")
    await erased(follower, "person", "7", "parcels", children="null")
    await erased(follower, "id", "7", "people")
    assert await objects_with(follower.places, b"note of person 7\n") == []
    await follower.require_latest()


async def test_whoever_only_changed_the_value_is_alive(follower: Follower) -> None:
    await follower.change("UPDATE people SET mail = 'new@example.org' WHERE id = 7")
    with pytest.raises(UnsafeTarget, match=r"1 of these rows are still in public\.people"):
        await erased(follower, "mail", "p7@example.org", "people", children="null")


async def test_what_lies_in_two_places_is_counted_once(create_database: CreateDatabase) -> None:
    places = memory(), Repository("other", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    people, parcels = (await plan(follower, Predicate("id", "7", ("people",)), "null")).tables
    assert (people.rows, people.changes, parcels.unlinked) == ({"full": 1}, 1, 2)


async def test_references_are_not_broken_without_being_asked(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 7")
    with pytest.raises(UnsafeTarget, match=r"2 rows and changes of public\.parcels"):
        await erased(follower, "mail", "p7@example.org", "people")


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


async def test_what_a_place_still_holds_that_was_away_is_left_out_until_it_was_gone_through(
    create_database: CreateDatabase,
) -> None:
    away = Unreliable()
    follower = following(await create_database(key="erase", build=BUILD), memory(), Repository("s3", away))
    base = await follower.begin()
    moment, before = await follower.now(), await follower.lines()
    await follower.change("UPDATE documents SET body = '{}' WHERE id = 9", "DELETE FROM documents WHERE id = 9")
    away.fails = True
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    result = await erase(made, follower.places, EraseOptions(), no_progress)
    assert result.state == "warning"
    away.fails = False
    [_, s3] = follower.places
    assert await objects_with([s3], b"d9@example.org")
    alone = replace(follower, places=(s3,))
    assert await alone.backed_up(wanted=base.id) == before
    assert "rowvault erase --resume" in (await follower.take()).warnings[0]
    assert await alone.backed_up(wanted=base.id) == without(before, "public.documents", b"9\t")
    assert await alone.backed_up(At(moment)) == without(before, "public.documents", b"9\t")
    with pytest.raises(UnsafeTarget, match="may still hold rows of erasure"):
        await history([s3], "documents", {"id": "9"})
    [finished] = await resume(follower.places, EraseOptions(), no_progress)
    assert finished.state == "success"
    assert await objects_with(follower.places, b"d9@example.org") == []
    await require_whole(follower.places)
    async with opened([s3], base.id) as found:
        assert (found.manifest.revision, found.erased) == (1, ())
    assert [one.state for place in follower.places for one in await read_erasures(place)] == ["done", "done"]


async def test_that_a_ledger_could_not_be_read_is_said_of_whatever_is_restored(create_database: CreateDatabase) -> None:
    """The copy that an erasure did not reach is all there is on the day when the place that knows of it is away."""
    local, s3 = Unreliable(), Unreliable()
    places = Repository("local", local), Repository("s3", s3)
    follower = following(await create_database(key="erase", build=BUILD), *places)
    base = await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    s3.fails = True
    await erase(await plan(follower, Predicate("id", "9", ("documents",))), places, EraseOptions(), no_progress)
    s3.fails, local.fails = False, True
    for point in (None, At(base.created_at)):
        async with opened(places, base.id, point) as found:
            [warning] = found.warnings
            assert warning.startswith("local could not say what was erased (it does not answer): ")
    told = await history(places, "documents", {"id": "8"})
    assert [note for note in told.notes if note.startswith("local could not say what was erased")]
    local.fails = False
    async with opened(places[::-1], base.id) as found:
        assert [erasure.id for erasure in await read_erasures(places[0])] == list(found.erased)


async def test_an_entry_that_can_be_read_in_no_place_is_missed(create_database: CreateDatabase) -> None:
    away = Unreliable()
    places = Repository("local", MemoryBackend()), Repository("s3", away)
    follower = following(await create_database(key="erase", build=BUILD), *places)
    base = await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    away.fails = True
    await erase(await plan(follower, Predicate("id", "9", ("documents",))), places, EraseOptions(), no_progress)
    away.fails = False
    [name] = [one.name async for one in places[0].backend.list("erasures/")]
    await Planter(places[0].backend).truncate(name)
    with pytest.raises(Corrupt, match="cannot be read"):
        async with opened(places, base.id):
            pass


async def test_a_place_that_was_away_gets_the_revisions_that_another_has(create_database: CreateDatabase) -> None:
    """Sealed again they would be other bytes under the same names, and reconciling would mix them."""
    key, away = new_key(), Unreliable()
    places = Repository("local", MemoryBackend(), key.keyring), Repository("s3", away, key.keyring)
    follower = following(await create_database(key="erase", build=BUILD), *places)
    sealed = replace(follower.options.copying, recipients=key.recipients)
    capture = replace(follower.capture, copying=sealed)
    follower = replace(follower, options=replace(follower.options, copying=sealed), capture=capture)
    await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    away.fails = True
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    await erase(made, places, EraseOptions(sealed), no_progress)
    away.fails = False
    [finished] = await resume(places, EraseOptions(sealed), no_progress)
    assert {one.place for one in finished.revisions} == {"s3"}
    for backup in {one.backup for one in finished.revisions}:
        assert await places[0].stored(backup) == await places[1].stored(backup)
    await sync(places, SyncOptions("read"))
    await require_whole(places)


class Full(MemoryBackend):
    """Has room for so many objects that are written anew."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        if "/r1/" in name:
            self.room -= 1
            if self.room < 0:
                raise OutOfSpace("no room")
        return await super().begin(name, sha256=sha256)


async def test_a_full_disk_is_not_left_full(create_database: CreateDatabase) -> None:
    backend = Full(room=1)
    follower = following(await create_database(key="erase", build=BUILD), Repository("local", backend))
    await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    made = await plan(follower, Predicate("id", "7", ("people",)), "cascade")
    with pytest.raises(OutOfSpace):
        await erase(made, follower.places, EraseOptions(), no_progress)
    await require_whole(follower.places)
    backend.room = 1000
    [finished] = await resume(follower.places, EraseOptions(), no_progress)
    assert finished.state == "success"
    assert await objects_with(follower.places, *BEFORE) == []


async def test_what_is_dated_in_the_future_is_not_passed_by(follower: Follower) -> None:
    await follower.change("DELETE FROM documents WHERE id = 9")
    later = sound("20990102T030405.678Z-full-0a1b2c")
    await later.commit(follower.primary)
    with pytest.raises(UnsafeTarget, match="dated in the future"):
        await plan(follower, Predicate("id", "9", ("documents",)))
    assert await read_erasures(follower.primary) == ()


async def test_what_nobody_can_look_through_for_want_of_its_manifest_stands_in_the_way(follower: Follower) -> None:
    await follower.change("DELETE FROM documents WHERE id = 9")
    taken = sound("20200102T030405.678Z-full-0a1b2c")
    await taken.commit(follower.primary)
    await follower.primary.record_verification(taken.manifest.id, "success", {})
    await follower.primary.backend.delete([str(taken.manifest.name())])
    with pytest.raises(UnsafeTarget, match=f"the manifest of {taken.manifest.id} is gone from"):
        await plan(follower, Predicate("id", "9", ("documents",)))


async def test_nothing_is_erased_from_places_of_different_databases() -> None:
    one, other = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    await one.bind("1", "shop")
    await other.bind("2", "shop")
    with pytest.raises(OtherSource, match="another place"):
        await resume((one, other), EraseOptions(), no_progress)


async def test_what_is_locked_is_named_and_goes_later(create_database: CreateDatabase) -> None:
    backend, until = Unreliable(), datetime(2030, 1, 1, tzinfo=UTC)
    follower = following(await create_database(key="erase", build=BUILD), Repository("local", backend))
    base = await follower.begin()
    await follower.change("DELETE FROM documents WHERE id = 9")
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    backend.locked_until = until
    result = await erase(made, follower.places, EraseOptions(), no_progress)
    assert (result.state, {one.until for one in result.locked}) == ("warning", {until})
    held = {f"local/{one.object}" for one in result.locked}
    assert set(await objects_with(follower.places, b"d9@example.org")) < held
    assert without(await follower.backed_up(wanted=base.id), "public.documents", b"9\t") == await follower.backed_up(
        wanted=base.id
    )
    [again] = await resume(follower.places, EraseOptions(), no_progress)
    assert (again.state, {f"local/{one.object}" for one in again.locked}) == ("warning", held)
    backend.locked_until = None
    [last] = await resume(follower.places, EraseOptions(), no_progress)
    assert (last.state, last.locked) == ("success", ())
    await require_whole(follower.places)
    assert await objects_with(follower.places, b"d9@example.org") == []


async def test_interrupted_anywhere_every_backup_is_whole_and_it_is_finished(create_database: CreateDatabase) -> None:
    backend = Unreliable()
    follower = following(await create_database(key="erase", build=BUILD), Repository("local", backend))
    await follower.begin()
    await follower.change("UPDATE documents SET body = '{}' WHERE id = 9", "DELETE FROM documents WHERE id = 9")
    made = await plan(follower, Predicate("id", "9", ("documents",)))
    before, killed = backend.snapshot(), 0
    while await _is_killed_after(killed, backend, erase(made, follower.places, EraseOptions(), no_progress)):
        await require_verified(follower.places)
        await resume(follower.places, EraseOptions(), no_progress)
        await require_whole(follower.places)
        there = await objects_with(follower.places, b"d9@example.org")
        assert bool(there) == (not await read_erasures(follower.primary))
        backend.restore(before)
        killed += 1
    assert killed > 20
    await require_whole(follower.places)


async def _is_killed_after(writes: int, backend: Unreliable, work: Awaitable[object]) -> bool:
    """Do the work, as a process that is no more after so many writes."""
    backend.writes_left = writes
    try:
        await work
    except ConnectionAbortedError:
        return True
    finally:
        backend.writes_left = None
    return False


async def test_a_damaged_backup_is_in_the_way_and_what_helps_is_said(follower: Follower) -> None:
    [base] = (await follower.primary.catalogue()).entries
    await follower.change("UPDATE people SET mail = 'moved7@example.org' WHERE id = 7")
    await follower.change("DELETE FROM people WHERE id = 7")
    await Planter(follower.primary.backend).flip(await people_of(follower.primary, base.id))
    with pytest.raises(Corrupt, match="people") as raised:
        await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert raised.value.hint.endswith(f"goes with: rowvault prune {base.id}")
    assert await read_erasures(follower.primary) == ()
    await follower.full()
    await remove(follower.places, [base.id])
    with pytest.raises(NotThere, match="no backup has a row"):
        await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert await objects_with(follower.places, *BEFORE) == []


async def test_damage_is_named_at_once_and_what_another_place_has_whole_is_told_apart(
    create_database: CreateDatabase,
) -> None:
    places = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    first, second, third = await follower.begin(), await follower.full(), await follower.full()
    await follower.change("DELETE FROM people WHERE id = 7")
    for place, backups in ((places[0], (first, second)), (places[1], (first,))):
        for backup in backups:
            await Planter(place.backend).flip(await people_of(place, backup.id))
    for place in places:
        await Planter(place.backend).truncate(await place.find(third.id))
    with pytest.raises(Corrupt, match="nothing was erased") as raised:
        await plan(follower, Predicate("id", "7", ("people",)), "cascade")
    assert raised.value.hint.endswith(f"rowvault prune {third.id}")
    await remove(places, [third.id])
    with pytest.raises(Corrupt, match="nothing was erased") as raised:
        await plan(follower, Predicate("id", "7", ("people",)), "cascade")
    assert first.id in raised.value.message
    assert second.id in raised.value.message
    assert raised.value.hint.startswith("rowvault sync --check read")
    assert raised.value.hint.endswith(f"rowvault prune {first.id}")
    await remove(places, [first.id])
    await sync(places, SyncOptions("read"))
    await erased(follower, "id", "7", "people", children="cascade")
    assert await objects_with(places, *BEFORE) == []


async def test_where_it_cannot_be_told_whether_anything_is_left_that_is_what_is_said(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 7")
    done = await erased(follower, "id", "7", "people", children="cascade")
    newest = (await follower.primary.catalogue()).entries[0]
    await Planter(follower.primary.backend).truncate(newest.manifest)
    erasure = await the_erasure(follower.places, done.id)
    with pytest.raises(Corrupt, match="whether anything is left cannot be told: ") as raised:
        await check(follower.places, erasure, no_progress)
    assert newest.id in raised.value.message


async def test_damage_of_the_newest_backup_in_one_place_is_told_as_any_other(create_database: CreateDatabase) -> None:
    places = memory(), Repository("other", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    full = await follower.begin()
    await Planter(places[1].backend).truncate(await places[1].find(full.id))
    async with session(follower.source, "erase") as connection:
        with pytest.raises(Corrupt, match="nothing was erased") as raised:
            await check_subject(connection, places, Predicate("id", "7", ("people",)), None)
    assert raised.value.hint.startswith("rowvault sync --check read")


async def people_of(place: Repository, backup_id: str) -> str:
    [name] = [one.name async for one in place.objects(backup_id) if "/data/public/people/" in one.name]
    return name


async def test_damage_of_other_tables_is_not_in_the_way(follower: Follower) -> None:
    made = await archive(follower.places, ArchiveOptions(formats=("csv",)))
    assert made is not None
    await follower.change("DELETE FROM people WHERE id = 7")
    planter = Planter(follower.primary.backend)
    damaged = [one.name async for one in planter.backend.list() if "/data/public/scans/" in one.name]
    for name in damaged:
        await planter.flip(name)
    made_plan = await plan(follower, Predicate("mail", "p7@example.org", ("people",)), "null")
    assert {"scans" in one for one in made_plan.not_looked_through} == {True}
    result = await erase(made_plan, follower.places, EraseOptions(), no_progress)
    assert result.state == "success"
    [note] = result.notes
    assert note.startswith(f"{made.id} in memory: its exports could not be made again: ")
    for name in damaged:
        await planter.flip(name)
    assert await objects_with(follower.places, b"p7@example.org") == []


async def test_what_turns_out_to_be_damaged_does_not_keep_the_rest_from_being_erased(follower: Follower) -> None:
    [first, second] = (await follower.primary.catalogue()).entries[-1].id, (await follower.full()).id
    await follower.change("DELETE FROM people WHERE id = 7")
    made = await plan(follower, Predicate("mail", "p7@example.org", ("people",)), "null")
    await Planter(follower.primary.backend).flip(await people_of(follower.primary, first))
    result = await erase(made, follower.places, EraseOptions(), no_progress)
    assert (result.state, [one.backup for one in result.damaged]) == ("warning", [first])
    assert second in {one.backup for one in result.revisions}
    [again] = await resume(follower.places, EraseOptions(), no_progress)
    assert (again.state, again.damaged) == ("warning", result.damaged)
    await remove(follower.places, [first])
    [last] = await resume(follower.places, EraseOptions(), no_progress)
    assert (last.state, last.damaged) == ("success", ())
    assert await objects_with(follower.places, b"p7@example.org") == []


@pytest.mark.parametrize("mended", [False, True])
async def test_a_damaged_copy_gets_the_revision_of_the_place_that_has_it_whole(
    create_database: CreateDatabase, mended: bool
) -> None:
    places = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    follower = following(await create_database(key="erase", build=BUILD), *places)
    base = await follower.begin()
    await follower.change("DELETE FROM people WHERE id = 7")
    made = await plan(follower, Predicate("mail", "p7@example.org", ("people",)), "null")
    await Planter(places[0].backend).flip(await people_of(places[0], base.id))
    result = await erase(made, places, EraseOptions(), no_progress)
    assert (result.state, [(one.place, one.backup) for one in result.damaged]) == ("warning", [("local", base.id)])
    if mended:
        await sync(places, SyncOptions("read"))
    [last] = await resume(places, EraseOptions(), no_progress)
    assert (last.state, last.damaged) == ("success", ())
    assert await objects_with(places, b"p7@example.org") == []
    await require_whole(places)
