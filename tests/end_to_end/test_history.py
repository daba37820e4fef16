"""The history of a row as the command tells it: each version, when and by whom it came to be; and each brought back."""

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.app import Kind, Request, open_app
from daemon.settings.load import load_settings
from jobs.progress import no_progress
from jobs.results import BackupResult
from tests.conftest import CreateDatabase
from tests.daemons import environment, settings_for
from tests.programs import rowvault
from tests.servers import Database

BUILD = """
    CREATE TABLE orders (id int PRIMARY KEY, state text, note text);
    ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
    INSERT INTO orders SELECT n, 'new', 'note ' || n FROM generate_series(1, 500) n;
    CREATE TABLE pairs (a uuid, "b.b" text, v int, PRIMARY KEY (a, "b.b"));
    ALTER TABLE pairs ALTER "b.b" SET STORAGE EXTERNAL;
    CREATE TABLE loose (n int);
    CREATE UNLOGGED TABLE volatile (n int PRIMARY KEY);
    CREATE TABLE generated (id int, g int GENERATED ALWAYS AS (id) STORED PRIMARY KEY);
    CREATE TABLE halves (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE lower PARTITION OF halves FOR VALUES FROM (0) TO (100);
    CREATE TABLE upper PARTITION OF halves FOR VALUES FROM (100) TO (200);
"""
LONG = "x" * 10_000
Document = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A database, and where its backups lie."""

    database: Database
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return environment(settings_for(self.database, self.folder)) | {"APP_DSN": self.database.dsn}

    async def does(self, *sql: str) -> int:
        """Run statements in one transaction; its xid."""
        async with self.database.connect() as connection, connection.transaction():
            for statement in sql:
                await connection.execute(statement)
            return int(await connection.fetchval("SELECT pg_current_xact_id()::text"))

    async def backup(self, kind: Kind = "incremental") -> BackupResult:
        """Take a backup of some kind, as the command does."""
        async with open_app(load_settings(self.env, None)) as app:
            take = app.full_backup if kind == "full" else app.incremental_backup
            return await take(Request(), no_progress)

    async def versions(self, *key: str, table: str = "orders") -> list[Document]:
        """What the history of a row holds."""
        versions: list[Document] = (await self.history(*key, table=table))["versions"]
        return versions

    async def history(self, *key: str, table: str = "orders") -> Document:
        """What the history of a row says."""
        return await self.command("history", table, *(f"--key={one}" for one in key))

    async def command(self, *args: str) -> Document:
        """A command that is to work; its document."""
        done = await rowvault(*args, "--json", env=self.env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return dict(json.loads(done.stdout))

    async def refused(self, *args: str) -> tuple[int, str]:
        """A command that is not to work; its exit code and message."""
        done = await rowvault(*args, "--json", env=self.env)
        return done.returncode, json.loads(done.stdout)["error"]["message"]


@pytest.fixture
async def place(create_database: CreateDatabase, tmp_path: Path) -> Place:
    """A database whose changes are captured, with its first full backup."""
    made = Place(await create_database(key="history", build=BUILD), tmp_path / "backups")
    made.folder.mkdir()
    assert (await made.backup()).kind == "full"
    return made


def kinds(versions: list[Document]) -> list[str]:
    return [version["kind"] for version in versions]


async def test_every_version_is_told_with_its_transaction_and_what_changed(place: Place) -> None:
    paid = await place.does(
        "UPDATE orders SET state = 'paid' WHERE id = 7", "UPDATE orders SET state = 'x' WHERE id = 8"
    )
    gone = await place.does("DELETE FROM orders WHERE id = 7")
    window = await place.backup()
    again = await place.does("INSERT INTO orders VALUES (7, NULL, 'a\tb')")
    other = await place.backup()
    versions = await place.versions("id=7")
    assert kinds(versions) == ["first seen", "update", "delete", "insert"]
    assert [version["xid"] for version in versions] == [None, paid, gone, again]
    assert [version["changed"] for version in versions] == [
        ["id", "state", "note"],
        ["state"],
        [],
        ["id", "state", "note"],
    ]
    assert [version["row"] for version in versions] == [
        {"id": "7", "state": "new", "note": "note 7"},
        {"id": "7", "state": "paid", "note": "note 7"},
        None,
        {"id": "7", "state": None, "note": "a\tb"},
    ]
    assert [version["backup"] for version in versions[1:]] == [window.id, window.id, other.id]
    assert versions[1]["at"] < versions[2]["at"] < versions[3]["at"]


async def test_every_version_comes_back_by_its_lsn(place: Place) -> None:
    for statement in (
        "UPDATE orders SET state = 'paid' WHERE id = 7",
        f"UPDATE orders SET note = '{LONG}' WHERE id = 7",
        "UPDATE orders SET state = 'sent' WHERE id = 7",
    ):
        await place.does(statement)
        await place.backup()
    await place.does("DELETE FROM orders WHERE id = 7")
    await place.does("INSERT INTO orders VALUES (7, 'back', NULL)")
    await place.backup()
    versions = [version for version in await place.versions("id=7") if version["lsn"] and version["row"]]
    assert len(versions) == 4
    for version in versions:
        as_it_was = ("--key=id=7", f"--at-lsn={version['lsn']}")
        await place.command("restore", "--table=orders", *as_it_was, "--to=env:APP_DSN", "--yes")
        [row] = await place.database.fetch("SELECT id::text, state, note FROM orders WHERE id = 7")
        assert dict(zip(("id", "state", "note"), row, strict=True)) == version["row"]


async def test_a_value_that_an_update_left_in_its_toast_table_stays(place: Place) -> None:
    await place.does(f"UPDATE orders SET note = '{LONG}' WHERE id = 7")
    await place.backup("full")
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    await place.backup()
    *_, last = await place.versions("id=7")
    assert (last["changed"], last["row"]) == (["state"], {"id": "7", "state": "paid", "note": LONG})


async def test_a_full_backup_within_the_log_is_no_version(place: Place) -> None:
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    await place.backup()
    await place.does("UPDATE orders SET state = 'sent' WHERE id = 7")
    await place.backup("full")
    await place.does("UPDATE orders SET state = 'kept' WHERE id = 7")
    await place.backup()
    assert kinds(await place.versions("id=7")) == ["first seen", "update", "update", "update"]


async def test_where_the_log_has_a_gap_the_next_full_backup_tells(place: Place) -> None:
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    window = await place.backup()
    await drop_slot(place.database)
    await place.does("UPDATE orders SET state = 'lost' WHERE id = 7")
    assert (full := await place.backup()).kind == "full"
    await place.does("UPDATE orders SET state = 'sent' WHERE id = 7")
    await place.backup()
    versions = await place.versions("id=7")
    assert kinds(versions) == ["first seen", "update", "found in a backup", "update"]
    found = versions[2]
    assert (found["backup"], found["changed"], found["row"]["state"]) == (full.id, ["state"], "lost")
    assert [datetime.fromisoformat(found[when]) for when in ("after", "at")] == [window.created_at, full.created_at]
    assert (found["xid"], found["lsn"]) == (None, None)


async def test_a_row_that_a_gap_did_not_change_has_no_version_there(place: Place) -> None:
    await drop_slot(place.database)
    await place.backup()
    assert kinds(await place.versions("id=7")) == ["first seen"]


async def test_a_full_backup_that_no_log_has_reached_yet_tells_too(place: Place) -> None:
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    await place.backup("full")
    assert kinds(await place.versions("id=7")) == ["first seen", "found in a backup"]
    await place.backup()
    assert kinds(await place.versions("id=7")) == ["first seen", "update"]


async def test_a_changed_definition_begins_anew(place: Place) -> None:
    await place.does("ALTER TABLE orders ADD COLUMN extra int DEFAULT 1")
    await place.backup("full")
    await place.does("UPDATE orders SET extra = 2 WHERE id = 7")
    await place.backup()
    versions = await place.versions("id=7")
    assert kinds(versions) == ["first seen", "found in a backup", "update"]
    assert [version["changed"] for version in versions[1:]] == [["extra"], ["extra"]]


async def test_a_truncation_ends_the_row(place: Place) -> None:
    await place.does("TRUNCATE orders")
    await place.backup()
    versions = await place.versions("id=7")
    assert kinds(versions) == ["first seen", "truncate"]
    assert versions[1]["row"] is None


async def test_a_row_is_told_under_one_key_and_where_it_came_from_and_went(place: Place) -> None:
    await place.does(f"UPDATE orders SET note = '{LONG}' WHERE id = 7")
    await place.does("UPDATE orders SET id = 1007 WHERE id = 7")
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 1007")
    await place.backup()
    went = (await place.versions("id=7"))[-1]
    assert (went["kind"], went["row"], went["moved_to"]) == ("update", None, {"id": "1007"})
    came, paid = await place.versions("id=1007")
    assert (came["kind"], came["moved_from"]) == ("update", {"id": "7"})
    assert came["row"] == {"id": "1007", "state": "new", "note": LONG}
    assert paid["row"] == {"id": "1007", "state": "paid", "note": LONG}


async def test_rows_that_swapped_their_keys_each_keep_their_own_values(place: Place) -> None:
    await place.does(f"UPDATE orders SET note = '{LONG}' || id WHERE id IN (7, 8)")
    await place.does(*(f"UPDATE orders SET id = {new} WHERE id = {old}" for old, new in ((7, 0), (8, 7), (0, 8))))
    await place.backup()
    for key, came_from in (("7", "8"), ("8", "7")):
        last = (await place.versions(f"id={key}"))[-1]
        assert last["row"] == {"id": key, "state": "new", "note": LONG + came_from}


async def test_what_one_transaction_changed_twice_is_marked(place: Place) -> None:
    await place.does("UPDATE orders SET state = 'a' WHERE id = 7", "UPDATE orders SET state = 'b' WHERE id = 7")
    await place.backup()
    assert [version["passing"] for version in await place.versions("id=7")] == [False, True, False]


async def test_what_was_rolled_back_is_no_version(place: Place) -> None:
    await place.does(
        "SAVEPOINT one", "UPDATE orders SET state = 'never' WHERE id = 7", "ROLLBACK TO one",
        "UPDATE orders SET state = 'paid' WHERE id = 8",
    )  # fmt: skip
    await place.backup()
    assert kinds(await place.versions("id=7")) == ["first seen"]


async def test_a_key_of_several_columns_is_found_however_it_is_written(place: Place) -> None:
    key = ("a={A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", '"b.b"=x\ty')
    await place.does("INSERT INTO pairs VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', E'x\\ty', 1)")
    await place.backup()
    told = await place.history(*key, table="pairs")
    assert told["table"] == "public.pairs"
    assert told["key"] == {"a": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b.b": "x\ty"}
    assert kinds(told["versions"]) == ["insert"]


async def test_a_key_that_is_toasted_is_followed(place: Place) -> None:
    uuid, long = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "long " * 500
    await place.does(f"INSERT INTO pairs VALUES ('{uuid}', '{long}', 1)")
    await place.does("UPDATE pairs SET v = 2")
    await place.does("UPDATE pairs SET v = 3")
    await place.backup()
    versions = await place.versions(f"a={uuid}", f'"b.b"={long}', table="pairs")
    assert [version["row"] for version in versions] == [{"a": uuid, "b.b": long, "v": str(v)} for v in (1, 2, 3)]


async def test_where_the_database_is_gone_a_key_is_found_as_it_is_stored(place: Place) -> None:
    await place.backup()
    env = place.env | {"ROWVAULT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/gone"}
    done = await rowvault("history", "orders", "--key", "id=7", "--json", env=env)
    told = json.loads(done.stdout)
    assert kinds(told["versions"]) == ["first seen"]
    assert "looked for as it was typed" in told["notes"][0]


async def test_another_replica_identity_tells_rows_apart_as_well(place: Place) -> None:
    await place.does(
        "ALTER TABLE orders ADD COLUMN code text NOT NULL DEFAULT gen_random_uuid()::text",
        "CREATE UNIQUE INDEX by_code ON orders (code)",
        "ALTER TABLE orders REPLICA IDENTITY USING INDEX by_code",
    )
    assert (await place.backup()).kind == "full"
    await place.does("UPDATE orders SET code = 'seven' WHERE id = 7")
    await place.does("UPDATE orders SET id = 1007 WHERE id = 7")
    await place.does("DELETE FROM orders WHERE id = 1007")
    await place.backup()
    versions = await place.versions("id=7")
    assert kinds(versions) == ["first seen", "found in a backup", "update", "update"]
    assert (versions[2]["changed"], versions[3]["moved_to"]) == (["code"], {"id": "1007"})
    assert kinds(await place.versions("id=1007")) == ["update", "delete"]


async def test_a_full_replica_identity_tells_rows_apart_as_well(place: Place) -> None:
    await place.does("ALTER TABLE orders REPLICA IDENTITY FULL")
    assert (await place.backup()).kind == "full"
    await place.does(f"UPDATE orders SET note = '{LONG}' WHERE id = 7")
    await place.does("UPDATE orders SET state = 'paid', note = note WHERE id = 7")
    await place.does("DELETE FROM orders WHERE id = 7")
    await place.backup()
    versions = await place.versions("id=7")
    assert kinds(versions) == ["first seen", "update", "update", "delete"]
    assert versions[2]["row"] == {"id": "7", "state": "paid", "note": LONG}


async def test_windows_that_do_not_touch_the_table_are_not_read(place: Place) -> None:
    await place.does("UPDATE pairs SET v = 0")
    window = await place.backup()
    shutil.rmtree(place.folder / "backups" / window.id / "changes")
    assert kinds(await place.versions("id=7")) == ["first seen"]


async def test_full_backups_that_the_log_leads_past_are_not_read(place: Place) -> None:
    full = await place.backup("full")
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    await place.backup()
    shutil.rmtree(place.folder / "backups" / full.id / "data")
    assert kinds(await place.versions("id=7")) == ["first seen", "update"]


async def test_a_backup_whose_manifest_is_damaged_is_as_good_as_none_and_said(place: Place) -> None:
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    window = await place.backup()
    await place.backup("full")
    for manifest in (place.folder / "manifests").rglob(f"{window.id}*"):
        manifest.write_bytes(b"{}")
    told = await place.history("id=7")
    assert kinds(told["versions"]) == ["first seen", "found in a backup"]
    assert any(window.id in note for note in told["notes"])


async def test_a_window_that_is_damaged_is_said_and_not_skipped(place: Place) -> None:
    await place.does("UPDATE orders SET state = 'paid' WHERE id = 7")
    window = await place.backup()
    shutil.rmtree(place.folder / "backups" / window.id / "changes")
    code, message = await place.refused("history", "orders", "--key", "id=7")
    assert (code, window.id in message) == (4, True)


REFUSALS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a key column is missing": (("pairs", "--key", "a=x"), 2, "b.b"),
    "a column is not in the key": (("orders", "--key", "id=7", "--key", "state=new"), 2, "state"),
    "there is no key": (("loose", "--key", "n=1"), 2, "public.loose"),
    "a table beside the log never had the key": (("volatile", "--key", "n=1"), 4, "public.volatile"),
    "the key is generated": (("generated", "--key", "g=1"), 4, "public.generated"),
    "the table is in no backup": (("nowhere", "--key", "n=1"), 4, "nowhere"),
    "the key never existed": (("orders", "--key", "id=77777"), 4, "public.orders"),
    "the table is partitioned": (("halves", "--key", "id=7"), 2, "halves"),
    "the value is not of its type": (("orders", "--key", "id=seven"), 2, "id"),
}


@pytest.fixture(scope="module")
async def shared(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One for what changes nothing."""
    database = await (await servers.get(18)).clone("history", BUILD)
    made = Place(database, tmp_path_factory.mktemp("backups"))
    await made.backup()
    return made


@pytest.mark.parametrize("why", REFUSALS)
async def test_refused_with_an_exit_code_and_by_name_if(why: str, shared: Place) -> None:
    args, code, named = REFUSALS[why]
    found, message = await shared.refused("history", *args)
    assert (found, named in message) == (code, True), message


async def test_people_see_a_line_a_version_and_what_changed(place: Place) -> None:
    xid = await place.does(f"UPDATE orders SET state = 'paid', note = '{LONG}' WHERE id = 7")
    await place.backup()
    done = await rowvault("history", "orders", "--key", "id=7", env=place.env)
    heading, first, *columns, update, state, note, _, _ = done.stdout.splitlines()
    assert heading == "public.orders id=7"
    assert ", first seen" in first or "  first seen" in first
    assert columns == ["    id: 7", "    state: new", "    note: note 7"]
    assert f"  update, transaction {xid}, LSN " in update
    assert state == "    state: new → paid"
    assert note.startswith("    note: note 7 → xxx")
    assert len(note) < 100


async def test_a_table_that_is_not_in_the_log_is_told_by_backups_and_comes_back_by_them(place: Place) -> None:
    await place.does("INSERT INTO volatile VALUES (7)")
    there = await place.backup()
    await place.does("DELETE FROM volatile WHERE n = 7")
    gone = await place.backup()
    versions = await place.versions("n=7", table="volatile")
    assert kinds(versions) == ["found in a backup", "found in a backup"]
    assert [(version["backup"], version["row"]) for version in versions] == [
        (there.id, {"n": "7"}),
        (gone.id, None),
    ]
    done = await rowvault("history", "volatile", "--key", "n=7", env=place.env)
    _, came, _, went, _, hint = done.stdout.splitlines()
    assert came.startswith("between ")
    assert f"found in a backup, gone, in {gone.id}" in went
    assert "rowvault restore BACKUP --table public.volatile --key" in hint
    await place.command("restore", there.id, "--table=volatile", "--key=n=7", "--to=env:APP_DSN", "--yes")
    assert await place.database.value("SELECT n FROM volatile") == 7


async def drop_slot(database: Database) -> None:
    await database.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
    )
