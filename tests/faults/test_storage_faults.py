"""S3 refusing, stalling, or dying in mid-upload: with a local place nothing is lost, alone nothing is half there."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.app import App
from storage.names import MANIFESTS
from tests.conftest import Bucket
from tests.daemons import serving_command, until
from tests.faults.commands import (
    DONE,
    FAILED,
    IMPATIENT,
    Answer,
    document,
    off_site,
    opened,
    refuse,
    settings_of,
    succeed,
)
from tests.faults.places import Objects, accounted_for, expire_leases, require_whole
from tests.programs import rowvault
from tests.proxy import FaultProxy
from tests.seaweed import S3Server
from tests.servers import Database

SLOWLY = "15MB"


@dataclass(frozen=True)
class Scene:
    """A source, a folder, and a bucket behind a network that fails."""

    source: Database
    folder: Path
    bucket: Bucket
    objects: Objects
    proxy: FaultProxy
    server: S3Server

    def settings(self, *, local: bool) -> dict[str, str]:
        """A run's settings, S3 behind the proxy."""
        behind = off_site(self.bucket, f"http://127.0.0.1:{self.proxy.port}")
        return settings_of(self.source, self.folder if local else None) | behind | IMPATIENT

    def healthy(self, *, local: bool) -> dict[str, str]:
        """The same places, with nothing between."""
        return settings_of(self.source, self.folder if local else None) | off_site(self.bucket)


@pytest.fixture
def scene(
    bulky: Database, tmp_path: Path, bucket: Bucket, objects: Objects, proxy: FaultProxy, s3_server: S3Server
) -> Scene:
    return Scene(bulky, tmp_path / "backups", bucket, objects, proxy, s3_server)


async def refuses(scene: Scene) -> None:
    await scene.proxy.refuse()


async def dies_in_mid_upload(scene: Scene) -> None:
    await _uploading(scene)
    await scene.proxy.refuse()


async def falls_silent_in_mid_upload(scene: Scene) -> None:
    await _uploading(scene)
    scene.server.freeze()


async def _uploading(scene: Scene) -> None:
    async def begun() -> bool:
        return bool(await scene.objects.uploads())

    await until(begun)


Fault = Callable[[Scene], Coroutine[Any, Any, None]]
FAULTS: list[Fault] = [refuses, dies_in_mid_upload, falls_silent_in_mid_upload]


def named(fault: Fault) -> str:
    return fault.__name__


async def backup_during(fault: Fault, scene: Scene, settings: dict[str, str]) -> Answer:
    """A backup's answer, the fault coming before or while it is taken, and over when it has ended."""
    try:
        if fault is refuses:
            await fault(scene)
            return await rowvault("backup", "--json", env=settings)
        async with asyncio.TaskGroup() as group:
            slowly = settings | {"ROWVAULT_RATE_LIMIT": SLOWLY}
            taking = group.create_task(rowvault("backup", "--json", env=slowly))
            group.create_task(fault(scene))
        return taking.result()
    finally:
        scene.server.thaw()
        await scene.proxy.heal()


@pytest.mark.parametrize("fault", FAULTS, ids=named)
async def test_with_a_local_place_the_backup_commits_there_and_the_copy_is_pending(scene: Scene, fault: Fault) -> None:
    answer = await backup_during(fault, scene, scene.settings(local=True))
    assert answer.returncode == DONE, answer.stdout
    made = document(answer)
    assert made["state"] == "warning"
    assert [(place["name"], place["state"]) for place in made["places"]] == [("local", "committed"), ("s3", "pending")]
    assert scene.bucket.name in made["places"][1]["error"]
    async with opened(scene.healthy(local=True)) as app:
        assert await require_whole(app.repositories) == {made["id"]}
        await _next_one_sweeps(scene, app, local=True)


@pytest.mark.parametrize("fault", FAULTS, ids=named)
async def test_with_s3_alone_the_backup_fails_with_a_word_and_nothing_is_there(scene: Scene, fault: Fault) -> None:
    answer = await backup_during(fault, scene, scene.settings(local=False))
    assert answer.returncode == FAILED, answer.stdout
    error = document(answer)["error"]
    assert scene.bucket.name in error["message"]
    assert error["hint"]
    assert "Traceback" not in answer.stderr
    assert not [key for key in await scene.objects.keys() if key.startswith(MANIFESTS)]
    async with opened(scene.healthy(local=False)) as app:
        await _next_one_sweeps(scene, app, local=False)


async def _next_one_sweeps(scene: Scene, app: App, *, local: bool) -> None:
    """A minute later the next backup succeeds everywhere, and leaves nothing in S3 that belongs to no backup."""
    await expire_leases(app.repositories)
    assert (await succeed("backup", settings=scene.healthy(local=local)))["state"] == "success"
    assert await scene.objects.keys() - await accounted_for(app.repositories[-1]) == set()
    assert await scene.objects.uploads() == set()


async def test_the_daemon_makes_up_what_is_pending_once_s3_answers_again(scene: Scene) -> None:
    made = document(await backup_during(dies_in_mid_upload, scene, scene.settings(local=True)))
    assert made["state"] == "warning"
    settings = scene.healthy(local=True)
    off = {f"ROWVAULT_SCHEDULE__{job}": "off" for job in ("FULL", "INCREMENTAL", "ARCHIVE")}
    idle = settings | off | {"ROWVAULT_CHECK_INTERVAL": "1s"}
    async with opened(settings) as app:
        await expire_leases(app.repositories)
    async with opened(settings) as app, serving_command("run", idle):
        _, bucket = app.repositories

        async def made_up() -> bool:
            return [entry.id for entry in (await bucket.catalogue()).entries] == [made["id"]]

        await until(made_up)
    (verified,) = await succeed("verify", "--all", settings=settings)
    assert [place["state"] for place in verified["places"]] == ["committed", "committed"]


WRONG = {
    "key": {"ACCESS_KEY_ID": "nobody"},
    "secret": {"SECRET_ACCESS_KEY": "not-the-secret"},
    "bucket": {"BUCKET": "there-is-no-such-bucket"},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_s3_refuses_for_good_is_told_at_once(scene: Scene, wrong: str) -> None:
    s3 = off_site(scene.bucket, **WRONG[wrong], RETRY_FOR="1h")
    alone = await rowvault("backup", "--json", env=settings_of(scene.source) | s3)
    assert alone.returncode == FAILED
    error = document(alone)["error"]
    made = await succeed("backup", settings=settings_of(scene.source, scene.folder) | s3)
    assert made["state"] == "warning"
    assert [(place["state"], place["error"]) for place in made["places"]] == [
        ("committed", None),
        ("pending", error["message"]),
    ]
    assert not any(word in str(error) + str(made) for word in ("not-the-secret", scene.bucket.secret_key))


async def test_a_listing_shows_the_place_that_is_silent_and_what_the_other_has(scene: Scene) -> None:
    made = await succeed("backup", settings=scene.settings(local=True))
    scene.proxy.stall()
    answer = await rowvault("list", "--json", env=scene.settings(local=True))
    assert answer.returncode == DONE
    (listed,) = document(answer)
    assert listed["id"] == made["id"]
    assert [place["state"] for place in listed["places"]] == ["committed", "unreachable"]
    assert f"s3 does not answer: cannot list objects in bucket {scene.bucket.name}" in answer.stderr


async def test_a_listing_fails_where_no_place_answers(scene: Scene) -> None:
    await scene.proxy.refuse()
    error = await refuse("list", settings=scene.settings(local=False), code=FAILED)
    assert "no place answers" in error["message"]


async def test_verifying_fails_where_a_place_does_not_answer_and_still_verifies_the_other(scene: Scene) -> None:
    made = await succeed("backup", settings=scene.settings(local=True))
    await scene.proxy.refuse()
    answer = await rowvault("verify", made["id"], "--json", env=scene.settings(local=True))
    assert answer.returncode == FAILED
    verified = document(answer)
    assert verified["problems"] == []
    assert [place["state"] for place in verified["places"]] == ["committed", "unreachable"]
