"""Restoring the hostile database into damaged copies of itself: whole, by table, by row."""

import pytest

from jobs.scope import Scope
from tests import hostile
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.end_to_end.test_round_trip import BELONGS_TO_NO_TABLE, fill_views
from tests.round_trip import SMALL_PIECES, Taken, back_up, bring_back
from tests.servers import Database, Server

OURS = ("rowvault",)
SECURED = '"Sch.ema/with ""all"" 100% of=it"."secured.""rows"""'
# A restore leaves no sequence behind the data, though these were.
AHEAD = """
    SELECT setval('identities_always_id_seq', 5), setval('"the ""identity"" sequence"', 30000),
           setval('owned_by_another', 9);
"""


async def build(database: Database) -> None:
    await database.execute(hostile.hard_schema(database.server.major) + BELONGS_TO_NO_TABLE + AHEAD)
    await fill_views(database)


@pytest.fixture(scope="module")
async def backups() -> dict[int, Taken]:
    """One backup of the hostile database of each server, taken when first asked for."""
    return {}


@pytest.fixture
async def before(any_server: Server, create_database: CreateDatabase) -> Database:
    """The hostile database, left alone, to compare with."""
    return await create_database(any_server, key="hostile_restore", build=build)


@pytest.fixture
async def target(any_server: Server, create_database: CreateDatabase) -> Database:
    """A copy of it, to be damaged."""
    return await create_database(any_server, key="hostile_restore", build=build)


@pytest.fixture
async def taken(backups: dict[int, Taken], before: Database) -> Taken:
    major = before.server.major
    if major not in backups:
        backups[major] = await back_up(before, copying=SMALL_PIECES)
    return backups[major]


EVERY_TABLE = """
    SET session_replication_role = replica;
    DO $do$ DECLARE t text; BEGIN
        FOR t IN SELECT oid::regclass::text FROM pg_class
                  WHERE relkind IN ({kinds}) AND oid > 16384 AND relname <> 'triggered'
                    AND relnamespace NOT IN ('pg_toast'::regnamespace, 'pg_catalog'::regnamespace)
                  ORDER BY oid DESC LOOP
            IF to_regclass(t) IS NOT NULL THEN EXECUTE format({statement}, t); END IF;
        END LOOP;
    END $do$;
"""


def on_every_table(statement: str, kinds: str = "'r'") -> str:
    return EVERY_TABLE.format(statement=hostile.literal(statement), kinds=kinds)


DAMAGE = {
    "nothing": "SELECT",
    "rows deleted": on_every_table("DELETE FROM ONLY %s WHERE ctid = ANY (ARRAY['(0,1)', '(0,3)']::tid[])"),
    "truncated": on_every_table("TRUNCATE ONLY %s CASCADE"),
    "dropped": on_every_table("DROP TABLE %s CASCADE", "'r', 'p'"),
    "a sequence set back": "SELECT setval('set_but_not_called', 5)",
    "leaves dropped": 'DROP TABLE "by_list a,b", "..".hash_1, by_range_new CASCADE',
    "roots dropped": "DROP TABLE by_list, by_range CASCADE",
    "children dropped": "DROP TABLE descendant CASCADE",
}


MOST_OF_ALL = ("rows deleted", "dropped")
CASES = [(18, damage) for damage in DAMAGE] + [(major, damage) for major in (15, 16) for damage in MOST_OF_ALL]


@pytest.mark.parametrize(("any_server", "damage"), CASES, indirect=["any_server"])
async def test_everything_comes_back(taken: Taken, before: Database, target: Database, damage: str) -> None:
    await target.execute(DAMAGE[damage])
    await bring_back(taken, target, Scope())
    assert await differences(before, target, ignore_schemas=OURS) == []


# By themselves: partitioned, inherited, self-referring, part of a cycle, referred to, secured, generated, identities.
TABLES = {
    "by_list": "DELETE FROM by_list WHERE v % 2 = 0; UPDATE by_list SET v = v + 100 WHERE v < 4",
    '".."."hash_1"': 'DELETE FROM "..".hash_1',
    "by_range_new": "UPDATE by_range_new SET note = 'changed'",
    "descendant": "INSERT INTO descendant (id) VALUES (9); UPDATE ONLY descendant SET extra = NULL",
    "tree": "UPDATE tree SET parent = NULL; INSERT INTO tree VALUES (9, 1); DELETE FROM tree WHERE id = 2",
    "hen": "UPDATE hen SET egg = 1",
    "egg": "UPDATE egg SET hen = 1",
    "points_at_partitions": "TRUNCATE points_at_partitions",
    "not_valid": "DELETE FROM not_valid",
    "constrained": "UPDATE constrained SET during = NULL; DELETE FROM constrained WHERE id < 0",
    "generated": "UPDATE generated SET base = 7",
    "identities": "DELETE FROM identities",
    "indexed": "UPDATE indexed SET t = 'x'; DELETE FROM indexed WHERE id = 4",
    "large": "UPDATE large SET words = 'x', noise = NULL",
    "every_type": "DELETE FROM every_type WHERE id < 5; UPDATE every_type SET txt = 'x'",
    "no_columns": "TRUNCATE no_columns",
    "no_rows": "INSERT INTO no_rows VALUES (1)",
    "triggered": "ALTER TABLE triggered DISABLE TRIGGER USER; DELETE FROM triggered; {triggers}",
    SECURED: f"DELETE FROM {SECURED}",
    '"names/of \'tables\'"."; DROP TABLE x;"': 'DELETE FROM "names/of \'tables\'"."; DROP TABLE x;"',
}
TRIGGERS = """
    ALTER TABLE triggered ENABLE TRIGGER USER, DISABLE TRIGGER disabled, ENABLE REPLICA TRIGGER "on.replica",
        ENABLE ALWAYS TRIGGER always
"""


@pytest.mark.parametrize("any_server", [15], indirect=True)
async def test_tables_come_back_by_themselves(taken: Taken, before: Database, target: Database) -> None:
    for table, damage in TABLES.items():
        await target.execute("SET session_replication_role = replica;" + damage.format(triggers=TRIGGERS))
        await bring_back(taken, target, Scope((table,)))
    await fill_views(before)
    await fill_views(target)
    assert await differences(before, target, ignore_schemas=OURS) == []


DROPPED = (
    *("by_list", '".."."hash_1"', "by_range", "ancestor", "descendant", "grandchild", "tree", "egg", "every_type"),
    *("not_valid", "constrained", "triggered", SECURED, "indexed"),
)


@pytest.mark.parametrize("any_server", [18], indirect=True)
async def test_dropped_tables_come_back_one_by_one(taken: Taken, before: Database, target: Database) -> None:
    for table in DROPPED:
        await target.execute(f"DROP TABLE IF EXISTS {table} CASCADE")
        await bring_back(taken, target, Scope((table,)))
    assert await differences(before, target, ignore_schemas=OURS) == []


ROWS = [
    ("every_type", {"id": "2"}),
    ("large", {"id": "1"}),
    ("tree", {"id": "2"}),
    ("unlogged", {"id": "1"}),
    ('"by_list a,b"', {"k": "back\\slash", "v": "12"}),
    (SECURED, {"id": "1"}),
]


async def test_rows_come_back_by_their_keys(taken: Taken, before: Database, target: Database) -> None:
    for table, key in ROWS:
        equal = " AND ".join(f"{column} = {hostile.literal(value)}" for column, value in key.items())
        assert await target.execute(f"DELETE FROM {table} WHERE {equal}") == "DELETE 1"
        await bring_back(taken, target, Scope((table,), key))
    assert await differences(before, target, ignore_schemas=OURS) == []
