"""The audit trail of real jobs, in a folder and in S3: nothing is forgotten, and nothing is forged unnoticed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.app import App, Request, open_app
from daemon.recorded import backup as take_backup
from daemon.recorded import keep
from daemon.settings.load import load_settings
from jobs.places.sweep import sweep
from jobs.postgres.errors import NoSuchTable, Unreachable
from jobs.progress import no_progress
from jobs.results import BackupResult
from jobs.trail import TrailReport, verify_trail
from storage.backends.local import LocalBackend
from storage.names import TRAIL
from storage.repository import Repository
from storage.trail import Event, append, read_head
from tests.conftest import Bucket, CreateDatabase, new_bucket
from tests.daemons import environment, running_daemon, settings_for
from tests.places import Planter, contents
from tests.programs import rowvault
from tests.proxy import FaultProxy
from tests.seaweed import S3Server
from tests.servers import Database

SCHEMA = """
    CREATE TABLE people (id int PRIMARY KEY, name text);
    INSERT INTO people SELECT n, 'somebody ' || n FROM generate_series(1, 100) n;
    CREATE TABLE "Orders" (id int PRIMARY KEY);
"""


@pytest.fixture
async def source(create_database: CreateDatabase) -> Database:
    return await create_database(key="trail", build=SCHEMA)


@pytest.fixture(scope="module")
async def shared_bucket(s3_server: S3Server) -> AsyncIterator[Bucket]:
    """One for all tests, each under a prefix of its own."""
    async with new_bucket(s3_server) as made:
        yield made


@pytest.fixture
async def proxy(shared_bucket: Bucket) -> AsyncIterator[FaultProxy]:
    """What stands between us and S3."""
    target = urlsplit(shared_bucket.endpoint_url)
    assert target.hostname is not None
    assert target.port is not None
    async with FaultProxy(target.hostname, target.port) as between:
        yield between


@pytest.fixture
def local(source: Database, tmp_path: Path) -> dict[str, str]:
    """Settings of a source and a folder."""
    return settings_for(source, tmp_path / "local")


@pytest.fixture
def both(source: Database, shared_bucket: Bucket, proxy: FaultProxy, tmp_path: Path) -> dict[str, str]:
    """Settings of a source and two places; S3 is reached by way of the proxy."""
    settings = settings_for(source, tmp_path / "local", shared_bucket)
    return settings | {
        "S3__PREFIX": tmp_path.name,
        "S3__ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "S3__RETRY_FOR": "1s",
    }


@dataclass
class Desk:
    """An application and what it warned of, as a command has it."""

    app: App
    warnings: list[str]

    async def back_up(self) -> BackupResult:
        recorder = self.app.recorder("me@here", self.warnings.append)
        return await take_backup(self.app, recorder, "full", Request(), no_progress)

    async def keep(self, backup: str) -> None:
        await keep(self.app, self.app.recorder("me@here", self.warnings.append), backup, "")

    async def verify(self, *, with_log: bool = True) -> TrailReport:
        return await verify_trail(self.app.repositories, self.app.log if with_log else None)

    async def trails(self) -> list[dict[str, bytes]]:
        return [await contents(place.backend, TRAIL) for place in self.app.repositories]


@asynccontextmanager
async def desk(settings: dict[str, str]) -> AsyncIterator[Desk]:
    async with open_app(load_settings(environment(settings), dotenv=None)) as app:
        yield Desk(app, [])


def told(report: TrailReport) -> list[tuple[str, str]]:
    return [(entry.what, entry.outcome) for entry in report.entries]


def found(report: TrailReport) -> list[tuple[str, str, int | None]]:
    return [(one.kind, one.place, one.entry) for one in report.problems]


async def command(*args: str, settings: dict[str, str], code: int = 0) -> Any:
    done = await rowvault(*args, "--json", env=environment(settings))
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_every_command_leaves_an_entry_that_says_who_what_when_and_the_outcome(
    both: dict[str, str], create_database: CreateDatabase
) -> None:
    backup = await command("backup", "--label", "before-2.0", settings=both)
    for words in (("verify", "latest"), ("keep", "latest"), ("release", "latest")):
        await command(*words, settings=both)
    target = await create_database()
    env = environment(both) | {"TARGET": target.dsn}
    done = await rowvault("restore", "--to", "env:TARGET", "--yes", env=env)
    assert (done.returncode, done.stderr.count("warning")) == (0, 0), done.stderr

    document = await command("trail", "--verify", settings=both)
    entries = document["entries"]
    assert [entry["what"] for entry in entries] == ["backup", "verify", "keep", "release", "restore"]
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5]
    assert {entry["outcome"] for entry in entries} == {"success"}
    assert {entry["backup"] for entry in entries} == {backup["id"]}
    assert all("@" in entry["who"] for entry in entries)
    assert entries == sorted(entries, key=lambda entry: str(entry["at"]))
    assert entries[0]["details"]["label"] == "before-2.0"
    assert (document["state"], document["problems"], document["recorded_heads"]) == ("success", [], 5)
    async with desk(both) as opened:
        here, there = await opened.trails()
        assert here == there


async def test_people_read_a_line_an_entry_newest_last(local: dict[str, str]) -> None:
    await command("backup", settings=local)
    await command("keep", "latest", settings=local)
    done = await rowvault("trail", "--verify", env=environment(local))
    first, second = [line for line in done.stdout.splitlines() if "success" in line]
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    assert "unbroken: 2 entries" in done.stdout
    assert done.stderr == ""


async def test_before_the_first_job_there_is_nothing_and_that_is_unbroken(local: dict[str, str]) -> None:
    document = await command("trail", "--verify", settings=local)
    assert (document["entries"], document["state"]) == ([], "success")


async def test_entries_hold_no_password_and_no_value_of_a_key(local: dict[str, str], source: Database) -> None:
    await command("backup", settings=local)
    await source.execute("DELETE FROM people WHERE id = 77")
    env = environment(local) | {"TARGET": source.dsn}
    done = await rowvault("restore", "--table", "people", "--key", "id=77", "--to", "env:TARGET", "--yes", env=env)
    assert done.returncode == 0, done.stderr
    async with desk(local) as opened:
        (objects,) = await opened.trails()
    restored = json.loads(objects[max(objects)])
    assert (restored["what"], restored["details"]["key"]) == ("restore", ["id"])
    text = b"".join(objects.values()).decode()
    assert str(urlsplit(source.dsn).password) not in text
    for chance in ("as_of", "target"):  # a moment and a port may have any digits
        del restored["details"][chance]
    assert "77" not in json.dumps(restored["details"])
    assert "somebody" not in text


async def test_a_backup_that_failed_is_remembered_with_the_kind_of_its_error(
    local: dict[str, str], source: Database
) -> None:
    async with desk(local | {"TABLES": "public.nothing"}) as opened:
        with pytest.raises(NoSuchTable):
            await opened.back_up()
        (entry,) = (await opened.verify()).entries
    assert (entry.what, entry.outcome, entry.details["error"]) == ("backup", "failed", "NoSuchTable")
    ((status, table, message),) = await source.fetch(
        "SELECT verification_status, table_name, error_message FROM rowvault.backup_verification_log"
    )
    assert (status, table) == ("failed", None)
    assert "public.nothing" in message


async def test_the_manifest_and_the_source_remember_the_head(local: dict[str, str], source: Database) -> None:
    async with desk(local) as opened:
        first = await opened.back_up()
        (place,) = opened.app.repositories
        head = await read_head([place])
        second = await opened.back_up()
        assert (await place.manifest(first.id)).trail_head is None
        remembered = (await place.manifest(second.id)).trail_head
    assert head is not None
    assert remembered is not None
    assert (remembered.number, remembered.sha256) == (head.number, head.sha256) == (1, head.sha256)
    rows = await source.fetch("SELECT number FROM rowvault.trail_head ORDER BY number")
    assert [number for (number,) in rows] == [1, 2]


@pytest.mark.parametrize("with_log", [True, False], ids=["found by the source", "found by a manifest"])
async def test_an_end_that_was_cut_off_in_every_place_is_found(both: dict[str, str], with_log: bool) -> None:
    async with desk(both) as opened:
        for _ in range(2):
            await opened.back_up()
        *_, first, _ = sorted((await opened.trails())[0])
        newest = (await opened.trails())[0].keys() - {first}
        for place in opened.app.repositories:
            await place.backend.delete([first, *newest] if not with_log else newest)
        problems = (await opened.verify(with_log=with_log)).problems
    assert [(one.kind, one.entry) for one in problems] == [("cut off", 2 if with_log else 1)]
    assert ("source database" in problems[0].message) is with_log


async def test_a_cut_that_is_followed_by_another_job_is_found_nonetheless(local: dict[str, str]) -> None:
    async with desk(local) as opened:
        backup = await opened.back_up()
        await opened.keep(backup.id)
        (place,) = opened.app.repositories
        await place.backend.delete([max((await opened.trails())[0])])
        await opened.keep(backup.id)
        assert found(await opened.verify()) == [("cut off", "every place", 2)]


@pytest.mark.parametrize("damaged", [0, 1], ids=["local", "s3"])
async def test_what_was_altered_or_cut_off_in_one_place_is_named(both: dict[str, str], damaged: int) -> None:
    async with desk(both) as opened:
        backup = await opened.back_up()
        for _ in range(3):
            await opened.keep(backup.id)
        place = opened.app.repositories[damaged]
        first, second, _, newest = sorted((await opened.trails())[damaged])
        await Planter(place.backend).flip(first)
        await place.backend.delete([second, newest])
        assert found(await opened.verify()) == [
            ("altered", place.place, 1),
            ("removed", place.place, 2),
            ("cut off", place.place, 4),
        ]


async def test_the_command_names_the_first_wrong_entry_and_exits_with_3(local: dict[str, str]) -> None:
    await command("backup", settings=local)
    await command("keep", "latest", settings=local)
    async with desk(local) as opened:
        (place,) = opened.app.repositories
        await Planter(place.backend).flip(min((await opened.trails())[0]))
    document = await command("trail", "--verify", settings=local, code=3)
    assert (document["state"], document["problems"][0]["kind"]) == ("failed", "altered")
    assert "local: trail entry 1 was altered" in document["error"]["message"]
    done = await rowvault("trail", "--verify", env=environment(local))
    assert done.returncode == 3
    assert "the trail is broken at entry 1" in done.stderr
    assert (await command("trail", settings=local))["entries"][0]["number"] == 2  # what is whole can be read


async def test_a_place_that_is_away_is_told_of_and_brought_into_step_by_the_next_job(
    both: dict[str, str], proxy: FaultProxy
) -> None:
    async with desk(both) as opened:
        backup = await opened.back_up()
        await proxy.refuse()
        assert (await opened.back_up()).state == "warning"
        assert [warning.split(":")[0] for warning in opened.warnings] == [
            "the audit trail is behind in s3 until the next entry"
        ]
        assert not (await opened.verify()).all_answered
        await proxy.heal()
        waiting = await opened.verify()
        assert (found(waiting), [place.behind for place in waiting.places]) == ([], [0, 1])
        await opened.keep(backup.id)
        here, there = await opened.trails()
        assert (here == there, len(here)) == (True, 3)
        assert found(await opened.verify()) == []


async def test_who_has_one_place_only_writes_there_and_both_ends_are_joined(
    both: dict[str, str], local: dict[str, str], proxy: FaultProxy
) -> None:
    only_s3 = {name: value for name, value in both.items() if name != "LOCAL_PATH"}
    async with desk(both) as opened, desk(only_s3) as elsewhere:
        backup = await opened.back_up()
        await elsewhere.keep(backup.id)
        await proxy.refuse()
        await opened.back_up()
        await proxy.heal()
        await opened.back_up()
        report = await opened.verify()
        assert (found(report), [entry.number for entry in report.entries]) == ([], [1, 2, 2, 3])
        here, there = await opened.trails()
        assert here == there


async def test_a_new_folder_is_filled_from_the_other_place(both: dict[str, str], tmp_path: Path) -> None:
    async with desk(both) as opened:
        await opened.back_up()
    async with desk(both | {"LOCAL_PATH": str(tmp_path / "another")}) as opened:
        await opened.back_up()
        here, there = await opened.trails()
        assert (here == there, len(here)) == (True, 2)
        assert found(await opened.verify()) == []


async def test_entries_written_at_once_are_all_there_and_the_trail_is_unbroken(both: dict[str, str]) -> None:
    async with desk(both) as opened:
        backup = await opened.back_up()
        await asyncio.gather(*(opened.keep(backup.id) for _ in range(10)))
        await opened.keep(backup.id)
        report = await opened.verify()
        assert told(report) == [("backup", "success"), *[("keep", "success")] * 11]
        assert (found(report), opened.warnings) == ([], [])
        here, there = await opened.trails()
        assert here == there


@pytest.fixture
def in_the_way(local: dict[str, str]) -> None:
    """The trail's folder cannot be made."""
    path = Path(local["LOCAL_PATH"])
    path.mkdir()
    (path / "trail").write_text("in the way")


@pytest.mark.usefixtures("in_the_way")
async def test_a_place_that_refuses_the_trail_fails_no_backup(local: dict[str, str]) -> None:
    async with desk(local) as opened:
        assert (await opened.back_up()).state == "success"
        assert len(opened.warnings) == 1
        assert opened.warnings[0].startswith("the audit trail could not be written: ")


async def test_a_job_that_fails_before_there_is_a_repository_makes_none(local: dict[str, str]) -> None:
    async with desk(local | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}) as opened:
        with pytest.raises(Unreachable):
            await opened.back_up()
        (place,) = opened.app.repositories
        assert [one async for one in place.backend.list()] == []
        assert opened.warnings == []


async def test_sweeping_leaves_the_trail_alone(tmp_path: Path) -> None:
    place = Repository("local", LocalBackend(tmp_path))
    await place.bind("7400000000000000001", "shop")
    await append([place], Event(datetime.now(UTC), "me@here", "backup", "failed"))
    before = await contents(place.backend, TRAIL)
    assert (await sweep(place)).removed == 0
    assert await contents(place.backend, TRAIL) == before
    assert len(before) == 1


async def test_what_the_daemon_does_is_the_daemons(local: dict[str, str]) -> None:
    async with running_daemon(local) as daemon:
        await daemon.logged("backup committed")
        await daemon.run_ended()
    (entry,) = (await command("trail", "--verify", settings=local))["entries"]
    assert (entry["who"], entry["what"], entry["details"]["job"]) == ("daemon", "backup", "daily-full")
