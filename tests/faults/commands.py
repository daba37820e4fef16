"""Our commands as people and scripts give them: settings in, exit codes and one JSON document out."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from daemon.app import App, open_app
from daemon.settings.load import load_settings
from tests.conftest import Bucket
from tests.programs import rowvault
from tests.servers import Database

Settings = Mapping[str, str]
Answer = CompletedProcess[str]
Document = dict[str, Any]

DONE, FAILED, USAGE, DIFFERENCE, NOT_FOUND, REFUSED = range(6)

IMPATIENT = {"ROWVAULT_S3__TIMEOUT": "2s", "ROWVAULT_S3__RETRY_FOR": "1s"}
"""Gives up on S3 soon: what happens then need not be waited for long."""


def settings_of(source: Database | str | None, local: Path | None = None, **more: str) -> dict[str, str]:
    """The environment for a database and a local place; `more` are names without the prefix."""
    given = {"DATABASE_URL": source.dsn if isinstance(source, Database) else source}
    given |= {"LOCAL_PATH": str(local) if local else None} | more
    return {f"ROWVAULT_{name}": value for name, value in given.items() if value is not None}


def off_site(bucket: Bucket, endpoint: str | None = None, **more: str) -> dict[str, str]:
    """The environment for a place in S3, straight or by way of a proxy; `more` are names below S3."""
    given = {
        "BUCKET": bucket.name,
        "ENDPOINT_URL": endpoint or bucket.endpoint_url,
        "REGION": bucket.region,
        "ACCESS_KEY_ID": bucket.access_key,
        "SECRET_ACCESS_KEY": bucket.secret_key,
        "ADDRESSING_STYLE": "path",
    }
    return {f"ROWVAULT_S3__{name}": value for name, value in (given | more).items()}


def opened(settings: Settings) -> AbstractAsyncContextManager[App]:
    """The places that the settings name, opened in this process to see what a command left there."""
    return open_app(load_settings(settings, None))


def document(answer: Answer) -> Any:
    """The one JSON document on stdout."""
    return json.loads(answer.stdout)


async def succeed(*args: str, settings: Settings) -> Any:
    """Run a command with `--json` that must be done without any trouble; its document."""
    answer = await rowvault(*args, "--json", env=settings)
    assert answer.returncode == DONE, answer.stdout + answer.stderr
    return document(answer)


async def refuse(
    *args: str, settings: Settings, code: int, stdin: str | None = None, together: bool = True
) -> Document:
    """Run a command that must fail with this exit code, for people and for scripts; the error that it states.

    For people there is a line for the message and one for the hint on stderr, and nothing else; for scripts one JSON
    document with the same.
    """
    people = rowvault(*args, env=settings, stdin=stdin)
    scripts = rowvault(*args, "--json", env=settings, stdin=stdin)
    # Of two jobs at once, one would be refused for the other.
    together = together and {"backup", "restore", "drill"}.isdisjoint(args)
    for_people, for_scripts = await asyncio.gather(people, scripts) if together else (await people, await scripts)
    said = for_people.stderr + for_scripts.stderr
    assert (for_people.returncode, for_scripts.returncode) == (code, code), said
    assert "Traceback" not in said
    error: Document = document(for_scripts)["error"]
    assert set(error) == {"message", "hint"}
    assert error["message"]
    assert error["hint"]
    assert "\n" not in error["message"] + error["hint"]
    *before, message, hint = for_people.stderr.splitlines()
    assert not [line for line in before if line.startswith("error: ")]
    assert _without_chance(message) == _without_chance(f"error: {error['message']}")
    assert hint == f"  to do: {error['hint']}"
    return error


def _without_chance(text: str) -> str:
    """A message without what differs from one try to the next."""
    return _CHANCE.sub("...", text)


_CHANCE = re.compile(r"\d{8}T\d{6}\.\d{3}Z-full-[0-9a-f]{6}|tried \d+ times|cannot write \S+")
