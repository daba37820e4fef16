"""The daemon lets old backups go by itself, and remembers it; what a command shows of retention."""

import json
from datetime import UTC
from pathlib import Path

from jobs.report import policy_report
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.names import REPOSITORY
from storage.repository import Repository
from tests.conftest import CreateDatabase
from tests.daemons import environment, listed, running_daemon, settings_for
from tests.manifests import SYSTEM, made_up_full
from tests.places import Planter
from tests.programs import rowvault

DAY = 86_400
PRUNED = "rowvault_pruned_backups_total place=local"
POLICY = {"ROWVAULT_RETENTION__DAILY": "1"}


async def test_the_daemon_lets_old_backups_go_and_remembers_it(create_database: CreateDatabase, tmp_path: Path) -> None:
    notes = await create_database(key="few notes", build="CREATE TABLE notes AS SELECT 1 AS n")
    settings = settings_for(notes, tmp_path)
    for _ in range(2):
        assert (await rowvault("backup", env=environment(settings))).returncode == 0
    newer, older = await listed(settings)
    assert (newer.tiers, older.reasons) == (("daily",), ())
    async with running_daemon(settings) as daemon:
        line = await daemon.logged("backups were removed that no policy keeps")
        assert line["backups"] == [f"{older.id} in local"]
        await daemon.metric_becomes(PRUNED, 1)
    assert [one.id for one in await listed(settings)] == [newer.id]
    trail = json.loads((await rowvault("trail", "--json", env=environment(settings))).stdout)["entries"]
    *_, last = trail
    assert (last["who"], last["what"], last["outcome"]) == ("daemon", "prune", "success")
    assert last["details"]["removed"] == {"local": [older.id]}


async def test_the_command_explains_each_decision_and_needs_no_database(tmp_path: Path) -> None:
    place = Repository("local", LocalBackend(tmp_path))
    await place.bind(SYSTEM, "shop")
    backups = [made_up_full(day * DAY, since=day * 1000, lsn=day * 1000 + 10) for day in range(3)]
    for one in backups:
        await one.commit(place)
    oldest, marked, newest = (one.manifest.id for one in backups)
    await place.keep(marked, "")
    settings = POLICY | {"ROWVAULT_LOCAL_PATH": str(tmp_path)}
    dry = await rowvault("prune", "--dry-run", env=settings)
    assert dry.returncode == 0
    heading, *rows, summary = [" ".join(line.split()) for line in dry.stdout.splitlines()]
    assert heading == "id place decision tier why until"
    assert rows[0].startswith(f"{newest} local keep daily newest good 20")
    assert rows[1:] == [f"{marked} local keep kept released", f"{oldest} local remove"]
    assert summary == f"1 copies would be removed, {backups[0].manifest.bytes_stored} B; 2 stay"
    assert len((await place.catalogue()).entries) == 3
    done = await rowvault("prune", env=settings)
    assert done.stdout.splitlines()[-1].startswith("1 copies removed")
    again = json.loads((await rowvault("prune", "--json", env=settings)).stdout)
    assert (again["state"], [row["action"] for row in again["backups"]]) == ("success", ["keep", "keep"])
    trail = json.loads((await rowvault("trail", "--json", env=settings)).stdout)["entries"]
    assert [(one["what"], one["details"]["removed"]) for one in trail] == [("prune", {"local": [oldest]})]


async def test_nothing_of_another_database_goes(create_database: CreateDatabase, tmp_path: Path) -> None:
    """As where a prefix was mistyped: each database's backups are another's to let go."""
    notes = await create_database(key="few notes", build="CREATE TABLE notes AS SELECT 1 AS n")
    place = Repository("local", LocalBackend(tmp_path))
    await place.bind(SYSTEM, "shop")
    for day in range(2):
        await made_up_full(day * DAY, since=day * 1000, lsn=day * 1000 + 10).commit(place)
    settings = environment(settings_for(notes, tmp_path)) | POLICY
    refused = await rowvault("prune", "--json", env=settings)
    assert refused.returncode == 5
    assert "of database 'shop' of system" in json.loads(refused.stdout)["error"]["message"]
    assert len((await place.catalogue()).entries) == 2
    assert (await rowvault("erase", "--where", "n=1", "--dry-run", env=settings)).returncode == 5


async def test_the_report_shows_what_is_kept_and_what_was_done(tmp_path: Path) -> None:
    place = Repository("local", LocalBackend(tmp_path))
    await place.bind(SYSTEM, "shop")
    backups = [made_up_full(day * DAY, since=day * 1000, lsn=day * 1000 + 10) for day in (0, 1, 4)]
    for one in backups:
        await one.commit(place)
        await place.record_verification(one.manifest.id, "success", {})
    settings = POLICY | {"ROWVAULT_LOCAL_PATH": str(tmp_path)}
    kept = backups[1].manifest.id
    for command in (("keep", kept, "--reason", "audit"), ("prune",)):
        assert (await rowvault(*command, env=settings)).returncode == 0
    shown = await rowvault("report", env=settings)
    assert shown.returncode == 0, shown.stderr
    text = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert text[0].startswith(f"Report on the backups of shop (system {SYSTEM})")
    assert f"{kept} local success kept released" in text
    assert [line for line in text if "keep success" in line and line.endswith("reason audit")]
    assert text[-1] == "audit trail: unbroken (2 entries, 0 heads remembered elsewhere)"
    document = json.loads((await rowvault("report", "--json", env=settings)).stdout)
    assert document["places"][0]["policy"]["daily"] == 1
    assert [(one["what"], one["success"]) for one in document["activities"]] == [("keep", 1), ("prune", 1)]
    assert document["gaps"][0] == {"first": "2023-11-16", "last": "2023-11-17"}
    assert document["trail"]["state"] == "warning"  # no source was asked for the heads that it remembers
    since = json.loads((await rowvault("report", "--since", "2099-01-01", "--json", env=settings)).stdout)
    assert (since["activities"], since["entries"]) == ([], [])


async def test_a_report_tells_of_a_place_that_cannot_say_whose_backups_it_holds() -> None:
    places = Repository("local", MemoryBackend()), Repository("s3", MemoryBackend())
    for place in places:
        await place.bind("1", "shop")
    await Planter(places[0].backend).truncate(REPOSITORY)
    report = await policy_report(places, None, UTC)
    assert report.database is not None
    assert report.database.database == "shop"
    [note] = report.notes
    assert note.startswith("repository.json in local cannot be read")
    assert "rowvault sync" in note


async def test_a_report_on_an_altered_trail_says_so(tmp_path: Path) -> None:
    place = Repository("local", LocalBackend(tmp_path))
    await place.bind(SYSTEM, "shop")
    await made_up_full(0, since=0, lsn=10).commit(place)
    settings = POLICY | {"ROWVAULT_LOCAL_PATH": str(tmp_path)}
    assert (await rowvault("keep", "latest", env=settings)).returncode == 0
    [entry] = (tmp_path / "trail").iterdir()
    entry.write_text(entry.read_text().replace('"keep"', '"release"'))
    answer = await rowvault("report", "--json", env=settings)
    assert answer.returncode == 3
    assert json.loads(answer.stdout)["error"]["message"].startswith("the trail is broken: local: ")
