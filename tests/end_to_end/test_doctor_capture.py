"""What `doctor` finds about change capture: what is lacking is named with the SQL that mends it, never a problem."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.checks.findings import Report
from jobs.incrementals.taking import CaptureOptions
from jobs.postgres.connection import Source
from tests.examining import PASSWORD, Reader, found, look, only, reader_of, worse_than_ok
from tests.faults.commands import settings_of, succeed
from tests.following import following
from tests.round_trip import memory
from tests.servers import Database, Servers, own_server, quoted

ROLE_SQL = Path(__file__).parents[2] / "deploy" / "role.sql"
CAPTURE, SLOT = "change capture", "replication slot"
AUTO = CaptureOptions(lag_limit=10 * 1000**3)
MADE = "SELECT pubname::text FROM pg_publication UNION SELECT nspname FROM pg_namespace WHERE nspname = 'rowvault'"


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[Reader]:
    """A role without any right in the database of the test."""
    async with reader_of(database) as made:
        yield made


async def seen(source: Source | Database, capture: CaptureOptions | None = AUTO) -> Report:
    """What `doctor` finds where incremental backups are scheduled, into a place that never had one."""
    return await look(source, memory(), capture=capture)


async def carry_out(database: Database, hint: str) -> None:
    """Do what a hint says, as superuser."""
    await database.execute(hint[hint.index(": ") + 2 :] if hint.startswith("as ") else hint)


async def test_where_the_log_is_not_logical_it_says_how_to_have_it_and_stays_healthy(tmp_path: Path) -> None:
    async with own_server(wal_level="replica") as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        report = await succeed("doctor", settings=settings_of(database, tmp_path))
        (warning,) = [finding for finding in report["findings"] if finding["state"] != "ok"]
        assert (warning["check"], warning["state"]) == (CAPTURE, "warning")
        assert warning["message"] == "changes cannot be read from the log, so tables are compared: wal_level is replica"
        assert warning["hint"] == "as superuser: ALTER SYSTEM SET wal_level = logical; then restart the server"
        taken = await succeed("backup", "incremental", settings=settings_of(database, tmp_path))
        assert taken["kind"] == "full"
        shown = await succeed("show", "latest", settings=settings_of(database, tmp_path))
        assert shown["compared"] == "wal_level is replica"
        wal = settings_of(database, tmp_path, INCREMENTAL__METHOD="wal")
        (warning,) = [one for one in (await succeed("doctor", settings=wal))["findings"] if one["state"] != "ok"]
        assert warning["message"] == "there can be no incremental backups, only full ones: wal_level is replica"
        off = settings_of(database, tmp_path, SCHEDULE__INCREMENTAL="off")
        assert {finding["state"] for finding in (await succeed("doctor", settings=off))["findings"]} == {"ok"}


@pytest.mark.parametrize("major", [15, 16, 18])
async def test_the_hints_make_a_role_able_to_take_incremental_backups(servers: Servers, major: int) -> None:
    server = await servers.get(major)
    database = await server.create()
    owner = quoted(f'the "owner" on {major}')
    await database.execute(f"""
        CREATE ROLE {owner}; CREATE SCHEMA "odd ""schema";
        CREATE TABLE items (id int PRIMARY KEY, v text); CREATE TABLE "Odd ""Items" (id int PRIMARY KEY);
        ALTER TABLE items OWNER TO {owner}; ALTER TABLE "Odd ""Items" OWNER TO {owner};
    """)
    try:
        async with reader_of(database) as reader:
            await database.execute(f"GRANT pg_read_all_data TO {quoted(reader.name)}")
            before = await seen(reader.source)
            assert before.healthy
            replication, create, ownership = [one for one in found(before, CAPTURE) if one.state == "warning"]
            assert 'does not own public."Odd ""Items", public.items' in ownership.message
            for finding in (replication, create, ownership):
                await carry_out(database, finding.hint)
            after = await seen(reader.source)
            assert only(after, CAPTURE).message == "changes of 2 of 2 tables can be captured from the log"
            follower = replace(following(database), source=reader.source)
            await follower.begin()
            await follower.change("INSERT INTO items VALUES (1, 'one')")
            await follower.require_latest()
    finally:
        await server.drop(database)
        await server.maintenance.execute(f"DROP ROLE {owner}")


async def test_the_documented_role_takes_incremental_backups_with_what_its_script_shows_but_does_not_give() -> None:
    async with own_server(16, max_slot_wal_keep_size="20GB") as server:
        database = await server.create("app")
        await database.execute("CREATE ROLE app_owner; CREATE TABLE items (id serial PRIMARY KEY, v text)")
        await database.execute("ALTER TABLE items OWNER TO app_owner")
        script = ROLE_SQL.read_text()
        await database.execute(script)
        source = Source(database.as_role("rowvault", PASSWORD))
        await database.execute(f"ALTER ROLE rowvault PASSWORD '{PASSWORD}'")
        assert [finding.check for finding in worse_than_ok(await seen(source))] == [CAPTURE] * 3
        shown = script.partition("-- Not given here")[2].partition("\n\n")[0]
        await database.execute("".join(re.findall("^--   (.*)$", shown, re.MULTILINE)))
        assert worse_than_ok(await seen(source)) == []
        follower = replace(following(database), source=source)
        await follower.begin()
        await follower.change("INSERT INTO items (v) VALUES ('one')")
        await follower.require_latest()


async def test_what_another_role_set_up_before_is_named_with_how_to_take_it_over(
    database: Database, reader: Reader
) -> None:
    role = quoted(reader.name)
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    superuser = following(database)
    await superuser.begin()
    await database.execute(f"""
        ALTER ROLE {role} REPLICATION; GRANT pg_read_all_data TO {role}; ALTER TABLE items OWNER TO {role};
        GRANT CREATE ON DATABASE {quoted(database.name)} TO {role};
    """)
    (warning,) = found(await seen(reader.source), CAPTURE)
    assert warning.message.startswith("changes cannot be read from the log, so tables are compared: ")
    assert warning.message.endswith("another role made publication rowvault, schema rowvault, table rowvault.capture")
    compared = replace(following(database), source=reader.source, capture=replace(superuser.capture, method="auto"))
    assert "must be owner of publication rowvault" in (await compared.begin()).compared
    await compared.compare("INSERT INTO items VALUES (0)")
    await compared.require_latest()
    await superuser.begin()
    await carry_out(database, warning.hint)
    assert only(await seen(reader.source), CAPTURE).state == "ok"
    successor = replace(superuser, source=reader.source)
    await successor.change("INSERT INTO items VALUES (1)")
    await database.execute("ALTER TABLE items ADD v text")
    await successor.begin()


async def test_nobody_is_told_to_make_the_role_a_member_of_a_superuser(database: Database, reader: Reader) -> None:
    await database.execute(f"""
        CREATE TABLE items (id int PRIMARY KEY);
        ALTER ROLE {quoted(reader.name)} REPLICATION; GRANT pg_read_all_data TO {quoted(reader.name)};
        GRANT CREATE ON DATABASE {quoted(database.name)} TO {quoted(reader.name)};
    """)
    warning = only(await seen(reader.source), CAPTURE)
    assert warning.state == "warning"
    assert "does not own public.items" in warning.message
    assert 'ALTER TABLE "public"."items" OWNER TO' in warning.hint
    assert "GRANT" not in warning.hint


COMPARED = "compared at each incremental backup"
T = 'ALTER TABLE "public"."t"'
UNFIT = {
    "without a key": (
        "CREATE TABLE t (id int)",
        "it has no primary key",
        f"{T} ADD PRIMARY KEY (…);",
    ),
    "with a unique index in a key's place": (
        "CREATE TABLE t (id int NOT NULL UNIQUE)",
        "it has no primary key",
        f'{T} REPLICA IDENTITY USING INDEX "t_id_key";',
    ),
    "with unique indexes that will not do": (
        "CREATE TABLE t (id int UNIQUE, n int NOT NULL); CREATE UNIQUE INDEX ON t (n) WHERE n > 1",
        "it has no primary key",
        f"{T} ADD PRIMARY KEY (…);",
    ),
    "without a replica identity": (
        "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
        "its replica identity is NOTHING",
        f"{T} REPLICA IDENTITY DEFAULT;",
    ),
    "whose replica identity was dropped": (
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); CREATE UNIQUE INDEX i ON t (n);"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
        "the index that was its replica identity is gone",
        f"{T} REPLICA IDENTITY DEFAULT;",
    ),
    "unlogged": (
        "CREATE UNLOGGED TABLE t (id int PRIMARY KEY)",
        "it is unlogged",
        f"{T} SET LOGGED;",
    ),
    "with a deferrable key": (
        "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, n int NOT NULL UNIQUE)",
        "its key is deferrable or not valid",
        f'{T} REPLICA IDENTITY USING INDEX "t_n_key";',
    ),
    "with a generated column in a full identity": (
        "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) STORED);"
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "a generated column is part of its replica identity",
        f"{T} REPLICA IDENTITY DEFAULT;",
    ),
}


@pytest.mark.parametrize("table", UNFIT)
async def test_a_table_that_cannot_be_in_the_log_is_named_with_why_and_what_mends_it(
    database: Database, table: str
) -> None:
    build, reason, hint = UNFIT[table]
    await database.execute(f"CREATE TABLE fit (id int PRIMARY KEY); {build}")
    report = await seen(database)
    able, warning = found(report, CAPTURE)
    assert (able.state, able.message) == ("ok", "changes of 1 of 2 tables can be captured from the log")
    assert (warning.state, warning.table, warning.hint) == ("warning", "public.t", hint)
    followed = "copied whole whenever it changed" if reason == "it has no primary key" else COMPARED
    assert warning.message == f"public.t is {followed}: {reason}"
    await database.execute(hint.replace("…", "id"))
    assert only(await seen(database), CAPTURE).state == "ok"


async def test_a_key_that_is_deferrable_with_nothing_in_its_place_wants_a_unique_index(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE)")
    able, warning = found(await seen(database), CAPTURE)
    assert able.state == "ok"
    assert 'CREATE UNIQUE INDEX … ON "public"."t" (…); ALTER TABLE "public"."t" REPLICA IDENTITY' in warning.hint


async def test_that_no_replication_slot_is_free_is_a_warning_but_not_if_our_own_takes_it() -> None:
    async with own_server(max_replication_slots="1", max_slot_wal_keep_size="1GB") as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        await following(database).begin()
        assert worse_than_ok(await seen(database)) == []
        await succeed("teardown", "--yes", settings=settings_of(database, Path(server.embedded.log.parent, "backups")))
        await database.execute("SELECT pg_create_physical_replication_slot('somebody', true)")
        (warning,) = worse_than_ok(await seen(database))
        assert (warning.check, warning.state) == (CAPTURE, "warning")
        assert "max_replication_slots is 1, and 1 are taken" in warning.message


async def test_that_the_server_never_limits_the_slot_is_said_with_the_limit_to_set() -> None:
    async with own_server() as server:
        database = await server.create()
        await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        (warning,) = worse_than_ok(await seen(database))
        assert (warning.check, warning.state) == (SLOT, "warning")
        assert "max_slot_wal_keep_size is -1" in warning.message
        await database.execute(warning.hint.partition(": ")[2].partition(";")[0])
        await database.execute("SELECT pg_reload_conf()")
        assert worse_than_ok(await seen(database)) == []


async def test_what_the_slot_holds_back_is_said_and_past_half_of_the_limit_it_is_a_warning(
    database: Database,
) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    await following(database).begin()
    well = found(await seen(database), SLOT)[0]
    assert well.state == "ok"
    assert "of WAL; past 10.0 GB it is dropped" in well.message
    warning = found(await seen(database, replace(AUTO, lag_limit=1)), SLOT)[0]
    assert (warning.state, warning.hint) == (
        "warning",
        "see that the daemon runs, or read it now: rowvault backup incremental",
    )


async def test_a_slot_that_no_schedule_reads_is_a_warning(database: Database) -> None:
    await database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    await following(database).begin()
    (warning,) = worse_than_ok(await seen(database, None))
    assert (warning.check, warning.state) == (SLOT, "warning")
    assert "rowvault teardown" in warning.hint


async def test_looking_at_change_capture_changes_nothing(database: Database) -> None:
    await database.execute("CREATE TABLE items (id int)")
    await seen(database)
    assert await database.fetch(MADE) == []
    assert await database.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
