"""The demo's database: what an application that runs agents would have, and the same everywhere."""

from tests.conftest import DEMO_DATA, CreateDatabase
from tests.servers import Database, Servers

TABLES = {
    "agent_approvals",
    "AgentApproval",
    "AgentFeedback",
    "AgentQuery",
    "agent_sdk_learning_data",
    "agent_sdk_notifications",
    "agent_training_archive",
    "data_quality_log",
    "agent_states",
    "agent_memories",
}
CONTENT = """
    SELECT md5(string_agg(md5(row::text), '' ORDER BY md5(row::text))) FROM {} AS row
"""


async def names(database: Database, sql: str) -> set[str]:
    return {str(name) for (name,) in await database.fetch(sql)}


async def test_it_has_the_ten_tables(demo_database: Database) -> None:
    found = await names(demo_database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert found == TABLES


async def test_it_has_some_hundred_thousand_rows(demo_database: Database) -> None:
    counts = [await demo_database.value(f'SELECT count(*) FROM "{table}"') for table in TABLES]
    assert min(counts) >= 10_000
    assert sum(counts) >= 300_000


async def test_an_embedding_is_found_by_its_index(demo_database: Database) -> None:
    plan = await demo_database.fetch(
        "EXPLAIN SELECT id FROM agent_memories "
        "ORDER BY embedding <=> (SELECT embedding FROM agent_memories LIMIT 1) LIMIT 5"
    )
    assert any("agent_memories_nearest" in line for (line,) in plan)


async def test_an_update_is_stamped(demo_database: Database) -> None:
    await demo_database.execute("UPDATE agent_states SET version = 2 WHERE agent_key = 'agent-00001'")
    stamped = "SELECT updated_at > now() - interval '1 minute' FROM agent_states WHERE agent_key = 'agent-00001'"
    assert await demo_database.value(stamped)


async def test_the_application_sees_only_its_own_rows(demo_database: Database) -> None:
    async with demo_database.connect() as connection:
        await connection.execute("SET ROLE app_user; SET app.agent_key = 'agent-00007'")
        assert await connection.fetchval("SELECT array_agg(agent_key) FROM agent_states") == ["agent-00007"]


async def test_its_quality_checks_pass(demo_database: Database) -> None:
    assert await names(demo_database, "SELECT passed FROM run_all_quality_checks()") == {"True"}


async def test_it_is_the_same_on_every_server(
    servers: Servers, create_database: CreateDatabase, demo_database: Database
) -> None:
    other = await create_database(await servers.get(16), key="demo", build=DEMO_DATA.read_text())
    for table in ("agent_memories", "agent_sdk_learning_data", "agent_training_archive"):
        sql = CONTENT.format(table)
        assert await other.value(sql) == await demo_database.value(sql), table
