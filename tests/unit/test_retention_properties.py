"""What holds of retention whatever the catalogue, the policy and the clock."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.retention import Decision, Held, Needs, Policy, Retention, decide

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NEEDED = "needed by "
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Africa/Casablanca"]).map(ZoneInfo)
POLICIES = st.builds(
    Policy,
    daily=st.integers(0, 5),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
    incremental_days=st.integers(0, 5),
    zone=ZONES,
)
MOMENTS = st.integers(0, 60 * 24 * 60).map(lambda minutes: START + minutes * MINUTE)


@st.composite
def catalogues(draw: st.DrawFn) -> list[Held]:
    """Backups of every kind, in any order; incremental ones on any base, or on one that is gone."""
    held: list[Held] = []
    for number in range(draw(st.integers(0, 25))):
        at, kind = draw(MOMENTS), draw(st.sampled_from(["full", "incremental", "incremental", "archive"]))
        backup_id = f"{at:%Y%m%dT%H%M%S.000Z}-{kind}-{number:06x}"
        bases = [one.id for one in held if one.kind == "full"]
        base = draw(st.sampled_from([*bases, "20260301T000000.000Z-full-ffffff"])) if kind == "incremental" else None
        kept, good = draw(st.integers(0, 9)) == 0, draw(st.integers(0, 4)) > 0
        held.append(Held(backup_id, at, kind, base, kept, good, proved=draw(st.booleans())))
    return held


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Held], Policy, datetime, Needs]:
    """A catalogue, a policy, a moment, and what windows each base lacks."""
    held = draw(catalogues())
    windows = [one.id for one in held if one.kind == "incremental"]
    needs = {
        one.id: draw(st.lists(st.sampled_from(windows), max_size=2)) for one in held if one.kind == "full" and windows
    }
    return held, draw(POLICIES), draw(MOMENTS), needs


Scene = tuple[list[Held], Policy, datetime, Needs]


def staying(decisions: Iterable[Decision]) -> set[str]:
    return {one.id for one in decisions if one.stays}


@given(scenes())
def test_the_newest_good_backups_the_marked_and_the_future_ones_stay(scene: Scene) -> None:
    held, policy, now, needs = scene
    stay = staying(decide(held, policy, now, needs))
    good = sorted((one for one in held if one.good and one.at <= now), key=lambda one: one.id)
    fulls = [one for one in good if one.kind == "full"]
    proved = [one for one in fulls if one.proved]
    incrementals = [one for one in good if one.kind == "incremental"]
    assert {one.id for one in (*good[-1:], *fulls[-1:], *proved[-1:], *incrementals[-1:])} <= stay
    assert {one for full in fulls[-1:] for one in needs.get(full.id, ()) if one in {each.id for each in held}} <= stay
    assert {one.id for one in held if one.kept or one.at > now} <= stay


@given(scenes())
def test_what_stays_can_be_brought_back(scene: Scene) -> None:
    held, policy, now, needs = scene
    stay = staying(decide(held, policy, now, needs))
    by_id = {one.id: one for one in held}
    own = {
        one.id
        for one in decide(held, policy, now)  # but for windows that stay for another base
        if any(by_id[why.removeprefix(NEEDED)].base == by_id[one.id].base for why in one.reasons if NEEDED in why)
        or any(NEEDED not in why for why in one.reasons)
    }
    for one in held:
        if one.kind != "incremental" or one.id not in own or one.at > now:
            continue
        assert one.base is not None
        first = min(one.base, *(other.id for other in held if other.base == one.base))
        before = [other.id for other in held if other.kind == "full" and other.good and other.id < first]
        sound = one.base in by_id and by_id[one.base].good
        root = one.base if sound else max(before, default=None)
        if root is None:
            continue
        assert root in stay
        assert {each for each in needs.get(root, ()) if each in by_id} <= stay
        assert {other.id for other in held if other.base == one.base} <= stay
        assert {other.id for other in held if other.kind == "incremental" and root < other.id < one.id} <= stay


@given(scenes())
def test_once_all_is_removed_that_may_go_nothing_more_may(scene: Scene) -> None:
    held, policy, now, needs = scene
    stay = staying(decide(held, policy, now, needs))
    left = [one for one in held if one.id in stay]
    assert staying(decide(left, policy, now, needs)) == stay


@given(scenes(), st.data())
def test_in_which_order_it_is_removed_does_not_matter(scene: Scene, data: st.DataObject) -> None:
    held, policy, now, needs = scene
    stay = staying(decide(held, policy, now, needs))
    gone = data.draw(st.sets(st.sampled_from([one.id for one in held]))) - stay if held else set()
    left = [one for one in held if one.id not in gone]
    assert staying(decide(left, policy, now, needs)) >= stay


@given(scenes())
def test_more_generous_policies_keep_no_less(scene: Scene) -> None:
    held, policy, now, needs = scene
    more = replace(
        policy,
        daily=policy.daily + 1,
        weekly=policy.weekly + 1,
        monthly=policy.monthly + 1,
        incremental_days=policy.incremental_days + 1,
    )
    assert staying(decide(held, policy, now, needs)) <= staying(decide(held, more, now, needs))


@given(scenes(), st.integers(0, 10_000))
def test_time_alone_lets_nothing_go(scene: Scene, days: int) -> None:
    held, policy, now, needs = scene
    known = [one for one in held if one.at <= now]
    later = decide(known, policy, now + timedelta(days=days), needs)
    assert staying(later) == staying(decide(known, policy, now, needs))


@given(scenes(), st.lists(st.integers(1, 60 * 24 * 5), max_size=12), st.data())
@settings(max_examples=200)
def test_nothing_goes_before_the_moment_that_was_told(scene: Scene, steps: list[int], data: st.DataObject) -> None:
    """Backups are taken from `now` on, at most one full one a day, and each moment is looked at."""
    held, policy, now, needs = scene
    held = [one for one in held if one.at <= now and one.good]
    told = {one.id: one.until for one in decide(held, policy, now, needs) if one.until is not None}
    days = {one.at.astimezone(policy.zone).date() for one in held if one.kind == "full"}
    at, base = now, next((one.id for one in held if one.kind == "full"), "")
    for number, step in enumerate(steps):
        at += step * MINUTE
        kind = data.draw(st.sampled_from(["full", "incremental", "archive"]))
        day = at.astimezone(policy.zone).date()
        if kind == "full" and day in days:
            continue
        days |= {day} if kind == "full" else set()
        backup_id = f"{at:%Y%m%dT%H%M%S.000Z}-{kind}-{0xF00000 + number:06x}"
        held.append(Held(backup_id, at, kind, base if kind == "incremental" else None, False, True))
        base = backup_id if kind == "full" else base
        stay = staying(decide(held, policy, at, needs))
        assert {one for one, until in told.items() if at < until} <= stay


@given(scenes())
def test_the_bases_of_chains_are_full_backups_that_stay(scene: Scene) -> None:
    held, policy, now, needs = scene
    kinds = {one.id: one.kind for one in held}
    found = Retention(held, policy, now).bases
    assert {kinds[one] for one in found} <= {"full"}
    assert set(found) <= staying(decide(held, policy, now, needs))
