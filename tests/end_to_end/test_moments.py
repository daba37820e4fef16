"""Any moment from the command line, by time, LSN or transaction: of everything, a table or a row; what is refused."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import CreateDatabase
from tests.faults.commands import DIFFERENCE, DONE, NOT_FOUND, USAGE, Document, refuse, settings_of, succeed
from tests.faults.places import matches
from tests.following import Lines, lines_of
from tests.programs import rowvault
from tests.servers import DEFAULT_MAJOR, Database, Servers

BUILD = """
    CREATE TABLE items (id serial PRIMARY KEY, note text);
    INSERT INTO items (note) SELECT 'first' FROM generate_series(1, 50);
    CREATE TABLE others (id int PRIMARY KEY); INSERT INTO others VALUES (1);
    CREATE TABLE keyless (note text); INSERT INTO keyless VALUES ('in the full backup');
"""


@dataclass(frozen=True)
class Mark:
    """A moment: its time, LSN and newest transaction, and what was in the database."""

    time: datetime
    lsn: str
    xid: int
    lines: Lines


@dataclass(frozen=True)
class History:
    """A database that was followed, what it was after each step, and its backups in the order they were taken."""

    database: Database
    settings: dict[str, str]
    marks: tuple[Mark, ...]
    backups: tuple[Document, ...]

    @property
    def newest(self) -> str:
        return str(self.backups[-1]["id"])


async def step(database: Database, statement: str) -> Mark:
    """Do something in one transaction, and remember what came of it."""
    async with database.connect() as connection:
        async with connection.transaction():
            await connection.execute(statement)
            xid = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
        time, lsn = await connection.fetchrow("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
    return Mark(time, lsn, xid, await lines_of(database))


@pytest.fixture(scope="module")
async def history(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[History]:
    """A full backup, two windows, and four steps around them; the last is in no backup."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(BUILD)
    settings = settings_of(database, tmp_path_factory.mktemp("moments"))
    backups = [await succeed("backup", "incremental", settings=settings)]
    marks = [
        await step(database, "UPDATE items SET note = 'second' WHERE id <= 20"),
        await step(database, "DELETE FROM items WHERE id = 7; INSERT INTO others VALUES (2)"),
    ]
    backups.append(await succeed("backup", "incremental", settings=settings))
    marks.append(await step(database, "TRUNCATE items; INSERT INTO items (note) VALUES ('all gone')"))
    backups.append(await succeed("backup", "incremental", settings=settings))
    marks.append(await step(database, "INSERT INTO keyless VALUES ('later')"))
    yield History(database, settings, tuple(marks), tuple(backups))
    await server.drop(database)


@pytest.fixture
async def target(create_database: CreateDatabase) -> Database:
    return await create_database()


async def restored(history: History, target: Database, *args: str) -> Lines:
    """What a restore brings back, of the tables whose changes are kept."""
    await succeed("restore", *args, "--to", target.dsn, "--yes", settings=history.settings)
    return without_keyless(await lines_of(target))


def without_keyless(lines: Lines) -> Lines:
    return {table: rows for table, rows in lines.items() if table != "public.keyless"}


def test_without_a_chain_an_incremental_backup_is_a_full_one_that_says_why(history: History) -> None:
    assert [backup["kind"] for backup in history.backups] == ["full", "incremental", "incremental"]
    assert "changes were not captured before" in history.backups[0]["warnings"][0]


@pytest.mark.parametrize("number", [0, 2])
async def test_a_time_brings_back_what_was(history: History, target: Database, number: int) -> None:
    mark = history.marks[number]
    assert await restored(history, target, "--at", mark.time.isoformat()) == without_keyless(mark.lines)


async def test_a_time_without_an_offset_is_meant_in_the_time_zone_of_the_settings(
    history: History, target: Database
) -> None:
    mark = history.marks[1]
    local = (mark.time + timedelta(hours=1)).replace(tzinfo=None).isoformat(" ")
    answer = await rowvault(
        *("restore", "--at", local, "--to", target.dsn, "--yes"),
        env=history.settings | {"ROWVAULT_TIMEZONE": "Africa/Lagos"},
    )
    assert answer.returncode == DONE, answer.stderr
    assert without_keyless(await lines_of(target)) == without_keyless(mark.lines)


async def test_an_lsn_brings_back_what_was_committed_there(history: History, target: Database) -> None:
    mark = history.marks[1]
    assert await restored(history, target, "--at-lsn", mark.lsn) == without_keyless(mark.lines)


async def test_before_a_transaction_is_just_before_its_commit(history: History, target: Database) -> None:
    before, truncated = history.marks[1:3]
    assert await restored(history, target, "--before-xid", str(truncated.xid)) == without_keyless(before.lines)


async def test_one_row_comes_back_as_of_a_moment(history: History, target: Database) -> None:
    await target.execute("CREATE TABLE items (id int PRIMARY KEY, note text); INSERT INTO items VALUES (7, 'wrong')")
    at = history.marks[0].time.isoformat()
    assert await restored(history, target, "--at", at, "--table", "items", "--key", "id=7") == {
        "public.items": [b"7\tsecond"]
    }


async def test_one_table_comes_back_as_of_a_moment_and_its_sequence_is_not_behind(
    history: History, target: Database
) -> None:
    mark = history.marks[2]
    found = await restored(history, target, "--at", mark.time.isoformat(), "--table", "items")
    assert found["public.items"] == mark.lines["public.items"]
    assert await target.value("SELECT nextval('items_id_seq') > max(id) FROM items")


@pytest.mark.parametrize("wanted", [None, "latest"])
async def test_the_newest_backup_comes_back_whatever_its_kind(
    history: History, target: Database, wanted: str | None
) -> None:
    assert await restored(history, target, *([wanted] if wanted else [])) == without_keyless(history.marks[2].lines)


async def test_an_earlier_incremental_backup_comes_back_by_its_id(history: History, target: Database) -> None:
    lines = without_keyless(history.marks[1].lines)
    assert await restored(history, target, str(history.backups[1]["id"])) == lines


async def test_a_dry_run_changes_nothing(history: History, target: Database) -> None:
    at = history.marks[0].time.isoformat()
    await succeed("restore", "--at", at, "--to", target.dsn, "--dry-run", settings=history.settings)
    assert await lines_of(target) == {}


async def test_a_table_without_a_key_comes_back_as_of_the_full_backup_and_that_is_said(
    history: History, target: Database
) -> None:
    at = history.marks[1].time.isoformat()
    answer = await rowvault("restore", "--at", at, "--to", target.dsn, "--yes", env=history.settings)
    assert answer.returncode == DONE
    moment = history.backups[0]["created_at"].removesuffix("Z")
    assert f"public.keyless is as of {moment}" in answer.stderr
    assert "it is not in the change log, so it is known only as of backups" in " ".join(answer.stderr.split())
    assert (await lines_of(target))["public.keyless"] == [b"in the full backup"]


async def refused(history: History, target: Database, *args: str, code: int) -> Document:
    error = await refuse("restore", *args, "--to", target.dsn, "--yes", settings=history.settings, code=code)
    assert await lines_of(target) == {}
    return error


async def test_a_table_without_a_key_is_refused_by_name_as_of_a_moment(history: History, target: Database) -> None:
    at = history.marks[1].time.isoformat()
    error = await refused(history, target, "--at", at, "--table", "keyless", code=NOT_FOUND)
    assert "public.keyless" in error["message"]
    assert "primary key" in error["hint"]


async def test_a_time_before_the_first_backup_is_refused_with_the_nearest(history: History, target: Database) -> None:
    error = await refused(history, target, "--at", "2001-01-01T00:00:00Z", code=NOT_FOUND)
    assert history.backups[0]["created_at"][:23] in error["hint"]


async def test_a_time_that_is_not_reached_yet_is_refused_with_the_nearest(history: History, target: Database) -> None:
    error = await refused(history, target, "--at", history.marks[3].time.isoformat(), code=NOT_FOUND)
    assert history.backups[-1]["created_at"][:23] in error["hint"]


@pytest.mark.parametrize("moment", [("--at-lsn", "FFFF/0"), ("--before-xid", "900000000")], ids=" ".join)
async def test_an_lsn_or_a_transaction_that_is_in_no_chain_is_refused(
    history: History, target: Database, moment: tuple[str, str]
) -> None:
    await refused(history, target, *moment, code=NOT_FOUND)


@pytest.mark.parametrize("args", [("latest", "--at", "2026-01-01"), ("--at", "yesterday")], ids=" ".join)
async def test_what_cannot_be_meant_is_a_usage_error(history: History, target: Database, args: tuple[str, ...]) -> None:
    await refused(history, target, *args, code=USAGE)


async def test_the_list_tells_the_kinds(history: History) -> None:
    listed = await succeed("list", settings=history.settings)
    assert [(one["id"], one["kind"]) for one in listed] == [
        (one["id"], one["kind"]) for one in reversed(history.backups)
    ]


async def test_an_incremental_backup_is_shown_for_people_and_for_scripts(history: History) -> None:
    document = await succeed("show", "latest", settings=history.settings)
    assert (document["id"], document["kind"], document["commits"]) == (history.newest, "incremental", 1)
    shown = await rowvault("show", "latest", env=history.settings)
    assert shown.returncode == DONE
    assert f"{history.newest} (incremental, by wal)" in shown.stdout


async def test_an_incremental_backup_is_verified(history: History) -> None:
    result = await succeed("verify", "latest", settings=history.settings)
    assert (result["id"], result["state"], result["problems"]) == (history.newest, "success", [])


async def test_an_incremental_backup_is_compared_with_the_database(history: History) -> None:
    answer = await rowvault("diff", "latest", "--table", "items", "--table", "others", env=history.settings)
    assert answer.returncode == DONE, answer.stdout + answer.stderr
    earlier = str(history.backups[1]["id"])
    answer = await rowvault("diff", earlier, "--table", "items", env=history.settings)
    assert answer.returncode == DIFFERENCE


async def test_incremental_backups_are_compared_with_each_other(history: History) -> None:
    _, earlier, later = (str(one["id"]) for one in history.backups)
    answer = await rowvault("diff", earlier, "--against", later, "--table", "others", env=history.settings)
    assert answer.returncode == DONE, answer.stdout + answer.stderr


async def test_temporary_files_are_gone_afterwards(history: History, target: Database) -> None:
    folder = Path(history.settings["ROWVAULT_LOCAL_PATH"])
    await restored(history, target, "--at", history.marks[1].time.isoformat())
    assert not matches(folder, "rowvault-*")
