"""Encryption from the command line: a daemon with public keys alone, and a person with the identity."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CreateDatabase, new_bucket
from tests.faults.commands import (
    DIFFERENCE,
    DONE,
    USAGE,
    Document,
    document,
    off_site,
    opened,
    refuse,
    settings_of,
    succeed,
)
from tests.following import lines_of
from tests.keys import new_key
from tests.places import backups_alike, contents
from tests.programs import rowvault
from tests.seaweed import S3Server
from tests.servers import DEFAULT_MAJOR, Database, Servers

KEY, ESCROW, STRANGER = new_key(), new_key(), new_key()
MARKER = "xyzzysecret"
BUILD = f"""
    CREATE TABLE items (id int PRIMARY KEY, note text);
    INSERT INTO items SELECT n, 'note ' || n FROM generate_series(1, 500) n;
    UPDATE items SET note = '{MARKER}' WHERE id = 7;
"""


@dataclass(frozen=True)
class Vault:
    """A database that was followed into two places by who holds public keys alone, and identities in files."""

    database: Database
    daemon: dict[str, str]
    identity: Path
    stranger: Path
    changed_at: str
    results: tuple[Document, ...]

    @property
    def person(self) -> dict[str, str]:
        return self.daemon | {"ROWVAULT_ENCRYPTION__IDENTITY_FILE": str(self.identity)}

    @property
    def newest(self) -> str:
        return str(self.results[-1]["id"])


@pytest.fixture(scope="module")
async def vault(
    servers: Servers, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Vault]:
    """A full backup, and a window in which a row went."""
    server = await servers.get(DEFAULT_MAJOR)
    database, folder = await server.create(), tmp_path_factory.mktemp("vault")
    await database.execute(BUILD)
    for name, key in (("identity", ESCROW), ("stranger", STRANGER)):
        (folder / name).write_text(f"{key.identity}\n")
        (folder / name).chmod(0o600)
    async with new_bucket(s3_server) as bucket:
        settings = settings_of(
            database, folder / "local", ENCRYPTION__RECIPIENTS=f"{KEY.public},{ESCROW.public}", LOG_LEVEL="debug"
        ) | off_site(bucket)
        results = [await succeed("backup", "incremental", settings=settings)]
        changed_at = str(await database.value("SELECT clock_timestamp()"))
        await database.execute("DELETE FROM items WHERE id = 7")
        results.append(await succeed("backup", "incremental", settings=settings))
        yield Vault(database, settings, folder / "identity", folder / "stranger", changed_at, tuple(results))
    await server.drop(database)


def test_backups_succeed_with_public_keys_alone_and_say_what_was_not_proved(vault: Vault) -> None:
    for result in vault.results:
        assert result["state"] == "success"
        assert {place["state"] for place in result["places"]} == {"committed"}
        assert any("no identity at hand opens them" in one for one in result["warnings"])


async def test_verifying_without_an_identity_is_a_warning_that_says_so(vault: Vault) -> None:
    verified = await succeed("verify", vault.newest, settings=vault.daemon)
    assert (verified["state"], verified["problems"]) == ("warning", [])
    assert "their stored bytes were checked" in verified["not_proved"][0]
    people = await rowvault("verify", vault.newest, env=vault.daemon)
    assert people.returncode == DONE
    assert "not proved: the plain text of" in people.stdout
    verified = await succeed("verify", vault.newest, settings=vault.person)
    assert (verified["state"], verified["not_proved"]) == ("success", [])


async def test_what_needs_an_identity_is_refused_at_once_and_says_whose_and_how(vault: Vault) -> None:
    stranger = vault.daemon | {"ROWVAULT_ENCRYPTION__IDENTITY_FILE": str(vault.stranger)}
    what = f"is encrypted for {KEY.public}, {ESCROW.public}, and"
    for settings, missing, command in (
        (vault.daemon, "no identity was given", ("restore", "--to", vault.database.dsn, "--yes")),
        (vault.daemon, "no identity was given", ("diff", str(vault.results[0]["id"]))),
        (vault.daemon, "no identity was given", ("history", "items", "--key", "id=7")),
        (stranger, "the identity given is none of theirs", ("diff", "latest")),
    ):
        error = await refuse(*command, settings=settings, code=USAGE)
        assert f"{what} {missing}" in error["message"]
        assert "ENCRYPTION__IDENTITY_FILE" in error["hint"]


async def test_a_drill_without_an_identity_is_a_warning_in_the_trail_and_no_report(vault: Vault) -> None:
    error = await refuse("drill", settings=vault.daemon, code=USAGE)
    assert "no identity was given" in error["message"]
    trail = (await succeed("trail", settings=vault.daemon))["entries"]
    drills = [entry for entry in trail if entry["what"] == "drill"]
    assert {entry["outcome"] for entry in drills} == {"warning"}
    async with opened(vault.daemon) as app:
        assert not await contents(app.repositories[0].backend, "drills/")


async def test_whatever_lacks_an_identity_is_a_warning_in_the_trail_and_no_success(
    vault: Vault, create_database: CreateDatabase, tmp_path: Path
) -> None:
    commands = (
        ("erase", "--where", "id=7", "--table", "items", "--yes"),
        ("export", "--format", "csv", "--out", str(tmp_path / "export")),
        ("restore", "--to", (await create_database()).dsn, "--yes"),
    )
    for command in commands:
        done = await rowvault(*command, "--json", env=vault.daemon)
        assert (done.returncode, "no identity was given" in document(done)["error"]["message"]) == (USAGE, True)
        [*_, last] = (await succeed("trail", settings=vault.daemon))["entries"]
        assert (last["what"], last["outcome"], last["details"]["error"]) == (command[0], "warning", "NoIdentity")
    assert not (tmp_path / "export").exists()
    number = last["number"]
    for command in commands:
        asked = (*(one for one in command if one != "--yes"), "--dry-run")
        assert (await rowvault(*asked, env=vault.daemon)).returncode == USAGE
    assert (await succeed("trail", settings=vault.daemon))["entries"][-1]["number"] == number


async def test_a_drill_may_have_an_identity_of_its_own(vault: Vault) -> None:
    settings = vault.daemon | {
        "ROWVAULT_DRILL__IDENTITY_FILE": str(vault.identity),
        "ROWVAULT_DRILL__DATABASE_URL": vault.database.server.maintenance.dsn,
    }
    result = await succeed("drill", settings=settings)
    assert result["state"] == "success"
    assert "random moment" in {check["name"] for check in result["checks"]}
    await refuse("diff", "latest", settings=settings, code=USAGE)


async def test_the_identity_opens_everything_from_either_place(vault: Vault, create_database: CreateDatabase) -> None:
    away = {name: value for name, value in vault.person.items() if name != "ROWVAULT_LOCAL_PATH"}
    for settings in (vault.person, away):
        target = await create_database()
        await succeed("restore", "--to", target.dsn, "--yes", settings=settings)
        assert await lines_of(target) == await lines_of(vault.database)
        await succeed(
            "restore", "--at", vault.changed_at, "--table", "items", "--key", "id=7", "--to", target.dsn, "--yes",
            settings=settings,
        )  # fmt: skip
        assert await target.value("SELECT note FROM items WHERE id = 7") == MARKER
    told = await succeed("history", "items", "--key", "id=7", settings=vault.person)
    assert [version["kind"] for version in told["versions"]] == ["first seen", "delete"]
    assert (await rowvault("diff", "latest", env=vault.person)).returncode == DONE
    first = str(vault.results[0]["id"])
    assert (await rowvault("diff", first, env=vault.person)).returncode == DIFFERENCE


async def test_no_secret_and_no_row_is_stored_or_said(vault: Vault) -> None:
    secret = ESCROW.identity.removeprefix("AGE-SECRET-KEY-1")
    done = await rowvault("verify", vault.newest, env=vault.person)
    shown = await rowvault("show", vault.newest, "--json", env=vault.person)
    assert (done.returncode, shown.returncode) == (DONE, DONE)
    assert json.loads(shown.stdout)["encryption"]["recipients"] == [KEY.public, ESCROW.public]
    for text in (done.stdout, done.stderr, shown.stdout, shown.stderr):
        assert secret not in text.upper()
    async with opened(vault.person) as app:
        assert await backups_alike(*app.repositories)
        for repository in app.repositories:
            for name, data in (await contents(repository.backend)).items():
                assert secret.encode() not in data.upper(), name
                assert MARKER.encode() not in data, name


async def test_temporary_files_have_no_place_among_encrypted_backups(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    plain = {name: value for name, value in vault.daemon.items() if "RECIPIENTS" not in name}
    for settings, beside in ((plain, True), (vault.daemon, False), (vault.person, False)):
        async with opened(settings) as app:
            assert (app.scratch is not None) == beside


@pytest.mark.parametrize("command", [("backup",), ("list",), ("doctor",)], ids=lambda command: command[0])
async def test_an_identity_file_that_cannot_be_used_is_told_before_anything_is_done(
    vault: Vault, tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = tmp_path / "identity"
    settings = vault.daemon | {"ROWVAULT_ENCRYPTION__IDENTITY_FILE": str(path)}
    path.write_text(ESCROW.identity[:-1])
    error = await refuse(*command, settings=settings, code=USAGE)
    assert error["message"].startswith(f"ROWVAULT_ENCRYPTION__IDENTITY_FILE: {path}: line 1 is not an age identity")
    assert ESCROW.identity[:-1] not in error["message"] + error["hint"]
