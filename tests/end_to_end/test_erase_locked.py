"""Erasing from archives that a store has locked: what stays is said beforehand and afterwards, and goes in the end."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Bucket, CreateDatabase, new_bucket
from tests.end_to_end.test_erase_command import BUILD, WHERE
from tests.erasing import objects_with, require_verified
from tests.faults.commands import DIFFERENCE, DONE, REFUSED, off_site, opened, settings_of, succeed
from tests.programs import rowvault
from tests.seaweed import S3Server
from tests.servers import Database

NOTE, ERASE = b"note 7\n", ("erase", *WHERE, "--children", "cascade")


@dataclass(frozen=True)
class Store:
    """A bucket that may lock objects, as the store's own clients see it."""

    bucket: str
    client: Any

    async def each_version(self, call: str, **parameters: object) -> None:
        """Do something with every version of every object of archives."""
        for version in (await self.versions())["Versions"]:
            if "archives/" in version["Key"] and "manifests/" not in version["Key"]:
                named = {"Bucket": self.bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
                await getattr(self.client, call)(**named, **parameters)

    async def versions(self) -> Any:
        """Every version and marker."""
        return await self.client.list_object_versions(Bucket=self.bucket)

    async def versions_of(self, objects: Sequence[Any]) -> list[str]:
        """The keys of the versions that are there of these, as an erasure names them."""
        names = tuple(one["object"] for one in objects)
        return [one["Key"] for one in (await self.versions())["Versions"] if one["Key"].endswith(names)]


Act = Callable[[Store], Awaitable[None]]


async def nothing(_: Store) -> None:
    """The settings lock it."""


async def hold(store: Store) -> None:
    """As somebody does whom a court asked to."""
    await store.each_version("put_object_legal_hold", LegalHold={"Status": "ON"})


async def lift_hold(store: Store) -> None:
    await store.each_version("put_object_legal_hold", LegalHold={"Status": "OFF"})


async def lift_governance(store: Store) -> None:
    """As somebody does who has the special right to it."""
    past = {"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=1)}
    await store.each_version("put_object_retention", Retention=past, BypassGovernanceRetention=True)


async def cannot_lift(store: Store) -> None:
    with pytest.raises(ClientError):
        await lift_governance(store)


@pytest.fixture
async def locking(s3_server: S3Server) -> AsyncIterator[tuple[Bucket, Store]]:
    """A bucket that keeps versions and may lock them."""
    async with new_bucket(s3_server, ObjectLockEnabledForBucket=True) as made, made.client() as client:
        yield made, Store(made.name, client)


@pytest.fixture
async def database(create_database: CreateDatabase) -> Database:
    return await create_database(key="erase command", build=BUILD)


@pytest.mark.parametrize(
    ("mode", "lock", "unlock", "ends"),
    [
        ("governance", nothing, lift_governance, True),
        ("compliance", nothing, cannot_lift, False),
        (None, hold, lift_hold, True),
    ],
    ids=["governance", "compliance", "legal hold"],
)
async def test_what_is_locked_is_said_before_and_after_and_goes_when_it_may(
    database: Database,
    bucket: Bucket,
    locking: tuple[Bucket, Store],
    tmp_path: Path,
    mode: str | None,
    lock: Act,
    unlock: Act,
    ends: bool,
) -> None:
    apart, store = locking
    settings = settings_of(database, tmp_path / "backups", ARCHIVE__BUCKET=apart.name) | off_site(bucket)
    settings |= {"ROWVAULT_ARCHIVE__EXPORTS": "csv"}
    settings |= {"ROWVAULT_ARCHIVE__LOCK_MODE": mode, "ROWVAULT_ARCHIVE__LOCK_DAYS": "1"} if mode else {}
    await succeed("backup", "incremental", settings=settings)
    archive = (await succeed("backup", "archive", settings=settings))["id"]
    await lock(store)
    await database.execute("DELETE FROM people WHERE id = 7")

    plan = await succeed(*ERASE, "--dry-run", settings=settings)
    people = await rowvault(*ERASE, "--dry-run", env=settings)
    assert f"of the objects are locked, the last until {'20' if mode else 'a hold'}" in people.stdout.replace("\n", " ")
    done = await succeed(*ERASE, "--yes", settings=settings)
    assert done["state"] == "warning"
    assert sorted(map(str, done["locked"])) == sorted(map(str, plan["locked"]))
    assert {one["place"] for one in done["locked"]} == {"archive"}
    for one in done["locked"]:
        left = datetime.fromisoformat(one["until"]) - datetime.now(UTC) if mode else None
        assert left is None or timedelta(hours=23) < left < timedelta(hours=24)
        assert mode or one["until"] is None
    held = {f"archive/{one['object']}" for one in done["locked"]}
    async with opened(settings) as app:
        assert set(await objects_with(app.repositories, NOTE)) <= held
        assert any("/exports/" in name for name in held)
        await require_verified(app.repositories)
    entry = (await succeed("trail", settings=settings))["entries"][-1]
    assert (entry["what"], entry["outcome"]) == ("erase", "warning")
    assert entry["details"]["locked"]["archive"]["objects"] == len(held)
    report = await rowvault("report", env=settings)
    assert f"objects {len(held)}" in report.stdout.replace("\n", " ")
    assert f"erasure {done['id']} is not finished" in report.stdout.replace("\n", " ")
    assert "erase --resume" in (await rowvault("doctor", env=settings)).stdout

    again = await rowvault("erase", "--resume", env=settings)
    assert (again.returncode, again.stdout.count("objects of")) == (DONE, 1)
    assert f"archive: {len(held)} objects of" in again.stdout
    check = ("erase", "--check", done["id"])
    checked = await rowvault(*check, "--json", env=settings)
    assert {one["object"] for one in json.loads(checked.stdout)["earlier_revisions"] if one["locked"]} == {
        one["object"] for one in done["locked"]
    }
    assert (await rowvault(*check, env=settings)).stdout.count("something is left") == 1
    assert checked.returncode == DIFFERENCE
    assert len(await store.versions_of(done["locked"])) == len(held)
    await unlock(store)
    if not ends:
        refused = await rowvault("prune", archive, "--yes", env=settings)
        assert (refused.returncode, "it is locked until" in refused.stderr.replace("\n", " ")) == (REFUSED, True)
        return
    while (await succeed("erase", "--resume", settings=settings))[0]["state"] != "success":
        pass  # a moment of governance is left
    assert (await succeed(*check, settings=settings))["earlier_revisions"] == []
    async with opened(settings) as app:
        assert not await objects_with(app.repositories, NOTE)
    assert not await store.versions_of(done["locked"])
