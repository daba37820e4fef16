"""Restoring into a database in use as a role that is no superuser: what it can do, and what it is told beforehand."""

import pytest

from jobs.errors import UnsafeTarget
from jobs.postgres.connection import Source
from jobs.scope import Scope
from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.round_trip import back_up, bring_back, plan_to_bring_back
from tests.servers import Database

PASSWORD = "for tests"
OWNERS = {"like_supabase": "BYPASSRLS CREATEDB CREATEROLE", "plain_owner": ""}
ROLES = "".join(
    f"""
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
            CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' {options};
        END IF;
    END $$;
    """
    for role, options in {**OWNERS, "somebody_else": ""}.items()
)
# As an application on Supabase has it: tables of its own, and users in a schema that is not its own.
APPLICATION = """
    CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY);
    INSERT INTO auth.users SELECT generate_series(1, 20);
    CREATE SCHEMA app AUTHORIZATION {role};
    GRANT USAGE ON SCHEMA auth TO {role}; GRANT SELECT, REFERENCES ON auth.users TO {role};
    SET ROLE {role};
    CREATE TYPE app.mood AS ENUM ('good', 'bad');
    CREATE FUNCTION app.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
    CREATE TABLE app.profiles (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int NOT NULL REFERENCES auth.users, mood app.mood
    );
    CREATE TABLE app.notes (
        id bigserial PRIMARY KEY, profile int REFERENCES app.profiles ON DELETE CASCADE, body text,
        size int GENERATED ALWAYS AS (length(body)) STORED
    );
    CREATE TABLE app.log (at int, what text) PARTITION BY RANGE (at);
    CREATE TABLE app.log_old PARTITION OF app.log FOR VALUES FROM (0) TO (100);
    CREATE TABLE app.log_new PARTITION OF app.log FOR VALUES FROM (100) TO (200);
    INSERT INTO app.profiles (owner, mood) SELECT n, 'good' FROM generate_series(1, 20) n;
    INSERT INTO app.notes (profile, body) SELECT 1 + n % 20, 'note ' || n FROM generate_series(1, 300) n;
    INSERT INTO app.log SELECT n, 'event ' || n FROM generate_series(0, 199) n;
    CREATE SEQUENCE app.log_at OWNED BY app.log.at; SELECT setval('app.log_at', 199);
    ALTER TABLE app.log ALTER at SET DEFAULT nextval('app.log_at');
    ALTER TABLE app.log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON app.notes FOR EACH ROW EXECUTE FUNCTION app.refuse();
    ALTER TABLE app.notes ENABLE ALWAYS TRIGGER refuse;
    CREATE INDEX ON app.notes (lower(body)); CREATE VIEW app.seen AS SELECT id FROM app.notes;
    ALTER TABLE app.profiles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON app.profiles USING (owner = 1); CREATE POLICY own ON app.notes USING (profile = 1);
    GRANT SELECT (id, body) ON app.notes TO PUBLIC;
    RESET ROLE;
"""
QUIET = "SET session_replication_role = replica; ALTER TABLE app.notes DISABLE TRIGGER refuse;"
LOUD = "ALTER TABLE app.notes ENABLE ALWAYS TRIGGER refuse;"
DAMAGE = {
    "rows": f"""
        {QUIET} DELETE FROM app.notes WHERE id < 100; UPDATE app.profiles SET mood = 'bad'; DELETE FROM app.log; {LOUD}
    """,
    "tables": "DROP TABLE app.notes, app.profiles, app.log_new CASCADE",
}


@pytest.fixture(params=OWNERS)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def before(create_database: CreateDatabase, role: str) -> Database:
    return await create_database(key=f"owned_by_{role}", build=ROLES + APPLICATION.format(role=role))


@pytest.fixture
async def target(create_database: CreateDatabase, role: str) -> Database:
    return await create_database(key=f"owned_by_{role}", build=ROLES + APPLICATION.format(role=role))


def as_role(target: Database, role: str) -> Source:
    return Source(target.as_role(role, PASSWORD))


@pytest.mark.parametrize("damage", DAMAGE)
async def test_an_owner_brings_back_its_tables(before: Database, target: Database, role: str, damage: str) -> None:
    taken = await back_up(before, ["app.*"])
    await target.execute(DAMAGE[damage])
    result = await bring_back(taken, as_role(target, role))
    assert await differences(before, target, ignore_schemas=["rowvault"]) == []
    assert [check for check in result.checks if check.state != "ok"] == []


async def test_an_owner_brings_back_a_row_that_is_hidden(before: Database, target: Database, role: str) -> None:
    taken = await back_up(before, ["app.*"])
    await target.execute(f"{QUIET} DELETE FROM app.notes WHERE id = 7; {LOUD}")
    await bring_back(taken, as_role(target, role), Scope(("app.notes",), {"id": "7"}))
    assert await differences(before, target, ignore_schemas=["rowvault"]) == []


async def test_a_table_of_somebody_else_is_refused_beforehand(before: Database, target: Database, role: str) -> None:
    taken = await back_up(before, ["app.*"])
    await target.execute("ALTER TABLE app.notes OWNER TO somebody_else")
    with pytest.raises(UnsafeTarget, match=r"does not own app\.notes"):
        await plan_to_bring_back(taken, as_role(target, role), Scope(("app.notes",)))


async def test_an_owner_out_of_reach_is_told_beforehand(before: Database, target: Database, role: str) -> None:
    await before.execute("ALTER TABLE app.log_new OWNER TO somebody_else")
    taken = await back_up(before, ["app.*"])
    await target.execute("DROP TABLE app.log_new")
    with pytest.raises(UnsafeTarget, match="may not give what is made again to its owners: somebody_else"):
        await plan_to_bring_back(taken, as_role(target, role), Scope(("app.log_new",)))


async def test_an_owner_needs_no_right_to_the_schema_of_the_role_that_backs_up(
    before: Database, target: Database, role: str
) -> None:
    """Beside the source it is there, as deploy/role.sql makes it."""
    taken = await back_up(before, ["app.*"])
    await target.execute(f"CREATE SCHEMA rowvault AUTHORIZATION somebody_else; {DAMAGE['rows']}")
    await bring_back(taken, as_role(target, role))
    assert await differences(before, target, ignore_schemas=["rowvault"]) == []
