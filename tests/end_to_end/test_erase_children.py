"""Erasing what others point to: it takes them along, loses the reference, or is refused."""

import pytest

from jobs.chains.points import At
from jobs.erasing.subject import Children
from jobs.errors import UnsafeTarget
from tests.conftest import CreateDatabase
from tests.erasing import BUILD, erased, followed, objects_with, without
from tests.following import Follower, following


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    return await followed(create_database)


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


async def test_references_are_not_broken_without_being_asked(follower: Follower) -> None:
    await follower.change("DELETE FROM people WHERE id = 7")
    with pytest.raises(UnsafeTarget, match=r"2 rows and changes of public\.parcels"):
        await erased(follower, "mail", "p7@example.org", "people")
