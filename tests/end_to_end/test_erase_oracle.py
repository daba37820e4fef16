"""Erasing after any history: every moment is as it was, without the subject's rows, whatever was done to them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from jobs.archive import ArchiveOptions, archive
from jobs.chains.points import At
from jobs.errors import NotThere
from tests.conftest import CreateDatabase
from tests.erasing import erased, objects_with
from tests.following import Follower, Lines, comparing, following
from tests.servers import Database

PEOPLE = 12
BUILD = """
    CREATE TABLE people (id bigint PRIMARY KEY, tag text, mail text UNIQUE, note text, doc jsonb);
    ALTER TABLE people ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE visits (person bigint REFERENCES people ON DELETE CASCADE ON UPDATE CASCADE, "At\tday" date, what text,
                         tag text, PRIMARY KEY ("At\tday", person)) PARTITION BY RANGE ("At\tday");
    CREATE TABLE visits_a PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2026-01-06');
    CREATE TABLE visits_b PARTITION OF visits DEFAULT;
    CREATE TABLE scans (id serial PRIMARY KEY, day date, person bigint, tag text,
                        FOREIGN KEY (day, person) REFERENCES visits ("At\tday", person)
                        ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE bag (n serial PRIMARY KEY, person bigint, tag text);
    INSERT INTO people SELECT n, 'tag' || n || '.', 'p' || n || E'\\t@ex\\\\ample', repeat('n' || n, 3000), '{}'
      FROM generate_series(1, 12) n;
"""
# {tag} is in every row that is a person's, and in no other.
STATEMENTS = (
    "UPDATE people SET doc = jsonb_build_object('x', {chance}::int) WHERE tag = '{tag}'",
    "UPDATE people SET note = repeat('m{chance}', 3000) WHERE tag = '{tag}'",
    "UPDATE people SET mail = E'q{chance}\\t' || tag WHERE tag = '{tag}'",
    "UPDATE people SET mail = NULL WHERE tag = '{tag}'",
    "UPDATE people SET id = {fresh} WHERE tag = '{tag}'",
    "INSERT INTO visits SELECT id, '2026-01-01'::date + {day}, E'a\\\\b\\tc', tag FROM people WHERE tag = '{tag}'"
    " ON CONFLICT DO NOTHING",
    "INSERT INTO scans (day, person, tag) SELECT \"At\tday\", person, tag FROM visits WHERE tag = '{tag}' LIMIT 1",
    'UPDATE visits SET "At\tday" = \'2026-03-01\'::date + {day} WHERE ("At\tday", person) IN'
    " (SELECT \"At\tday\", person FROM visits WHERE tag = '{tag}' LIMIT 1)",
    "DELETE FROM visits WHERE tag = '{tag}' AND \"At\tday\" = '2026-01-01'::date + {day}",
    "INSERT INTO bag (person, tag) SELECT id, tag FROM people WHERE tag = '{tag}'",
    "TRUNCATE scans",
)


@dataclass
class Life:
    """A database that lives by chance; `seen` are moments, `taken` backups, and what was there then."""

    follower: Follower
    chance: random.Random
    fresh: int = 1000
    seen: list[tuple[datetime, Lines]] = field(default_factory=list)
    taken: list[tuple[str, Lines]] = field(default_factory=list)

    async def go_on(self) -> None:
        """Some transactions, then a backup, now and then of another kind."""
        for _ in range(self.chance.randrange(1, 6)):
            await self.follower.database.execute(self._statement())
            self.fresh += 1
        await self.remember()
        what = self.chance.random()
        if what < 0.1:
            await self.follower.full()
        elif what < 0.2:
            await archive(self.follower.places, ArchiveOptions())
        self.taken.append(((await self.follower.take()).id, self.seen[-1][1]))

    async def remember(self) -> None:
        """What is there now."""
        self.seen.append((await self.follower.now(), await self.follower.lines()))

    def forget(self, tag: bytes) -> None:
        """Whoever was erased was never there."""
        self.seen = [(moment, without(lines, tag)) for moment, lines in self.seen]
        self.taken = [(backup, without(lines, tag)) for backup, lines in self.taken]

    async def require_all(self) -> None:
        """Every backup brings back what it is of, and so does every moment, where the change log tells of any."""
        for backup, lines in self.taken:
            assert await self.follower.backed_up(wanted=backup) == lines
        for moment, lines in self.seen if self.follower.capture.method == "wal" else ():
            assert await self.follower.backed_up(At(moment)) == lines
        await self.follower.require_latest()

    def _statement(self) -> str:
        person, day = self.chance.randrange(1, PEOPLE + 1), self.chance.randrange(9)
        values = {"tag": f"tag{person}.", "day": day, "fresh": self.fresh, "chance": self.chance.randrange(100)}
        return self.chance.choice(STATEMENTS).format(**values)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("follow", [following, comparing])
async def test_every_moment_is_as_it_was_without_the_subject(
    create_database: CreateDatabase, follow: Callable[[Database], Follower], seed: int
) -> None:
    life = Life(follow(await create_database(key="erase oracle", build=BUILD)), random.Random(seed))
    await life.follower.begin()
    for tag in life.chance.sample([f"tag{number}." for number in range(1, PEOPLE + 1)], 2):
        for _ in range(8):
            await life.go_on()
        await life.follower.database.execute("DELETE FROM people WHERE tag = $1", tag)
        await life.follower.database.execute("DELETE FROM bag WHERE tag = $1", tag)
        await life.remember()
        await erased(life.follower, "tag", tag, "people", children="cascade")
        for table in ("visits", "scans", "bag"):  # what was of theirs and pointed to them no more
            try:
                await erased(life.follower, "tag", tag, table, children="cascade")
            except NotThere:
                continue
        assert await objects_with(life.follower.places, tag.encode()) == []
        life.forget(tag.encode())
        await life.require_all()


def without(lines: Lines, tag: bytes) -> Lines:
    """The same without the lines that hold a tag."""
    return {table: [line for line in rows if tag not in line] for table, rows in lines.items()}
