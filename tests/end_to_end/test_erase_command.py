"""`rowvault erase` as people and scripts give it: what it shows, what it refuses, what it remembers."""

from pathlib import Path

import pytest

from tests.conftest import Bucket, CreateDatabase
from tests.erasing import objects_with
from tests.faults.commands import (
    DONE,
    IMPATIENT,
    NOT_FOUND,
    REFUSED,
    USAGE,
    document,
    off_site,
    opened,
    refuse,
    settings_of,
    succeed,
)
from tests.faults.places import contents
from tests.programs import rowvault
from tests.servers import Database

BUILD = """
    CREATE TABLE people (id int PRIMARY KEY, mail text, note text);
    INSERT INTO people SELECT n, 'p' || n || '@example.org', 'note ' || n FROM generate_series(1, 300) n;
    CREATE TABLE parcels (id int PRIMARY KEY, person int REFERENCES people ON DELETE CASCADE);
    INSERT INTO parcels SELECT n, 1 + n % 300 FROM generate_series(1, 600) n;
    CREATE TABLE letters (id int PRIMARY KEY, mail text, body jsonb);
    INSERT INTO letters VALUES (1, 'p7@example.org', '{"to": "p7@example.org"}');
"""
WHERE = ("--where", "mail=p7@example.org", "--table", "people")


@pytest.fixture
async def database(create_database: CreateDatabase) -> Database:
    return await create_database(key="erase command", build=BUILD)


@pytest.fixture
async def settings(database: Database, tmp_path: Path) -> dict[str, str]:
    """A database with one full backup, its person 7 gone since."""
    made = settings_of(database, tmp_path / "backups")
    await succeed("backup", "incremental", settings=made)
    await database.execute("DELETE FROM people WHERE id = 7")
    return made


async def test_it_shows_first_what_it_would_erase_and_then_erases_that(settings: dict[str, str]) -> None:
    shown = await succeed("erase", *WHERE, "--children", "cascade", "--dry-run", settings=settings)
    planned = await rowvault("erase", *WHERE, "--children", "cascade", "--dry-run", env=settings)
    assert "public.people" in planned.stdout
    done = await succeed("erase", *WHERE, "--children", "cascade", "--yes", settings=settings)
    [people, parcels] = done["tables"]
    assert (people["table"], people["keys"], people["rows"]) == ("public.people", 1, {"full": 1})
    assert (parcels["table"], parcels["keys"], parcels["rows"]) == ("public.parcels", 2, {"full": 2})
    assert shown["tables"][0]["rows"] == people["rows"]
    assert done["state"] == "success"
    assert {(one["table"], one["column"]) for one in done["elsewhere"]} == {
        ("public.letters", "mail"),
        ("public.letters", "body"),
    }
    checked = await succeed("erase", "--check", done["id"], settings=settings)
    assert checked["remaining"] == []
    assert await succeed("erase", "--resume", settings=settings) == []


async def test_a_volume_that_is_not_mounted_is_not_passed_over(
    settings: dict[str, str], bucket: Bucket, tmp_path: Path
) -> None:
    """Its rows would stay, and nobody would know."""
    both = settings | off_site(bucket)
    await succeed("sync", settings=both)
    elsewhere = both | {"ROWVAULT_LOCAL_PATH": str(tmp_path / "elsewhere")}
    arguments = ("erase", *WHERE, "--children", "cascade", "--yes")
    answer = await rowvault(*arguments, "--json", env=elsewhere)
    assert answer.returncode == REFUSED
    assert "is a volume not mounted?" in document(answer)["error"]["message"]
    assert not (tmp_path / "elsewhere" / "backups").exists()
    await succeed("sync", settings=elsewhere)
    assert (await succeed(*arguments, settings=elsewhere))["state"] == "success"


async def test_the_trail_remembers_it_without_the_value(settings: dict[str, str]) -> None:
    done = await succeed("erase", *WHERE, "--children", "null", "--yes", settings=settings)
    entries = (await succeed("trail", settings=settings))["entries"]
    assert [entry["what"] for entry in entries] == ["backup", "backup", "erase"]
    assert entries[1]["details"]["reason"] == "before an erasure"
    [details] = [entry["details"] for entry in entries if entry["what"] == "erase"]
    assert details["erasure"] == done["id"]
    assert [one["after"] for one in details["manifests"]] == [one["after"] for one in done["revisions"]]
    kept = {name: data for name, data in (await contents(settings)).items() if name.endswith(".json")}
    assert any("/erasures/" in name for name in kept)
    assert not [name for name, data in kept.items() if b"p7@example.org" in data]


async def test_what_cannot_be_meant_is_refused(settings: dict[str, str]) -> None:
    asked = ("erase", "--yes", "--where")
    for arguments, code, said in (
        (("mail",), USAGE, "'mail' is not COL=VALUE"),
        (("mail=x", "--table", "people", "--json-path", "a..b"), USAGE, "has an empty step"),
        (("mail=x",), USAGE, "several tables have a column mail"),
        (("nothing=x",), USAGE, "no table of any backup has a column nothing"),
        (("mail=x", "--table", "nowhere"), NOT_FOUND, "no backup has a table nowhere"),
        (("mail=x", "--table", "parcels"), USAGE, "public.parcels has no column mail"),
        (("mial=x", "--table", "people"), USAGE, "it has: "),
        (("mail=x", "--table", "people"), NOT_FOUND, "no backup has a row of public.people where mail is that"),
        (("mail=x", "--table", "people", "--json-path", "a"), USAGE, "column mail of public.people is text"),
        (("body=x", "--json-path", "no.such"), NOT_FOUND, "where body at no.such is that"),
        (("id=x", "--table", "people"), USAGE, "--where id: invalid input syntax"),
        ((WHERE[1], "--table", "people"), REFUSED, "point to rows that would be erased"),
        (("mail=p8@example.org", "--table", "people"), REFUSED, "still in public.people of the database"),
    ):
        answer = await rowvault(*asked, *arguments, "--json", env=settings)
        assert (answer.returncode, said in answer.stdout) == (code, True), answer.stdout + answer.stderr


async def test_a_dry_run_counts_while_the_rows_are_alive_and_says_that_they_are_in_the_way(
    settings: dict[str, str],
) -> None:
    asked = ("erase", "--where", "mail=p8@example.org", "--table", "people", "--children", "cascade", "--dry-run")
    answer = await rowvault(*asked, "--json", env=settings)
    plan = document(answer)
    assert (answer.returncode, plan["dry_run"]) == (REFUSED, True)
    assert {"table": "public.people", "rows": 1} in plan["alive"]
    assert plan["tables"][0]["keys"] == 1
    assert "still in public.people of the database" in plan["error"]["message"]
    shown = await rowvault(*asked, env=settings)
    assert "public.people" in shown.stdout
    assert "delete them there first" in shown.stderr


async def test_without_a_yes_nothing_is_erased(settings: dict[str, str]) -> None:
    answer = await rowvault("erase", *WHERE, "--children", "cascade", "--json", env=settings)
    assert (answer.returncode, document(answer)["error"]["hint"]) == (REFUSED, "say --yes")
    assert await succeed("erase", "--resume", settings=settings) == []
    assert (await succeed("show", "latest", settings=settings))["revision"] == 0


async def test_what_an_erasure_is_about_is_said_once(settings: dict[str, str]) -> None:
    """A dry run of `--resume` would have finished what was interrupted."""
    for arguments in (("--resume", "--dry-run"), ("--resume", "--table", "people"), ("--check", "x", "--dry-run")):
        error = await refuse("erase", *arguments, settings=settings, code=USAGE)
        assert "go with --where" in error["message"]


async def test_diffs_and_verifications_go_on_as_before(settings: dict[str, str]) -> None:
    await succeed("erase", *WHERE, "--children", "cascade", "--yes", settings=settings)
    assert (await rowvault("diff", "latest", env=settings)).returncode == DONE
    assert (await succeed("verify", "--all", settings=settings))[-1]["state"] == "success"


async def test_a_place_that_cannot_say_what_was_erased_is_named_wherever_rows_are_read(
    settings: dict[str, str], bucket: Bucket, create_database: CreateDatabase, tmp_path: Path
) -> None:
    away = settings | off_site(bucket, "http://127.0.0.1:1") | IMPATIENT
    to, out = (await create_database()).dsn, str(tmp_path / "export")
    for command in (
        ("restore", "--to", to, "--dry-run"),
        ("restore", "--to", to, "--yes"),
        ("export", "--format", "csv", "--out", out, "--dry-run"),
        ("export", "--format", "csv", "--out", out),
        ("diff", "latest", "--against", "latest"),
    ):
        said = (await succeed(*command, settings=away))["warnings"]
        assert [one for one in said if one.startswith("s3 could not say what was erased")], command
    told = await succeed("history", "people", "--key", "id=8", settings=away)
    assert [one for one in told["notes"] if one.startswith("s3 could not say what was erased")]
    people = await rowvault("diff", "latest", env=away)
    assert "s3 could not say what was erased" in people.stdout


async def test_where_the_database_is_no_more_a_restored_one_takes_its_place(
    settings: dict[str, str], create_database: CreateDatabase
) -> None:
    again = await create_database()
    await succeed("restore", "--to", again.dsn, "--yes", settings=settings)
    there = settings | {"ROWVAULT_DATABASE_URL": again.dsn}
    await succeed("backup", "--adopt", settings=there)
    await again.execute("DELETE FROM people WHERE id = 7")
    done = await succeed("erase", *WHERE, "--children", "cascade", "--yes", settings=there)
    assert (done["state"], done["tables"][0]["rows"]) == ("success", {"full": 2})
    async with opened(there) as app:
        assert await objects_with(app.repositories, b"note 7\n") == []
