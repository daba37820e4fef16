"""Which backups a policy keeps, why, and until when."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from storage.retention import Decision, Held, Needs, Policy, Retention, decide
from tests.catalogues import archive, full, incremental

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 3, 2, 2, tzinfo=UTC)  # a Monday
DAILY = Policy(daily=3, weekly=0, monthly=0, incremental_days=2)


def decided(
    backups: Iterable[Held], policy: Policy = DAILY, now: datetime | None = None, needs: Needs | None = None
) -> dict[str, Decision]:
    held = list(backups)
    return {one.id: one for one in decide(held, policy, now or max(one.at for one in held) + HOUR, needs)}


def staying(
    backups: Iterable[Held], policy: Policy = DAILY, now: datetime | None = None, needs: Needs | None = None
) -> set[str]:
    return {one.id for one in decided(backups, policy, now, needs).values() if one.stays}


def ids(backups: Iterable[Held]) -> set[str]:
    return {one.id for one in backups}


def daily(days: Iterable[int]) -> list[Held]:
    return [full(START + day * DAY) for day in days]


def test_without_a_policy_everything_stays() -> None:
    backups = daily(range(100))
    assert all(one.stays and one.until is None for one in decide(backups, None, START + 1000 * DAY))


def test_the_last_days_that_have_a_backup_keep_theirs() -> None:
    backups = daily([0, 1, 2, 3, 9])
    assert staying(backups) == ids(backups[2:])


def test_however_long_there_was_none() -> None:
    backups = daily(range(5))
    assert staying(backups, now=START + 1000 * DAY) == ids(backups[2:])


def test_of_one_day_the_newest_good_one_stays() -> None:
    day = [full(START), full(START + HOUR), full(START + 2 * HOUR, good=False), *daily([1])]
    kept = decided(day)
    assert [kept[one.id].reasons for one in day] == [
        (), ("daily",), ("failed, kept to be repaired",), ("daily", "newest good")
    ]  # fmt: skip


@pytest.mark.parametrize(("zone", "one_day"), [("UTC", True), ("America/New_York", False)], ids=["one day", "two days"])
def test_days_are_those_of_the_time_zone(zone: str, one_day: bool) -> None:
    backups = [full(START), full(START + 4 * HOUR)]  # 21:00 and 01:00 in New York
    policy = Policy(daily=2, zone=ZoneInfo(zone))
    assert staying(backups, policy) == ids(backups[1:] if one_day else backups)


@pytest.mark.parametrize("hours", [23, 25])
def test_days_on_which_clocks_change_are_days(hours: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    change = datetime(2026, 3, 29, tzinfo=zone) if hours == 23 else datetime(2026, 10, 25, tzinfo=zone)
    first = change.astimezone(UTC)
    backups = [full(first), full(first + hours * HOUR - HOUR), full(first + hours * HOUR)]
    kept = decided(backups, Policy(daily=2, zone=zone))
    assert ids(backups[1:]) == {one.id for one in kept.values() if one.stays}
    assert kept[backups[1].id].until == first + hours * HOUR + DAY


def test_a_slot_is_surely_filled_until_as_many_newer_days_can_have_begun() -> None:
    backups = daily([0, 1, 2])
    kept = decided(backups)
    midnight = START - 2 * HOUR
    assert [kept[one.id].until for one in backups] == [midnight + day * DAY for day in (3, 4, 5)]
    later = decided(backups, now=START + 10 * DAY)
    assert [later[one.id].until for one in backups] == [START + 10 * DAY, *(midnight + day * DAY for day in (11, 12))]


def test_archives_are_kept_by_week_and_by_month_the_first_of_each() -> None:
    weekly = [archive(datetime(2026, 1, 4, 3, tzinfo=UTC) + week * 7 * DAY) for week in range(12)]
    second = archive(weekly[-1].at + HOUR)
    kept = decided([*weekly, second], Policy(weekly=3, monthly=2))
    assert {one for one, decision in kept.items() if "weekly" in decision.tiers} == ids(weekly[-3:])
    assert {one for one, decision in kept.items() if "monthly" in decision.tiers} == {weekly[4].id, weekly[8].id}
    assert kept[second.id].reasons == ("newest good",)


def test_weeks_are_those_of_iso() -> None:
    sunday, monday = datetime(2027, 1, 3, 3, tzinfo=UTC), datetime(2027, 1, 4, 3, tzinfo=UTC)
    friday = datetime(2027, 1, 1, 3, tzinfo=UTC)
    one, two, three = archive(friday), archive(sunday), archive(monday)
    kept = decided([one, two, three], Policy(weekly=2, monthly=0))
    assert [kept[each.id].tiers for each in (one, two, three)] == [("weekly",), (), ("weekly",)]
    assert kept[one.id].until == datetime(2027, 1, 11, tzinfo=UTC)


def test_a_failed_archive_leaves_its_slot_to_the_next() -> None:
    broken, good = archive(START, good=False), archive(START + HOUR)
    assert decided([broken, good], Policy(weekly=1, monthly=0))[good.id].tiers == ("weekly",)


def test_full_backups_and_archives_do_not_fill_each_others_slots() -> None:
    backups = [*daily(range(3)), archive(START + 3 * DAY)]
    assert staying(backups, Policy(daily=3, weekly=1)) == ids(backups)


def test_what_is_marked_stays_until_it_is_released() -> None:
    marked = full(START, kept=True)
    kept = decided([marked, *daily(range(1, 9))])[marked.id]
    assert (kept.reasons, kept.until) == (("kept",), None)


def test_the_newest_good_backup_and_the_newest_good_full_one_stay_whatever_the_policy() -> None:
    backups = [full(START), full(START + DAY), archive(START + 2 * DAY), full(START + 3 * DAY, good=False)]
    nothing = Policy(daily=0, weekly=0, monthly=0, incremental_days=0)
    assert staying(backups, nothing) == ids(backups[1:])


def test_the_newest_incremental_backup_stays_with_its_chain_for_the_next_goes_on_with_it() -> None:
    nothing = Policy(daily=0, weekly=0, monthly=0, incremental_days=0)
    older, base, newer = daily(range(3))
    hourly = [incremental(base.at + hour * HOUR, base.id) for hour in (1, 2)]
    kept = decided([older, base, *hourly, newer], nothing)
    assert {one for one, decision in kept.items() if decision.stays} == ids([base, *hourly, newer])
    assert kept[hourly[1].id].reasons == ("newest good",)
    assert kept[base.id].reasons == (f"needed by {hourly[1].id}",)


def test_a_failed_backup_stays_as_long_as_a_daily_one_would() -> None:
    failed = full(START, good=False)
    after = decided([failed, *daily(range(1, 3))])[failed.id]
    assert (after.reasons, after.until) == (("failed, kept to be repaired",), START - 2 * HOUR + 3 * DAY)
    assert failed.id not in staying([failed, *daily(range(1, 4))])


def test_failed_backups_stay_while_there_is_no_good_one() -> None:
    backups = [full(START + day * DAY, good=False) for day in range(20)]
    assert staying(backups) == ids(backups)


def test_incremental_backups_stay_by_age_those_of_one_base_together() -> None:
    bases = daily(range(5))
    hourly = [incremental(one.at + hour * HOUR, one.id) for one in bases for hour in (1, 22)][:-1]
    kept = decided([*bases, *hourly])
    assert {one.id for one in hourly if kept[one.id].stays} == ids(hourly[4:])
    assert kept[bases[2].id].reasons == ("daily", f"needed by {hourly[5].id}")
    assert kept[hourly[5].id].reasons == ("incremental",)
    assert kept[hourly[4].id].reasons == (f"needed by {hourly[5].id}",)
    assert kept[hourly[5].id].until == hourly[5].at + 2 * DAY


def test_a_base_stays_as_long_as_what_builds_on_it() -> None:
    bases = daily(range(3))
    last = incremental(bases[0].at + 23 * HOUR, bases[0].id)
    kept = decided([*bases, last], Policy(daily=1, weekly=0, monthly=0, incremental_days=2))
    assert kept[bases[0].id].reasons == (f"needed by {last.id}",)
    assert kept[bases[0].id].until == last.at + 2 * DAY


def test_a_pause_makes_nothing_old() -> None:
    base = full(START)
    hourly = [incremental(START + hour * HOUR, base.id) for hour in range(1, 5)]
    assert staying([base, *hourly], now=START + 300 * DAY) == ids([base, *hourly])
    after = full(START + 300 * DAY)
    assert staying([base, *hourly, after]) == ids([base, *hourly, after])


def test_a_clock_that_was_years_ahead_costs_nothing() -> None:
    base, ahead = full(START), full(START + 900 * DAY)
    hourly = [incremental(START + hour * HOUR, base.id) for hour in range(1, 5)]
    wrong = incremental(ahead.at + HOUR, ahead.id)
    there = [base, *hourly, ahead, wrong]
    assert staying(there) == ids(there)
    right_again = daily(range(1, 3))
    kept = decided([*there, *right_again], now=right_again[-1].at)
    assert all(one.stays for one in kept.values())
    assert kept[ahead.id].reasons[0] == "dated in the future"
    assert kept[right_again[-1].id].reasons == ("daily", "newest good")


def test_a_damaged_base_is_replaced_by_the_good_one_before_with_all_that_followed() -> None:
    good, failed = full(START), full(START + DAY, good=False)
    first = [incremental(good.at + hour * HOUR, good.id) for hour in (1, 2)]
    second = [incremental(failed.at + hour * HOUR, failed.id) for hour in (1, 2)]
    later = daily(range(2, 4))
    policy = Policy(daily=1, weekly=0, monthly=0, incremental_days=2)
    kept = decided([good, failed, *first, *second, *later], policy, later[-1].at)
    assert {one for one, decision in kept.items() if decision.stays} == ids([good, failed, *first, *second, later[-1]])
    assert kept[good.id].reasons == (f"needed by {second[-1].id}",)


def test_what_was_taken_among_those_of_a_base_stays_with_them_whatever_its_own_base() -> None:
    """As where the newest full backup was out of sight for a while: the log went on after an older one."""
    old, new = daily(range(2))
    first = [incremental(old.at + hour * HOUR, old.id) for hour in (1, 2)]
    second = [incremental(new.at + hour * HOUR, new.id) for hour in (1, 4)]
    among = [incremental(new.at + hour * HOUR, old.id) for hour in (2, 3)]
    kept = decided([old, new, *first, *second, *among], Policy(1, 0, 0, 0))
    assert {one for one, decision in kept.items() if decision.stays} == ids([new, *second, *among])
    assert kept[among[0].id].reasons == (f"needed by {second[-1].id}",)


def test_what_is_dated_in_the_future_keeps_nothing_that_comes_before_it() -> None:
    bases = daily(range(9))
    hourly = [incremental(one.at + HOUR, one.id) for one in bases]
    wrong = incremental(START + 900 * DAY, bases[0].id)
    assert staying([*bases, *hourly, wrong], Policy(1, 0, 0, 0), bases[-1].at + DAY) == ids(
        [bases[0], hourly[0], wrong, bases[-1], hourly[-1]]
    )


def test_a_base_that_is_gone_is_replaced_likewise() -> None:
    good = full(START)
    first = incremental(good.at + HOUR, good.id)
    orphan = incremental(good.at + DAY, full(good.at + 12 * HOUR).id)
    later = full(good.at + 2 * DAY)
    assert staying([good, first, orphan, later], Policy(1, 0, 0, 2)) == ids([good, first, orphan, later])


def test_a_marked_incremental_backup_keeps_its_chain() -> None:
    base = full(START)
    hourly = [incremental(START + hour * HOUR, base.id, kept=hour == 2) for hour in (1, 2)]
    kept = decided([base, *hourly, *daily(range(1, 30))])
    assert [(kept[one.id].reasons, kept[one.id].until) for one in (base, hourly[0])] == [
        ((f"needed by {hourly[1].id}",), None)
    ] * 2


def test_windows_that_a_base_lacks_stay_with_it_and_keep_nothing_themselves() -> None:
    bases = daily(range(4))
    early = [incremental(one.at + 23 * HOUR, one.id) for one in bases]
    policy, now = Policy(1, 0, 0, 1), bases[3].at + DAY
    needs = {after.id: (window.id,) for window, after in zip(early, bases[1:], strict=False)}
    held = [*bases, *early]
    assert set(Retention(held, policy, now).bases) == {bases[3].id}
    kept = decided(held, policy, now, needs)
    assert {one for one, decision in kept.items() if decision.stays} == ids([bases[3], early[3], early[2]])
    assert kept[early[2].id].reasons == (f"needed by {bases[3].id}",)
