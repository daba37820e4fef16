"""Erasing in two places, encrypted, and killed: nothing of the subject is left anywhere, and everything is whole."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.conftest import Bucket, CreateDatabase
from tests.erasing import objects_with, require_verified, require_whole
from tests.faults.commands import DONE, USAGE, document, off_site, opened, settings_of, succeed
from tests.faults.places import expire_leases
from tests.keys import new_key
from tests.programs import rowvault, started_rowvault
from tests.servers import Database

BUILD = """
    CREATE TABLE kinds (id int PRIMARY KEY);
    INSERT INTO kinds VALUES (1);
    CREATE TABLE people (id int PRIMARY KEY, mail varchar(60) NOT NULL UNIQUE, born date NOT NULL, tags text[] NOT NULL,
                         kind int NOT NULL REFERENCES kinds, note text);
    INSERT INTO people SELECT n, 'p' || n || '@example.org', '2000-01-01', '{a}', 1, 'note of person ' || n || '.'
      FROM generate_series(1, 3000) n;
    CREATE TABLE parcels (id int PRIMARY KEY, person int NOT NULL REFERENCES people ON DELETE CASCADE);
    INSERT INTO parcels SELECT n, n FROM generate_series(1, 3000) n;
"""
KILLED = 3


@pytest.fixture
async def source(create_database: CreateDatabase) -> Database:
    return await create_database(key="erase faults", build=BUILD)


@pytest.fixture
def settings(source: Database, tmp_path: Path, bucket: Bucket) -> dict[str, str]:
    """Two places, encrypted for a key that is at hand."""
    key, identity = new_key(), tmp_path / "identity"
    identity.write_text(key.identity)
    made = settings_of(source, tmp_path / "backups") | off_site(bucket)
    made |= {"ROWVAULT_ENCRYPTION__RECIPIENTS": key.public, "ROWVAULT_ENCRYPTION__IDENTITY_FILE": str(identity)}
    return made


def texts(number: int) -> tuple[bytes, ...]:
    return f"p{number}@example.org".encode(), f"note of person {number}.".encode()


async def test_encrypted_backups_in_two_places_hold_nothing_of_an_anonymised_person(
    source: Database, settings: dict[str, str]
) -> None:
    await succeed("backup", "incremental", settings=settings)
    await source.execute("UPDATE people SET mail = 'moved7@example.org' WHERE id = 7")
    await source.execute("DELETE FROM people WHERE id = 7")
    asked = ("erase", "--where", "mail=p7@example.org", "--children", "anonymise", "--yes")
    without = {name: value for name, value in settings.items() if not name.endswith("IDENTITY_FILE")}
    refused = await rowvault(*asked, "--json", env=without)
    assert refused.returncode == USAGE
    assert "is encrypted for age1" in document(refused)["error"]["message"]
    done = await succeed(*asked, settings=settings)
    assert {one["place"] for one in done["revisions"]} == {"local", "s3"}
    async with opened(settings) as app:
        assert await objects_with(app.repositories, *texts(7), b"moved7@example.org") == []
        assert await objects_with(app.repositories[:1], *texts(8))
        await require_whole(app.repositories)
    assert (await succeed("erase", "--check", done["id"], settings=settings))["remaining"] == []
    assert (await succeed("drill", settings=settings))["state"] == "success"


@pytest.mark.timeout(300)
async def test_killed_at_several_moments_it_is_finished_by_resuming(source: Database, settings: dict[str, str]) -> None:
    await succeed("backup", "incremental", settings=settings)
    await source.execute("DELETE FROM people WHERE id <= $1", KILLED + 1)
    began = time.monotonic()
    await succeed(*_erasing(KILLED + 1), settings=settings)
    duration = time.monotonic() - began
    async with opened(settings) as app:
        for number in range(1, KILLED + 1):
            with started_rowvault(*_erasing(number), env=settings) as command:
                try:
                    await asyncio.to_thread(command.ended, duration * (number + 1) / (KILLED + 2))
                except TimeoutError:
                    await asyncio.to_thread(command.kill)
            await require_verified(app.repositories)
            await expire_leases(app.repositories)
        await succeed("erase", "--resume", settings=settings)
        for number in range(1, KILLED + 1):
            if await objects_with(app.repositories, *texts(number)):
                await succeed(*_erasing(number), settings=settings)
            assert await objects_with(app.repositories, *texts(number)) == []
        await require_whole(app.repositories)
    assert (await rowvault("verify", "--all", env=settings)).returncode == DONE


def _erasing(number: int) -> tuple[str, ...]:
    return ("erase", "--where", f"mail=p{number}@example.org", "--children", "cascade", "--yes")
