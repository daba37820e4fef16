"""The scripts behind `make run`, the image's health check and the compose file's secrets."""

import asyncio
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import pytest
from aiohttp import web

from daemon.endpoints import serving
from tests.programs import ROOT, command_environment, free_port


def run(
    *command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=command_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def what_make_run_runs(folder: Path, **settings: str) -> str:
    """The arguments that `rowvault` is given, told by an `echo` in its place."""
    return run(ROOT / "deploy/run", "echo", cwd=folder, env=settings).stdout.strip()


def test_make_run_shows_the_demo_if_no_database_is_named(tmp_path: Path) -> None:
    assert what_make_run_runs(tmp_path) == "demo"


def test_make_run_is_the_daemon_for_a_database_in_the_environment(tmp_path: Path) -> None:
    assert what_make_run_runs(tmp_path, ROWVAULT_DATABASE_URL="postgresql:///app") == "run"


def test_make_run_is_the_daemon_for_a_database_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# mine\nROWVAULT_DATABASE_URL_FILE=/run/secrets/url\n")
    assert what_make_run_runs(tmp_path) == "run"


def test_make_run_takes_an_empty_variable_for_an_unset_one(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("#ROWVAULT_DATABASE_URL=postgresql:///app\nROWVAULT_DATABASE_URL=\n")
    assert what_make_run_runs(tmp_path, ROWVAULT_DATABASE_URL="") == "demo"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "backups"),
        ({"ROWVAULT_LOCAL_PATH": "elsewhere"}, "elsewhere"),
        ({"ROWVAULT_S3__BUCKET": "b"}, ""),
    ],
)
def test_make_run_gives_backups_a_folder_if_no_place_is_named(
    tmp_path: Path, settings: dict[str, str], expected: str
) -> None:
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\necho "$ROWVAULT_LOCAL_PATH"\n')
    show.chmod(0o755)
    done = run(ROOT / "deploy/run", show, cwd=tmp_path, env={"ROWVAULT_DATABASE_URL": "postgresql:///a", **settings})
    assert done.stdout.strip() == expected


def test_a_python_that_is_missing_is_said_in_words(tmp_path: Path) -> None:
    done = run(ROOT / "deploy/make-venv", tmp_path / "venv", "no-such-python")
    assert done.returncode == 1
    assert "Python 3.11 or newer was not found" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def new_secrets(tmp_path: Path) -> Path:
    """A copy of the script that makes secrets, and has made them."""
    script = tmp_path / "new-secrets"
    shutil.copy(ROOT / "deploy/new-secrets", script)
    assert run(script).returncode == 0
    return script


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def test_new_secrets_fit_together(new_secrets: Path) -> None:
    made = contents(new_secrets.parent / "secrets")
    keys = json.loads(made["s3_identities"])["identities"][0]["credentials"][0]
    assert keys == {"accessKey": made["s3_access_key_id"], "secretKey": made["s3_secret_access_key"]}
    assert f":{made['database_password']}@database:5432/" in made["database_url"]
    assert len(made["database_password"]) == 48


def test_new_secrets_leave_old_ones_alone(new_secrets: Path) -> None:
    before = contents(new_secrets.parent / "secrets")
    assert run(new_secrets).returncode == 0
    assert contents(new_secrets.parent / "secrets") == before


def test_nobody_else_can_enter_the_folder_of_secrets(new_secrets: Path) -> None:
    assert stat.S_IMODE((new_secrets.parent / "secrets").stat().st_mode) == 0o700


async def health_check(port: int) -> subprocess.CompletedProcess[str]:
    script = ROOT / "deploy/healthcheck.py"
    return await asyncio.to_thread(run, sys.executable, script, env={"ROWVAULT_HTTP__PORT": str(port)})


async def health_check_of(status: HTTPStatus, text: str) -> subprocess.CompletedProcess[str]:
    """What the health check makes of a /livez that answers so."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/livez", livez)
    async with serving(app, "127.0.0.1", 0) as port:
        return await health_check(port)


async def test_the_health_check_passes_while_the_daemon_is_alive() -> None:
    assert (await health_check_of(HTTPStatus.OK, "ok")).returncode == 0


async def test_the_health_check_fails_with_the_reason_that_livez_gives() -> None:
    done = await health_check_of(HTTPStatus.SERVICE_UNAVAILABLE, "the scheduler stands still")
    assert (done.returncode, done.stderr.strip()) == (1, "the scheduler stands still")


async def test_the_health_check_fails_in_words_where_nobody_answers() -> None:
    done = await health_check(free_port())
    assert done.returncode == 1
    assert done.stderr.startswith("/livez does not answer: ")
