"""What the commands print: plain tables in a pipe, colours on a terminal, one JSON document with `--json`, help."""

import asyncio
import json
import os
import pty
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from daemon.cli import cli
from tests.daemons import environment, settings_for
from tests.programs import command_environment, rowvault
from tests.servers import DEFAULT_MAJOR, Servers

LONG = "a name as long as names can be, which is sixty-three bytes, abc"
SCHEMA = f"""
    CREATE TABLE people AS SELECT n FROM generate_series(1, 1234) n;
    CREATE TABLE "{LONG}" (n int);
    CREATE VIEW everybody AS SELECT * FROM people;
"""
LABEL = "[red]before[/x] :key: 2.0"
BUILT = {
    "backup",
    "demo",
    "diff",
    "doctor",
    "drill",
    "erase",
    "export",
    "history",
    "keep",
    "list",
    "prune",
    "release",
    "report",
    "restore",
    "run",
    "settings",
    "show",
    "sync",
    "teardown",
    "trail",
    "verify",
}
COMMANDS = typer.main.get_group(cli).commands


@pytest.fixture(scope="module")
async def env(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """A database of two tables, and an empty folder for its backups."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.create()
    await database.execute(SCHEMA)
    yield environment(settings_for(database, tmp_path_factory.mktemp("local")))
    await server.drop(database)


@pytest.fixture(scope="module")
async def backup(env: dict[str, str]) -> dict[str, Any]:
    """The document of a backup that was taken."""
    done = await rowvault("backup", "--label", LABEL, "--reason", "migration 41", "--keep", "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


async def plain(*args: str, env: dict[str, str]) -> str:
    """What a command prints into a pipe: text without colours, nothing on stderr."""
    done = await rowvault(*args, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(r"[\x1b─-╿]", done.stdout)
    return done.stdout


def test_only_what_is_built_is_a_command() -> None:
    assert set(COMMANDS) == BUILT


@pytest.mark.parametrize("name", sorted(BUILT))
def test_help_of_every_command_works_and_has_an_example(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output


@pytest.mark.parametrize("name", sorted(BUILT))
def test_help_breaks_lines_only_where_the_terminal_ends_and_before_examples(name: str) -> None:
    assert not re.search(r"[^\n]\n(?![\n ])", COMMANDS[name].help or "")


@pytest.mark.parametrize("name", sorted(BUILT))
def test_every_example_is_a_command_line_that_is_understood(name: str) -> None:
    text = COMMANDS[name].help or ""
    examples = re.split(r"Examples?:", text)[1].strip().splitlines()
    for example in examples:
        assert len(example) <= 78 or "ROWVAULT_" in example, "a terminal of 80 columns breaks it"
        words = shlex.split(example.split("|")[0])
        program = words.index("rowvault")
        assert words[program + 1] == name
        COMMANDS[name].make_context(name, words[program + 2 :])


def test_the_help_says_where_settings_come_from_and_what_exit_codes_mean() -> None:
    text = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    assert "ROWVAULT_DATABASE_URL" in text
    assert "5 refused for safety" in text


async def test_backup_as_json_is_what_the_contract_says(backup: dict[str, Any]) -> None:
    assert {"id", "kind", "state", "places", "tables", "duration_seconds", "verify_seconds"} <= backup.keys()
    assert (backup["kind"], backup["state"]) == ("full", "success")
    assert backup["places"] == [{"name": "local", "state": "committed", "error": None}]
    assert {table["name"]: table["rows"] for table in backup["tables"]} == {"people": 1234, LONG: 0}
    assert set(backup["tables"][0]) == {"schema", "name", "rows", "bytes_raw", "bytes_stored"}


async def test_list_prints_a_line_for_each_backup(env: dict[str, str], backup: dict[str, Any]) -> None:
    heading, line = (await plain("list", env=env)).splitlines()
    columns = ["id", "kind", "state", "rows", "stored", "reaches", "tier", "until", "places", "label"]
    assert heading.split() == columns
    assert "  daily  released  " in line
    assert line.startswith(f"{backup['id']}  full  success  1,234")
    assert line.rstrip().endswith(f"local committed  {LABEL} kept")


async def test_list_as_json_is_what_the_contract_says(env: dict[str, str], backup: dict[str, Any]) -> None:
    [listed] = json.loads(await plain("list", "--json", env=env))
    expected = {"id", "kind", "state", "label", "created_at", "recoverable_to", "places", "rows", "bytes_stored"}
    assert expected <= listed.keys()
    assert (listed["id"], listed["label"], listed["rows"]) == (backup["id"], LABEL, 1234)
    assert (listed["tiers"], listed["reasons"], listed["kept_until"]) == (
        ["daily"],
        ["kept", "daily", "newest good"],
        None,
    )
    assert listed["created_at"].endswith("Z")


async def test_show_prints_one_backup(env: dict[str, str], backup: dict[str, Any]) -> None:
    shown = await plain("show", "latest", env=env)
    assert f"  backup  {backup['id']} (full)" in shown
    assert f"   label  {LABEL}" in shown
    assert "  reason  migration 41" in shown
    assert re.search(rf'^public\."{LONG}" +0 ', shown, re.MULTILINE)
    assert "definition only: view public.everybody" in shown


async def test_show_as_json_is_the_manifest(env: dict[str, str], backup: dict[str, Any]) -> None:
    manifest = json.loads(await plain("show", backup["id"], "--json", env=env))
    assert manifest["id"] == backup["id"]
    assert manifest["source"]["server_version"]
    rows = {table["name"]: sum(part["rows"] for part in table["parts"]) for table in manifest["tables"]}
    assert rows == {"people": 1234, LONG: 0}


async def test_settings_are_listed_a_line_each_without_any_being_set() -> None:
    shown = (await plain("settings", env={})).splitlines()
    assert shown[0].split() == ["setting", "default", "meaning"]
    [full] = [line for line in shown if "SCHEDULE__FULL" in line]
    assert re.match(r"ROWVAULT_SCHEDULE__FULL +0 2 \* \* \* +When to take a full backup ", full)
    assert all(line.startswith("ROWVAULT_") for line in shown[1:])


async def test_on_a_terminal_states_are_coloured(env: dict[str, str], backup: dict[str, Any]) -> None:
    shown = await on_a_terminal("list", env=env)
    assert backup["id"] in shown
    assert "\x1b[32msuccess" in shown


async def on_a_terminal(*args: str, env: dict[str, str]) -> str:
    """What a command writes to a terminal of 200 columns."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", *args),
        env=command_environment({"TERM": "xterm-256color", **env}),
        cwd="/",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = await asyncio.to_thread(_read, ours)
    assert await process.wait() == 0
    return shown


def _read(terminal: int) -> str:
    shown = b""
    with open(terminal, "rb", buffering=0) as file, suppress(OSError):  # Linux's way to say that the other end closed
        while block := file.read(4096):
            shown += block
    return shown.decode()


async def test_an_empty_repository_says_what_to_do(env: dict[str, str], tmp_path: Path) -> None:
    shown = await plain("list", env=env | {"ROWVAULT_LOCAL_PATH": str(tmp_path)})
    assert shown == "no backups yet; take one with: rowvault backup\n"


@pytest.mark.parametrize("args", [["nope"], ["list", "--nope"], ["show"], ["verify"]])
async def test_a_wrong_command_line_is_exit_2_and_one_line(args: list[str]) -> None:
    done = await rowvault(*args, env={})
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("  to do: ")
