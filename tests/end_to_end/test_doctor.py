"""What `doctor` finds: each fault is planted in a real server or store, and seen; and in health there is none."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobs.full_backup import full_backup
from jobs.postgres.catalogue import Selection
from jobs.postgres.connection import Source
from jobs.preparing import BackupOptions
from storage.backends.factory import open_local, open_s3
from storage.repository import Repository
from tests.conftest import Bucket, Pooled
from tests.examining import (
    PASSWORD,
    Reader,
    chosen,
    found,
    look,
    only,
    problems,
    reader_of,
    s3_options,
    worse_than_ok,
)
from tests.programs import free_port, pgbouncer
from tests.servers import Database, Servers, own_server, quoted

ROLE_SQL = Path(__file__).parents[2] / "deploy" / "role.sql"


@pytest.fixture
def local(tmp_path: Path) -> Repository:
    """A local place that no backup was ever taken into."""
    return Repository("local", open_local(tmp_path / "backups"))


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[Reader]:
    """A role without any right in the database of the test."""
    async with reader_of(database) as made:
        yield made


async def test_all_is_well_with_a_healthy_database_and_two_places(
    database: Database, local: Repository, bucket: Bucket
) -> None:
    await database.execute("CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1)")
    await database.execute("CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents, name text)")
    await database.execute("ALTER TABLE children ENABLE ROW LEVEL SECURITY; ANALYZE")
    off_site = Repository("s3", await open_s3(s3_options(bucket)))
    try:
        report = await look(database, local, off_site)
    finally:
        await off_site.backend.close()
    assert worse_than_ok(report) == []
    assert report.healthy


async def test_looking_leaves_nothing_behind(database: Database, local: Repository, tmp_path: Path) -> None:
    await database.execute("CREATE TABLE t (id int)")
    await look(database, local)
    assert await database.fetch("SELECT FROM pg_namespace WHERE nspname = 'rowvault'") == []
    assert list((tmp_path / "backups").iterdir()) == []


async def test_the_hints_make_a_role_without_rights_able_to_take_a_backup(
    database: Database, reader: Reader, local: Repository
) -> None:
    await database.execute("""
        CREATE SCHEMA "odd ""schema"; CREATE TABLE "odd ""schema"."it's; a.table" (id serial, v text);
        CREATE TABLE "odd ""schema".filtered (id int); ALTER TABLE "odd ""schema".filtered ENABLE ROW LEVEL SECURITY;
    """)
    selection = chosen('"odd ""schema".*')
    before = await look(reader.source, local, selection=selection)
    assert {finding.check for finding in problems(before)} == {"schemas", "privileges", "sequences", "row security"}
    assert only(before, "own schema").state == "warning"
    for finding in worse_than_ok(before):
        if ";" in finding.hint:
            await database.execute(finding.hint.partition(" (as a superuser)")[0])
    assert worse_than_ok(await look(reader.source, local, selection=selection)) == []
    assert (await full_backup(reader.source, selection, [local], BackupOptions())).state == "success"


async def test_a_missing_select_on_one_table_is_a_problem_with_the_grant(
    database: Database, reader: Reader, local: Repository
) -> None:
    await database.execute(f"""
        CREATE TABLE mine (id int); CREATE TABLE "Not Mine" (id int); GRANT SELECT ON mine TO {quoted(reader.name)};
    """)
    finding = only(await look(reader.source, local), "privileges")
    assert finding.state == "problem"
    assert finding.table == 'public."Not Mine"'
    assert finding.hint == f'GRANT SELECT ON "public"."Not Mine" TO {quoted(reader.name)};'


async def test_a_table_that_is_only_dumped_with_its_schema_needs_select_too(
    database: Database, reader: Reader, local: Repository
) -> None:
    await database.execute(f"""
        CREATE TABLE mine (id int); CREATE TABLE excluded (id int); GRANT SELECT ON mine TO {quoted(reader.name)};
    """)
    finding = only(await look(reader.source, local, selection=chosen("mine", exclude=["excluded"])), "privileges")
    assert (finding.state, finding.table) == ("problem", "public.excluded")
    assert "dumped with its schema" in finding.message


async def test_row_security_that_filters_is_a_problem_with_the_ways_out(
    database: Database, reader: Reader, local: Repository
) -> None:
    await database.execute(f"""
        CREATE TABLE filtered (id int); ALTER TABLE filtered ENABLE ROW LEVEL SECURITY;
        CREATE TABLE forced (id int); ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE TABLE owned (id int); ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON filtered TO {quoted(reader.name)};
        ALTER TABLE forced OWNER TO {quoted(reader.name)}; ALTER TABLE owned OWNER TO {quoted(reader.name)};
    """)
    filtered, forced = found(await look(reader.source, local), "row security")
    assert (filtered.table, filtered.state) == ("public.filtered", "problem")
    assert filtered.hint.startswith(f"ALTER ROLE {quoted(reader.name)} BYPASSRLS;")
    assert (forced.table, forced.state) == ("public.forced", "problem")
    assert 'ALTER TABLE "public"."forced" NO FORCE ROW LEVEL SECURITY;' in forced.hint


async def test_transaction_pooling_is_a_problem_with_the_way_out(
    database: Database, pooled: Pooled, local: Repository
) -> None:
    report = await look(Source(await pooled(database, "transaction")), local)
    assert only(report, "pooling").state == "problem"
    assert "session mode" in only(report, "pooling").hint
    assert only(report, "storage").state == "ok"


async def test_session_pooling_is_no_trouble(database: Database, pooled: Pooled, local: Repository) -> None:
    await database.execute("CREATE TABLE t (id int)")
    report = await look(Source(await pooled(database, "session")), local)
    assert worse_than_ok(report) == []
    assert "session mode" in only(report, "pooling").message


async def test_a_pooler_without_a_free_server_is_a_problem_soon(database: Database, local: Repository) -> None:
    async with pgbouncer(database, "transaction", pool_size=1) as dsn:
        report = await look(Source(dsn, connect_timeout=2), local)
    assert only(report, "connection").state == "problem"
    assert "default_pool_size" in only(report, "connection").hint


async def test_a_wrong_password_is_a_problem_and_the_places_are_looked_at_all_the_same(
    database: Database, reader: Reader, local: Repository
) -> None:
    report = await look(Source(database.as_role(reader.name, "wrong-pass-word")), local)
    assert only(report, "connection").state == "problem"
    assert "password authentication failed" in only(report, "connection").message
    assert "wrong-pass-word" not in str(report)
    assert only(report, "storage").state == "ok"


async def test_a_server_that_is_not_there_is_a_problem(local: Repository) -> None:
    report = await look(Source(f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/d"), local)
    assert only(report, "connection").state == "problem"
    assert PASSWORD not in str(report)


async def test_a_pg_dump_older_than_the_server_is_a_problem(
    database: Database, servers: Servers, local: Repository
) -> None:
    await database.execute("CREATE TABLE t (id int)")
    older = (await servers.get(16)).binaries
    finding = only(await look(database, local, pg_bin=older), "programs")
    assert finding.state == "problem"
    assert "PG_BIN" in finding.hint


async def test_what_is_not_covered_is_a_warning(database: Database, local: Repository) -> None:
    await database.execute("""
        CREATE SCHEMA app; CREATE TABLE app.accounts (id int PRIMARY KEY);
        CREATE TABLE orders (account int CONSTRAINT whose REFERENCES app.accounts);
        SELECT lo_create(0);
    """)
    report = await look(database, local)
    schema, large_objects, foreign_key = found(report, "coverage")
    assert report.healthy
    assert {schema.state, large_objects.state, foreign_key.state} == {"warning"}
    assert schema.message.endswith(": app")
    assert schema.hint == 'set ROWVAULT_TABLES=public.*,"app".*'
    assert large_objects.message.startswith("1 large objects")
    assert foreign_key.table == "public.orders"
    assert "whose" in foreign_key.message
    assert "app.accounts" in foreign_key.message


async def test_a_schema_without_tables_is_told_apart_since_no_pattern_can_choose_it(
    database: Database, local: Repository
) -> None:
    await database.execute("CREATE SCHEMA tools; CREATE FUNCTION tools.f() RETURNS int LANGUAGE sql RETURN 1;")
    await database.execute("CREATE TABLE t (id int)")
    finding = only(await look(database, local), "coverage")
    assert finding.state == "warning"
    assert "not even definitions are kept: tools" in finding.message


async def test_tables_left_out_of_a_chosen_schema_are_a_warning(database: Database, local: Repository) -> None:
    await database.execute("CREATE TABLE orders (id int); CREATE TABLE accounts (id int)")
    finding = only(await look(database, local, selection=chosen("orders")), "coverage")
    assert (finding.state, finding.message.endswith(": public.accounts")) == ("warning", True)


async def test_a_pattern_that_matches_nothing_is_a_problem(database: Database, local: Repository) -> None:
    await database.execute("CREATE TABLE orders (id int)")
    finding = only(await look(database, local, selection=chosen("Orders")), "tables")
    assert finding.state == "problem"
    assert "Orders" in finding.message


async def test_an_exclusion_that_matches_nothing_is_a_warning(database: Database, local: Repository) -> None:
    await database.execute("CREATE TABLE orders (id int)")
    report = await look(database, local, selection=chosen("*", exclude=["Orders"]))
    (warning,) = worse_than_ok(report)
    assert (warning.check, warning.state) == ("tables", "warning")


async def test_too_few_connections_are_a_problem(database: Database, reader: Reader, local: Repository) -> None:
    await database.execute(f"ALTER ROLE {quoted(reader.name)} CONNECTION LIMIT 4")
    finding = only(await look(reader.source, local), "connections")
    assert finding.state == "problem"
    assert finding.message == "a backup takes 5 connections, and the CONNECTION LIMIT of the role leaves 4"


async def test_the_documented_role_takes_a_full_backup_and_doctor_has_nothing_to_say(local: Repository) -> None:
    async with own_server(16) as server:
        database = await server.create("the source")
        await database.execute("""
            CREATE TABLE "Filtered" (id serial PRIMARY KEY, v text); INSERT INTO "Filtered" (v) VALUES ('a'), ('b');
            ALTER TABLE "Filtered" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE FUNCTION one() RETURNS int LANGUAGE sql RETURN 1; CREATE VIEW ones AS SELECT one();
        """)
        _psql(database, ROLE_SQL)
        await database.execute(f"ALTER ROLE rowvault PASSWORD '{PASSWORD}'")
        source = Source(database.as_role("rowvault", PASSWORD))
        assert worse_than_ok(await look(source, local)) == []
        result = await full_backup(source, Selection(), [local], BackupOptions())
        assert (result.state, [table.rows for table in result.tables], result.warnings) == ("success", [2], ())
        assert worse_than_ok(await look(source, local)) == []


def _psql(database: Database, script: Path) -> None:
    subprocess.run(
        [database.server.binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.dsn, "-f", script],
        check=True,
    )
