"""Crontab lines mean what crontab(5) says, over clock changes too."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.cron import CronError, CronLine, parse_cron

MINUTE = timedelta(minutes=1)
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
# Clocks that change at midnight, by half an hour, and by a whole day among them.
ZONES = (BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("Asia/Beirut"), ZoneInfo("Pacific/Apia"), UTC)
# The days around clock changes of those zones.
CHANGES = [
    datetime(2025, 3, 30, tzinfo=UTC),
    datetime(2025, 10, 26, tzinfo=UTC),
    datetime(2025, 3, 9, tzinfo=UTC),
    datetime(2025, 11, 2, tzinfo=UTC),
    datetime(2025, 4, 5, tzinfo=UTC),
    datetime(2025, 10, 4, tzinfo=UTC),
    datetime(2011, 12, 30, tzinfo=UTC),
]
near_a_change = st.builds(
    lambda change, minutes: change + minutes * MINUTE, st.sampled_from(CHANGES), st.integers(-2000, 3000)
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(line: str, start: str, number: int, zone: ZoneInfo = BERLIN) -> list[str]:
    """The next fires after a UTC time, as wall times with their offset."""
    times = islice(parse_cron(line).after(utc(start), zone), number)
    return [f"{moment.astimezone(zone):%a %m-%d %H:%M%z}" for moment in times]


def test_sunday_is_both_0_and_7() -> None:
    assert parse_cron("0 3 * * 0") == parse_cron("0 3 * * 7") == parse_cron("0 3 * * sun")


def test_weekdays_are_counted_from_sunday() -> None:
    assert fires("0 3 * * 1", "2025-06-01", 1) == ["Mon 06-02 03:00+0200"]


def test_day_of_month_and_day_of_week_are_ored_when_both_are_restricted() -> None:
    assert fires("0 4 13 * 5", "2025-06-01", 3) == [
        "Fri 06-06 04:00+0200",
        "Fri 06-13 04:00+0200",
        "Fri 06-20 04:00+0200",
    ]
    assert fires("0 4 10 * fri", "2025-06-07", 2) == ["Tue 06-10 04:00+0200", "Fri 06-13 04:00+0200"]


def test_a_day_field_that_starts_with_a_star_does_not_count_as_restricted() -> None:
    assert fires("0 4 */2 * fri", "2025-06-01", 2) == ["Fri 06-13 04:00+0200", "Fri 06-27 04:00+0200"]


def test_lists_ranges_steps_and_names_in_any_case() -> None:
    line = parse_cron("0,30 8-18/5 1 JAN-mar,dec Mon-Fri")
    assert sorted(line.minutes) == [0, 30]
    assert sorted(line.hours) == [8, 13, 18]
    assert sorted(line.months) == [1, 2, 3, 12]
    assert sorted(line.weekdays) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("nickname", "line"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_nicknames(nickname: str, line: str) -> None:
    assert parse_cron(nickname) == parse_cron(line)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("60 * * * *", "minute: must be from 0 to 59"),
        ("* 24 * * *", "hour: must be from 0 to 23"),
        ("* * 0 * *", "day of month: must be from 1 to 31"),
        ("* * * 13 *", "month: must be from 1 to 12 or a name such as jan"),
        ("* * * * 8", "day of week: must be from 0 to 7 or a name such as sun"),
        ("* * * * funday", "day of week: must be from 0 to 7"),
        ("*/0 * * * *", "minute: a step must be above zero"),
        ("30-10 * * * *", "minute: a range must run upwards"),
        ("1,,2 * * * *", "minute: must be"),
        ("-1 * * * *", "minute: must be"),
        ("0 2 30 2 *", "a day of month that none of its months has"),
        ("0 2 * *", "must have five fields .*not 4"),
        ("@reboot", "must have five fields"),
        ("", "must have five fields"),
    ],
)
def test_an_invalid_line_is_refused_with_the_field_at_fault(line: str, complaint: str) -> None:
    with pytest.raises(CronError, match=complaint):
        parse_cron(line)


def test_a_time_skipped_in_spring_runs_once_right_after_the_change() -> None:
    assert fires("30 2 * * *", "2025-03-29T12:00", 2) == ["Sun 03-30 03:00+0200", "Mon 03-31 02:30+0200"]


def test_a_time_that_comes_twice_in_autumn_runs_the_first_time_only() -> None:
    assert fires("30 2 * * *", "2025-10-25T12:00", 2) == ["Sun 10-26 02:30+0200", "Mon 10-27 02:30+0100"]


def test_half_an_hour_of_daylight_saving_is_understood() -> None:
    assert fires("15 2 * * *", "2025-10-04T12:00", 2, LORD_HOWE) == [
        "Sun 10-05 02:30+1100",
        "Mon 10-06 02:15+1100",
    ]
    assert fires("45 1 * * *", "2025-04-05T12:00", 2, LORD_HOWE) == [
        "Sun 04-06 01:45+1100",
        "Mon 04-07 01:45+1030",
    ]


def test_an_hourly_line_runs_at_every_real_hour() -> None:
    assert fires("0 * * * *", "2025-03-29T23:30", 3) == [
        "Sun 03-30 01:00+0100",
        "Sun 03-30 03:00+0200",
        "Sun 03-30 04:00+0200",
    ]
    assert fires("0 * * * *", "2025-10-25T23:30", 3) == [
        "Sun 10-26 02:00+0200",
        "Sun 10-26 02:00+0100",
        "Sun 10-26 03:00+0100",
    ]


def test_the_longest_gap_is_found_over_weekends_and_for_rare_lines() -> None:
    moment = utc("2025-06-02")
    assert parse_cron("0 9-17 * * 1-5").longest_gap(moment, UTC) == timedelta(hours=64)
    assert parse_cron("0 * * * *").longest_gap(moment, UTC) == timedelta(hours=1)
    assert parse_cron("0 0 1 1 *").longest_gap(moment, UTC) == timedelta(days=365)


def field_texts(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    ranges = st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.builds(lambda base, step: f"{base}/{step}", ranges | st.just("*"), st.integers(1, 20))
    items = st.lists(value.map(str) | ranges | steps, min_size=1, max_size=3).map(",".join)
    return st.just("*") | items


crontab_lines = st.builds(
    lambda minute, hour, day, weekday: f"{minute} {hour} {day} * {weekday}",
    field_texts(0, 59),
    field_texts(0, 23),
    st.just("*") | field_texts(1, 28),
    st.just("*") | field_texts(0, 7),
).map(parse_cron)


def fires_by_brute_force(line: CronLine, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """Walk through real minutes as cron does, without computing anything backwards from wall times."""

    def matches(wall: datetime) -> bool:
        return wall.minute in line.minutes and wall.hour in line.hours and line.falls_on(wall.date())

    found = []
    # The highest wall time already seen: fixed times behind it have run, those jumped over are due at once.
    seen = (start - 2 * timedelta(days=1)).astimezone(zone).replace(tzinfo=None)
    moment = start - 2 * timedelta(days=1)
    while moment < end:
        moment += MINUTE
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if line.interval:
            due = matches(wall)
        else:
            skipped = (seen + n * MINUTE for n in range(1, (wall - seen) // MINUTE + 1))
            due = any(matches(time) for time in skipped)
        seen = max(seen, wall)
        if due and start < moment <= end:
            found.append(moment)
    return found


@given(line=crontab_lines, moment=near_a_change, zone=st.sampled_from(ZONES))
def test_fires_are_those_of_a_cron_that_looks_at_every_minute(line: CronLine, moment: datetime, zone: ZoneInfo) -> None:
    end = moment + timedelta(days=1)
    expected = fires_by_brute_force(line, moment, end, zone)
    found = []
    for fire in line.after(moment, zone):
        if fire > end:
            break
        found.append(fire)
    assert found == expected


@given(line=crontab_lines, moment=near_a_change, zone=st.sampled_from(ZONES))
def test_before_is_the_mirror_of_after(line: CronLine, moment: datetime, zone: ZoneInfo) -> None:
    following = line.next_after(moment, zone)
    previous = line.previous_before(following, zone)
    assert previous <= moment < following
    assert line.next_after(previous, zone) == following
