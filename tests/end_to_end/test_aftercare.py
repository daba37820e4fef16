"""What a restore looks at when its rows are in: views, row security, indexes, keys, the application's checks."""

import pytest

from jobs.postgres.connection import Source
from jobs.progress import no_progress
from jobs.restore import RestoreOptions, plan_restore, restore
from jobs.restoring.aftercare import Statement
from jobs.results import RestoreResult
from jobs.scope import Scope
from tests.conftest import CreateDatabase
from tests.round_trip import Taken, back_up
from tests.servers import Database

BANK = """
    CREATE TABLE accounts (id int PRIMARY KEY, owner text, amount int);
    CREATE TABLE moves (id int PRIMARY KEY, account int REFERENCES accounts, amount int);
    INSERT INTO accounts SELECT n, 'o' || n % 3, 0 FROM generate_series(1, 30) n;
    INSERT INTO moves SELECT n, 1 + n % 30, n FROM generate_series(1, 300) n;
    CREATE MATERIALIZED VIEW totals AS SELECT account, sum(amount) FROM moves GROUP BY account;
    CREATE UNIQUE INDEX ON totals (account);
    CREATE MATERIALIZED VIEW largest AS SELECT max(sum) FROM totals;
    ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON accounts USING (owner = current_setting('app.owner', true));
    CREATE FUNCTION run_all_quality_checks() RETURNS TABLE (name text, passed boolean) LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO moves VALUES (-1, 1, 0);
        RETURN QUERY SELECT 'has accounts', count(*) > 0 FROM accounts;
    END $$;
"""


@pytest.fixture
async def bank(create_database: CreateDatabase) -> Database:
    return await create_database(key="bank", build=BANK)


async def brought_back(taken: Taken, target: Database, *statements: Statement) -> RestoreResult:
    options = RestoreOptions(statements=statements)
    plan = await plan_restore([taken.repository], taken.manifest, Source(target.dsn), Scope(), options)
    return await restore(plan, [taken.repository], options, no_progress)


def states(result: RestoreResult) -> dict[str, str]:
    return {check.name: check.state for check in result.checks}


async def test_views_are_refreshed_in_their_order(bank: Database, create_database: CreateDatabase) -> None:
    target = await create_database()
    result = await brought_back(await back_up(bank), target)
    assert result.as_it_should_be
    assert await target.value("SELECT max FROM largest") == await bank.value("SELECT max FROM largest")
    await target.execute("DELETE FROM moves")
    await brought_back(await back_up(bank), target)
    assert await target.value("SELECT count(*) FROM totals") == 30


async def test_a_key_to_a_partitioned_table_is_proved_against_all_of_its_partitions(
    create_database: CreateDatabase,
) -> None:
    source = await create_database()
    await source.execute("""
        CREATE TABLE years (n int PRIMARY KEY, next int REFERENCES years) PARTITION BY RANGE (n);
        CREATE TABLE early PARTITION OF years FOR VALUES FROM (1) TO (10);
        CREATE TABLE late PARTITION OF years FOR VALUES FROM (10) TO (20);
        INSERT INTO years SELECT n, nullif(n + 1, 20) FROM generate_series(1, 19) n;
        CREATE TABLE events (id int PRIMARY KEY, year int REFERENCES years);
        INSERT INTO events SELECT n, n FROM generate_series(1, 19) n;
    """)
    result = await brought_back(await back_up(source), await create_database())
    assert states(result)["foreign keys"] == "ok", result.checks


async def test_the_application_s_checks_run_and_change_nothing(bank: Database, create_database: CreateDatabase) -> None:
    target = await create_database()
    result = await brought_back(
        await back_up(bank),
        target,
        Statement("SELECT * FROM run_all_quality_checks()"),
        Statement("SELECT count(*) = 0 AS empty FROM moves"),
        Statement("SELECT 1 / 0"),
    )
    *_, passing, false, raising = result.checks
    assert (passing.state, false.state, raising.state) == ("ok", "failed", "failed")
    assert false.message == '"empty" is false'
    assert "division by zero" in raising.message
    assert not result.as_it_should_be
    assert await target.value("SELECT count(*) FROM moves") == 300


async def test_checks_as_the_application_s_role_are_under_row_security(
    bank: Database, create_database: CreateDatabase
) -> None:
    role = "bank app"
    await bank.execute('DROP ROLE IF EXISTS "bank app"; CREATE ROLE "bank app"; GRANT SELECT ON accounts TO "bank app"')
    result = await brought_back(
        await back_up(bank),
        await create_database(),
        Statement("SELECT count(*) = 0 AS sees_nothing FROM accounts", role),
        Statement("SELECT count(*) FROM moves", role),
    )
    sees, may_not = result.checks[-2:]
    assert (sees.state, may_not.state) == ("ok", "failed")
    assert "permission denied" in may_not.message


async def test_a_view_that_cannot_be_refreshed_is_named(bank: Database, create_database: CreateDatabase) -> None:
    await bank.execute("CREATE TABLE zeros (n int); CREATE MATERIALIZED VIEW broken AS SELECT 1 / n AS x FROM zeros")
    await bank.execute("INSERT INTO zeros VALUES (0)")
    result = await brought_back(await back_up(bank), await create_database())
    assert states(result)["materialized views"] == "failed"
    assert any("public.broken: division by zero" in check.message for check in result.checks)
