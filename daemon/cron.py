"""Crontab lines, with the meaning crontab(5) gives them, as pure functions of time.

The five fields are minute, hour, day of month, month and day of week. 0 and 7 are Sunday; names, lists,
ranges and steps are understood, and nicknames such as `@daily`. A day matches if day of month *or* day of
week does, where both are restricted (do not start with `*`); else if both do.

Where clocks change, Vixie cron's rule holds. A line whose minute or hour starts with `*` means an interval:
it fires at every real minute whose wall time matches. Any other line means times of day: each fires once, the
first time it comes round in autumn, and right after the change in spring if the change skipped it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import chain, count, pairwise

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = {name: i for i, name in enumerate(_MONTH_NAMES, 1)}
_WEEKDAYS = {name: i for i, name in enumerate(_WEEKDAY_NAMES)}
_LONGEST_MONTH = {month: 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31 for month in range(1, 13)}
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ITEM = re.compile(r"(?:(?P<all>\*)|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d{1,4}))?", re.ASCII)
_DAY = timedelta(days=1)


class CronError(ValueError):
    """A line is not a crontab(5) line; the message names the field at fault, and does not repeat the line."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _WEEKDAYS),
)


@dataclass(frozen=True, slots=True)
class CronLine:
    """A crontab line, read; Sunday is 0. `either_day` ORs the day fields, `interval` goes by real minutes."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    interval: bool

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime:
        """The first time strictly after `moment` at which the line fires, in UTC; its hours are `zone`'s."""
        return next(self.after(moment, zone))

    def previous_before(self, moment: datetime, zone: tzinfo) -> datetime:
        """The last time strictly before `moment` at which the line fired, or would have, in UTC."""
        return next(self.before(moment, zone))

    def after(self, moment: datetime, zone: tzinfo) -> Iterator[datetime]:
        """Every time strictly after `moment` at which the line fires, earliest first, without end."""
        today = moment.astimezone(UTC).date()
        fires = chain.from_iterable(_fires_on(self, today + n * _DAY, zone) for n in count())
        return (fire for fire in fires if fire > moment)

    def before(self, moment: datetime, zone: tzinfo) -> Iterator[datetime]:
        """Every time strictly before `moment` at which the line fired, latest first."""
        today = moment.astimezone(UTC).date()
        fires = chain.from_iterable(reversed(_fires_on(self, today - n * _DAY, zone)) for n in count())
        return (fire for fire in fires if fire < moment)

    def longest_gap(self, moment: datetime, zone: tzinfo, span: timedelta = timedelta(days=40)) -> timedelta:
        """The longest time between two fires in the `span` after `moment`, the first beyond it included."""
        longest = timedelta()
        for one, following in pairwise(self.after(moment, zone)):
            longest = max(longest, following - one)
            if following > moment + span:
                break
        return longest

    def falls_on(self, day: date) -> bool:
        """Whether the line fires on that day of the wall calendar, at whatever time."""
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (of_month or of_week if self.either_day else of_month and of_week)


def parse_cron(line: str) -> CronLine:
    """Read a crontab line or nickname. Raises `CronError`, also for a day that never comes (30 February)."""
    texts = _NICKNAMES.get(line.strip().lower(), line).split()
    if len(texts) != len(_FIELDS):
        raise CronError(
            "must have five fields (minute, hour, day of month, month, day of week), such as `0 2 * * *`,"
            f" not {len(texts)}"
        )
    minutes, hours, days, months, weekdays = (_values(f, text) for f, text in zip(_FIELDS, texts, strict=True))
    either_day = not texts[2].startswith("*") and not texts[4].startswith("*")
    if not either_day and min(days) > max(_LONGEST_MONTH[month] for month in months):
        raise CronError("names a day of month that none of its months has")
    return CronLine(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=either_day,
        interval=texts[0].startswith("*") or texts[1].startswith("*"),
    )


def _values(field: _Field, text: str) -> frozenset[int]:
    return frozenset(value for item in text.split(",") for value in _item_values(field, item))


def _item_values(field: _Field, item: str) -> range:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise CronError(f"{field.name}: must be *, a value, a range or a list of these, each with an optional /step")
    if match["all"]:
        low, high = field.low, field.high
    else:
        low = _value(field, match["low"])
        # As in Vixie cron: a step after a single value runs on to the end.
        high = _value(field, match["high"]) if match["high"] else field.high if match["step"] else low
    if low > high:
        raise CronError(f"{field.name}: a range must run upwards")
    step = int(match["step"] or 1)
    if step == 0:
        raise CronError(f"{field.name}: a step must be above zero")
    return range(low, high + 1, step)


def _value(field: _Field, text: str) -> int:
    value = field.names.get(text.lower(), int(text) if text.isdecimal() and len(text) < 4 else -1)
    if not field.low <= value <= field.high:
        names = f" or a name such as {next(iter(field.names))}" if field.names else ""
        raise CronError(f"{field.name}: must be from {field.low} to {field.high}{names}")
    return value


def _fires_on(line: CronLine, utc_day: date, zone: tzinfo) -> list[datetime]:
    """Every fire within one day of UTC, in order. No wall clock is more than a day from it."""
    start = datetime.combine(utc_day, time(), UTC)
    walls = (_fires_of_wall_day(line, utc_day + n * _DAY, zone) for n in (-1, 0, 1))
    return sorted({fire for fires in walls for fire in fires if start <= fire < start + _DAY})


@lru_cache(maxsize=16)
def _fires_of_wall_day(line: CronLine, day: date, zone: tzinfo) -> tuple[datetime, ...]:
    if not line.falls_on(day):
        return ()
    walls = (datetime.combine(day, time(hour, minute)) for hour in line.hours for minute in line.minutes)
    return tuple(fire for wall in walls for fire in _fires_at(wall, zone, every=line.interval))


def _fires_at(wall: datetime, zone: tzinfo, *, every: bool) -> tuple[datetime, ...]:
    """The real times a wall time stands for (PEP 495): two where clocks go back, none where they skip."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return (first,)
    if first < second:
        return (first, second) if every else (first,)
    return () if every else (_change_between(second, first, zone),)


def _change_between(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first minute of the new wall clock, where `zone` changes its offset between two UTC times."""
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(minutes=1):
        middle = before + (after - before) // timedelta(minutes=2) * timedelta(minutes=1)
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
