"""Restoring into databases in use: partitions by hash, publications, servers of another version, disks without room."""

import pytest

from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Source, session
from jobs.postgres.target import read_target
from jobs.restoring.refusals import ROOM, refuse_without_room
from jobs.scope import Scope
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.round_trip import back_up, bring_back, plan_to_bring_back
from tests.servers import Database, Servers

# The hash of an enum value is of its oid, which another database has otherwise: rows find their partitions themselves.
HASHED = """
    CREATE TYPE state AS ENUM ('new', 'paid', 'sent', 'lost');
    CREATE TABLE jobs (id int, state state, PRIMARY KEY (id, state)) PARTITION BY HASH (state);
    CREATE TABLE jobs_0 PARTITION OF jobs FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE jobs_1 PARTITION OF jobs FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
    INSERT INTO jobs SELECT n, (enum_range(NULL::state))[1 + n % 4] FROM generate_series(1, 200) n;
    CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH STATEMENT EXECUTE FUNCTION refuse();
"""


@pytest.fixture
async def hashed(create_database: CreateDatabase) -> Database:
    return await create_database(key="hashed", build=HASHED)


@pytest.fixture
async def before(create_database: CreateDatabase) -> Database:
    return await create_database(key="hashed", build=HASHED)


@pytest.mark.parametrize("damage", ["DELETE FROM jobs WHERE id > 100", "DROP TABLE jobs"])
async def test_partitions_by_the_hash_of_an_enum_come_back_together(
    hashed: Database, before: Database, damage: str
) -> None:
    taken = await back_up(hashed)
    await hashed.execute(damage)
    await bring_back(taken, hashed, Scope(("jobs",)))
    assert await differences(before, hashed, ignore_schemas=["rowvault"]) == []


async def test_one_of_them_alone_is_refused(hashed: Database) -> None:
    taken = await back_up(hashed)
    with pytest.raises(UnsafeTarget, match=r"may belong to another partition of public\.jobs"):
        await plan_to_bring_back(taken, hashed, Scope(("jobs_0",)))
    await hashed.execute("DROP TABLE jobs_0")
    with pytest.raises(UnsafeTarget, match=r"public\.jobs_0 is gone"):
        await plan_to_bring_back(taken, hashed, Scope(("jobs",)))


async def test_a_dropped_table_is_in_no_publication_and_that_is_said(create_database: CreateDatabase) -> None:
    target = await create_database()
    await target.execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (); CREATE PUBLICATION live FOR TABLE t, u"
    )
    taken = await back_up(target)
    present = (await plan_to_bring_back(taken, target, Scope(("t",)))).warnings
    assert "changes of public.t are broadcast by publication live" in present
    await target.execute("DROP TABLE t")
    absent = (await plan_to_bring_back(taken, target, Scope(("t",)))).warnings
    assert any(one.startswith("public.t is in no publication when it is made again") for one in absent)


async def test_of_the_publication_by_which_changes_are_captured_nobody_needs_to_know(
    create_database: CreateDatabase,
) -> None:
    target = await create_database()
    await target.execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (); CREATE PUBLICATION rowvault FOR TABLE t, u"
    )
    taken = await back_up(target)
    for damage in ("DELETE FROM t", "DROP TABLE t"):
        await target.execute(damage)
        warnings = (await plan_to_bring_back(taken, target, Scope(("t",)))).warnings
        assert [one for one in warnings if "publication" in one] == []


PLAIN = """
    CREATE TABLE plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, what text);
    INSERT INTO plain (at, what) SELECT now(), 'row ' || n FROM generate_series(1, 100) n;
    CREATE TABLE gone (id int);
"""


@pytest.mark.parametrize(("of", "into"), [(16, 18), (18, 16)])
async def test_rows_go_into_tables_of_another_version(
    servers: Servers, create_database: CreateDatabase, of: int, into: int
) -> None:
    source, target = [await create_database(await servers.get(major)) for major in (of, into)]
    for database in (source, target):
        await database.execute(PLAIN)
    taken = await back_up(source)
    await target.execute("DELETE FROM plain WHERE id < 50; UPDATE plain SET what = ''")
    for scope in (Scope(("plain",), {"id": "7"}), Scope(("plain",)), Scope()):
        await bring_back(taken, target, scope)
    assert await target.value("SELECT md5(string_agg(p::text, ',' ORDER BY id)) FROM plain p") == await source.value(
        "SELECT md5(string_agg(p::text, ',' ORDER BY id)) FROM plain p"
    )
    await target.execute("DROP TABLE gone")
    if of < into:
        await bring_back(taken, target, Scope(("gone",)))
    else:
        with pytest.raises(UnsafeTarget, match="is PostgreSQL 16, the backup comes from 18"):
            await plan_to_bring_back(taken, target, Scope(("gone",)))


async def test_a_disk_without_room_is_told_beforehand(database: Database) -> None:
    target = Source(database.dsn)
    async with session(target, "test") as connection:
        state = await read_target(connection, ["public"])
    assert state.free_bytes is not None
    refuse_without_room(target, state, round(state.free_bytes / ROOM / 2))
    with pytest.raises(UnsafeTarget, match="MB free, and the restore needs about"):
        refuse_without_room(target, state, round(state.free_bytes / ROOM * 2))
