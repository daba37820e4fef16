"""What was backed up comes back: every row and every definition, whatever its names and values."""

from hypothesis import HealthCheck, given, settings

from tests import hostile
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.round_trip import SMALL_PIECES, back_up, bring_back
from tests.servers import Database, Server

OURS = ("rowvault",)
# Schemas without a chosen table, or anything that one needs, are not covered, and reported so.
ANCHORS = """
    DO $$ DECLARE s text; BEGIN
        FOR s IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
            EXECUTE format('CREATE TABLE %I."there is always one" (n int)', s);
        END LOOP;
    END $$;
"""
# A schema without tables is reported as not covered; rights of objects to come in any schema are the database's.
BELONGS_TO_NO_TABLE = """
    DROP SCHEMA "empty";
    ALTER DEFAULT PRIVILEGES FOR ROLE "hostile ""owner"".1" GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
"""


async def fill_views(source: Database) -> None:
    """A restore fills every materialized view, also one that never was."""
    for (view,) in await source.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm' ORDER BY pg_class.oid"
    ):
        await source.execute(f"REFRESH MATERIALIZED VIEW {view}")


async def test_the_hard_schema_comes_back_equal(any_server: Server, create_database: CreateDatabase) -> None:
    source = await create_database(any_server, key="hostile", build=hostile.hard_schema(any_server.major))
    target = await create_database(any_server)
    await source.execute(BELONGS_TO_NO_TABLE)
    await bring_back(await back_up(source, copying=SMALL_PIECES), target)
    await fill_views(source)
    assert await differences(source, target, ignore_schemas=OURS) == []


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sql=hostile.databases())
async def test_any_hostile_database_comes_back_equal(
    any_server: Server, create_database: CreateDatabase, sql: str
) -> None:
    source, target = await create_database(any_server), await create_database(any_server)
    await source.execute(sql + ANCHORS)
    await bring_back(await back_up(source, copying=SMALL_PIECES), target)
    assert await differences(source, target, ignore_schemas=OURS) == []
    await any_server.drop(source)
    await any_server.drop(target)
