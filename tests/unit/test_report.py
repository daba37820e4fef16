"""The policy report's figures: days without a good backup, and what was done how often."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from jobs.report import Activity, Gap, activities, gaps
from jobs.trail import TrailEntry

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def days(*numbers: int) -> set[date]:
    return {date(2026, 3, number) for number in numbers}


def entry(number: int, what: str, outcome: str) -> TrailEntry:
    return TrailEntry(number, "", NOW + timedelta(minutes=number), "somebody", what, outcome, None, {})


def test_days_without_a_good_backup_are_told_in_runs() -> None:
    expected = (Gap(date(2026, 3, 2), date(2026, 3, 3)), Gap(date(2026, 3, 6), date(2026, 3, 6)))
    assert gaps(days(1, 4, 5, 7, 8, 9), None, NOW, UTC) == expected


def test_today_is_not_over_yet_and_yesterday_is() -> None:
    assert gaps(days(8, 9), None, NOW, UTC) == ()
    assert gaps(days(8), None, NOW, UTC) == (Gap(date(2026, 3, 9), date(2026, 3, 9)),)


def test_they_are_told_from_the_given_time_on_in_the_time_zone() -> None:
    since = datetime(2026, 3, 6, 20, tzinfo=UTC)
    [gap] = gaps(days(9), since, NOW, ZoneInfo("Asia/Tokyo"))
    assert gap == Gap(date(2026, 3, 7), date(2026, 3, 8))


def test_without_any_backup_there_is_no_gap_to_tell_of() -> None:
    assert gaps(set(), None, NOW, UTC) == ()


def test_what_was_done_is_counted_by_outcome() -> None:
    entries = [entry(1, "verify", "success"), entry(2, "backup", "failed"), entry(3, "verify", "success")]
    assert activities(entries) == (
        Activity("backup", 0, 0, 1, 0, NOW + timedelta(minutes=2)),
        Activity("verify", 2, 0, 0, 0, NOW + timedelta(minutes=3)),
    )
