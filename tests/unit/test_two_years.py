"""Two years of daily life, gaps and all: 7 daily, 4 weekly and 12 monthly backups stay, and a week of changes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from storage.retention import Decision, Held, Policy, decide
from tests.catalogues import archive, full, incremental

YEARS = timedelta(days=2 * 365)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SEED = 20260301


@dataclass
class Life:
    """What is there, after pruning at each backup as the daemon does."""

    policy: Policy
    held: list[Held] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def take(self, backup: Held, now: datetime) -> None:
        """A backup was taken, and retention carried out."""
        self.held.append(backup)
        self.decisions = decide(self.held, self.policy, now)
        stay = {one.id for one in self.decisions if one.stays}
        self.held = [one for one in self.held if one.id in stay]

    def tier(self, tier: str) -> list[str]:
        """The backups that fill a tier's slots."""
        return [one.id for one in self.decisions if tier in one.tiers]

    @property
    def base(self) -> str:
        """What the next incremental backup builds on."""
        return max(one.id for one in self.held if one.kind == "full")


def moments(zone: ZoneInfo, start: datetime) -> Iterator[tuple[datetime, str]]:
    """When what is due, by the clock on the wall: changes every six hours, a full at 2, an archive on Sundays at 3."""
    day = start
    while day < start + YEARS:
        for hour, kind in ((0, "incremental"), (2, "full"), (3, "archive"), (6, "incremental"), (12, "incremental"),
                           (18, "incremental")):  # fmt: skip
            if kind != "archive" or day.isoweekday() == 7:
                yield datetime(day.year, day.month, day.day, hour, tzinfo=zone).astimezone(UTC), kind
        day += DAY


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
def test_seven_daily_four_weekly_and_twelve_monthly_come_out(zone: str) -> None:
    chance = random.Random(SEED)
    life, local = Life(Policy(zone=ZoneInfo(zone))), ZoneInfo(zone)
    start = datetime(2025, 1, 6)
    away, days, weeks, months = start.replace(tzinfo=UTC), set(), set(), set()
    for at, kind in moments(local, start):
        if chance.random() < 0.004:  # the machine is off for some hours, or some weeks
            away = at + chance.choice([5 * HOUR, 2 * DAY, 9 * DAY, 40 * DAY])
        if at < away:
            continue
        wall = at.astimezone(local)
        good = chance.random() > 0.02
        if kind == "full":
            life.take(full(at, good=good), at)
            days |= {wall.date()} if good else set()
        elif kind == "archive":
            life.take(archive(at, good=good), at)
            weeks |= {wall.isocalendar()[:2]} if good else set()
            months |= {(wall.year, wall.month)} if good else set()
        elif days:
            life.take(incremental(at, life.base, good=good), at)
        counts = [len(life.tier(tier)) for tier in ("daily", "weekly", "monthly")]
        assert counts == [min(7, len(days)), min(4, len(weeks)), min(12, len(months))], at
        kept = {one.id: one for one in life.held}
        assert all(one.base in kept for one in life.held if one.kind == "incremental"), at
    assert len(days) > 300
    assert len(months) > 15
    assert [len(life.tier(tier)) for tier in ("daily", "weekly", "monthly")] == [7, 4, 12]
    assert 4 * 7 - 4 <= len(life.tier("incremental")) <= 4 * 7
    assert len(life.held) < 80
