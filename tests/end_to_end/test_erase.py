"""The right to erasure on real backups: the subject's rows are nowhere any more, and everything else is as it was."""

from datetime import datetime

import pytest

from jobs.points import At
from tests.conftest import CreateDatabase
from tests.erasing import erased, objects_with
from tests.following import Follower, Lines, following

BUILD = """
    CREATE TABLE people (id int PRIMARY KEY, mail text UNIQUE, note text);
    INSERT INTO people SELECT n, 'p' || n || '@example.org', 'note of person ' || n FROM generate_series(1, 300) n;
    CREATE TABLE parcels (id int PRIMARY KEY, person int REFERENCES people ON DELETE CASCADE, way text);
    INSERT INTO parcels SELECT n, 1 + n % 300, 'way ' || n FROM generate_series(1, 600) n;
    CREATE TABLE scans (id int PRIMARY KEY, parcel int REFERENCES parcels ON DELETE SET NULL, seen text);
    INSERT INTO scans SELECT n, n, 'scan ' || n FROM generate_series(1, 600) n;
    CREATE TABLE plain (id int PRIMARY KEY, mail text); INSERT INTO plain VALUES (1, 'alone@example.org');
    CREATE TABLE documents (id int PRIMARY KEY, body jsonb);
    INSERT INTO documents SELECT n, jsonb_build_object('who', jsonb_build_object('mail', 'd' || n || '@example.org'))
      FROM generate_series(1, 50) n;
"""
BEFORE = b"note of person 7\n", b"p7@example.org", b"moved7@example.org", b"note of person 7!"


@pytest.fixture
async def follower(create_database: CreateDatabase) -> Follower:
    """A database whose changes are captured, with its first full backup."""
    made = following(await create_database(key="erase", build=BUILD))
    await made.begin()
    return made


async def moments_with_person_7(follower: Follower) -> list[tuple[datetime, Lines]]:
    """Let a person live, change and go, through windows and another full backup; moments, and what was there then."""
    moments = []
    for statement in (
        "DELETE FROM parcels WHERE person = 7",
        "UPDATE people SET note = note || '!' WHERE id IN (7, 8)",
        "UPDATE people SET mail = 'moved7@example.org' WHERE id = 7",
        "UPDATE people SET id = 7007 WHERE id = 7",
        "INSERT INTO people VALUES (1001, 'other@example.org', 'other')",
    ):
        await follower.database.execute(statement)
        moments.append((await follower.now(), await follower.lines()))
        await follower.window()
    await follower.full()
    await follower.database.execute("DELETE FROM people WHERE id = 7007")
    moments.append((await follower.now(), await follower.lines()))
    return moments


def without(lines: Lines, table: str, *starts: bytes) -> Lines:
    """The same without the rows that begin so."""
    return lines | {table: [line for line in lines[table] if not line.startswith(starts)]}


async def test_a_person_is_gone_from_every_moment_and_everybody_else_is_as_before(follower: Follower) -> None:
    moments = await moments_with_person_7(follower)
    result = await erased(follower, "mail", "p7@example.org", "people", children="null")
    assert result.state == "success"
    assert await objects_with(follower.places, *BEFORE) == []
    for moment, lines in moments:
        found = await follower.backed_up(At(moment))
        assert found == without(lines, "public.people", b"7\t", b"7007\t")
    await follower.require_latest()
