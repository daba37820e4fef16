"""Which backups make a moment, and which transactions belong to it."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from jobs.chains.chain import Chain, chain_to, joined
from jobs.chains.points import At, AtLsn, BeforeXid, Point, Through
from jobs.errors import NotThere
from jobs.postgres.pgoutput import lsn_number
from storage.backends.memory import MemoryBackend
from storage.increments import Increment
from storage.manifest import Manifest
from storage.repository import Repository
from tests.manifests import made_up, made_up_full, made_up_window
from tests.windows import commit_at

BASE = made_up_full(0, since=100, lsn=150)
FULL = BASE.manifest
START = FULL.created_at


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def windows(*ranges: tuple[int, int], slot: str = "") -> list[Increment]:
    """One window a minute, between these LSNs."""
    made = [made_up_window(60 * number, *between) for number, between in enumerate(ranges, 1)]
    return [one.model_copy(update={"slot": slot}) for one in made] if slot else made


def lsns(chain: Chain) -> list[tuple[int, int]]:
    return [(lsn_number(one.start), lsn_number(one.end)) for one in chain.windows]


def test_windows_are_joined_in_the_order_of_the_log() -> None:
    expected = [(100, 200), (200, 300), (300, 400)]
    for some in permutations(windows(*expected)):
        assert lsns(joined(FULL, some)) == expected


def test_a_chain_ends_at_a_gap() -> None:
    assert lsns(joined(FULL, windows((100, 200), (201, 300), (300, 400)))) == [(100, 200)]


def test_a_chain_whose_first_window_begins_too_late_has_none() -> None:
    assert joined(FULL, windows((101, 200))).windows == ()


def test_a_window_that_holds_what_the_base_lacks_and_more_belongs_to_the_chain() -> None:
    assert lsns(joined(FULL, windows((50, 120), (120, 200)))) == [(50, 120), (120, 200)]


def test_windows_before_the_base_do_not_belong_to_the_chain() -> None:
    assert lsns(joined(FULL, windows((10, 50), (50, 100), (100, 200)))) == [(100, 200)]


def test_windows_of_another_slot_do_not_belong_to_the_chain() -> None:
    assert joined(FULL, windows((100, 200), slot="rowvault_ffffffff")).windows == ()


def test_a_chain_ends_where_tables_have_another_shape() -> None:
    first, second = windows((100, 200), (200, 300))
    assert joined(FULL, [first, second.model_copy(update={"fingerprint": "another"})]).windows == (first,)


def test_a_window_before_the_base_may_be_of_another_shape() -> None:
    first, second = windows((80, 120), (120, 200))
    before = first.model_copy(update={"fingerprint": "another"})
    assert joined(FULL, [before, second]).windows == (before, second)


def test_a_full_backup_without_a_change_log_stands_alone() -> None:
    assert joined(made_up().manifest, windows((0, 200))).windows == ()


def test_a_chain_reaches_as_far_as_its_last_window() -> None:
    assert joined(FULL, windows((100, 200), (200, 300))).reaches == after(120)
    assert Chain(FULL, ()).reaches == START


@pytest.mark.parametrize(
    ("xid", "lacks"),
    [(899, False), (950, True), (999, False), (1000, True), (4_000_000_000, False)],
    ids=["long before", "was at work", "had ended", "came later", "before the 32 bits wrapped"],
)
def test_a_base_lacks_exactly_what_its_snapshot_does_not_see(xid: int, lacks: bool) -> None:
    base = made_up_full(0, since=100, lsn=150, in_progress=(950,)).manifest
    assert Chain(base, ()).lacks(commit_at(140, xid)) is lacks


def test_a_base_past_the_wrap_sees_the_end_of_the_epoch_before() -> None:
    epoch = 1 << 32
    seen = FULL.snapshot.model_copy(update={"xmin": epoch + 5, "xmax": epoch + 9})
    chain = Chain(FULL.model_copy(update={"snapshot": seen}), ())
    assert [chain.lacks(commit_at(140, xid)) for xid in (epoch - 1, 8, 9)] == [False, False, True]


def test_a_base_lacks_all_that_was_committed_after_its_lsn_though_numbers_have_gone_around() -> None:
    assert [Chain(FULL, ()).lacks(commit_at(lsn, 899)) for lsn in (149, 150, 160)] == [False, True, True]


def test_a_time_stops_at_the_first_commit_after_it() -> None:
    point = At(commit_at(0, seconds=10).time)
    assert [point.stops_before(commit_at(1, seconds=seconds)) for seconds in (9, 10, 10.000001)] == [False, False, True]


def test_an_lsn_includes_the_commit_that_begins_there() -> None:
    assert [AtLsn(200).stops_before(commit_at(lsn)) for lsn in (199, 200, 201)] == [False, False, True]


@pytest.mark.parametrize("given", [700, (3 << 32) | 700])
def test_a_transaction_is_stopped_before_however_its_number_is_written(given: int) -> None:
    assert [BeforeXid(given).stops_before(commit_at(1, xid)) for xid in (699, 700, 701)] == [False, True, False]


@pytest.mark.parametrize(
    ("point", "fits"),
    [
        (At(after(0)), True),
        (At(after(-0.001)), False),
        (AtLsn(150), True),
        (AtLsn(149), False),
        (BeforeXid(1000), True),
        (BeforeXid(950), True),
        (BeforeXid(999), False),
    ],
    ids=str,
)
def test_a_base_may_hold_nothing_that_is_not_wanted(point: Point, fits: bool) -> None:
    assert point.begins_with(made_up_full(0, since=100, lsn=150, in_progress=(950,)).manifest) is fits


async def stored(*backups: Manifest | Increment) -> Repository:
    """A place that has these backups, whose objects nobody looks for."""
    place = Repository("memory", MemoryBackend())
    for backup in backups:
        if isinstance(backup, Manifest):
            await made_up(backup.id).write(place.backend)
        await place.commit(backup)
    return place


SECOND = made_up_full(90, since=200, lsn=250).manifest
HISTORY: list[Manifest | Increment] = [FULL, SECOND, *windows((100, 200), (200, 300), (300, 400))]
"""A full backup at 0 s, windows at 60, 120 and 180 s, and another full at 90 s."""


@pytest.mark.parametrize(
    ("point", "base", "ends"),
    [
        (At(after(0)), FULL, []),
        (At(after(30)), FULL, [(100, 200)]),
        (At(after(89)), FULL, [(100, 200), (200, 300)]),
        (At(after(90)), SECOND, []),
        (At(after(120)), SECOND, [(200, 300)]),
        (At(after(121)), SECOND, [(200, 300), (300, 400)]),
        (AtLsn(180), FULL, [(100, 200)]),
        (AtLsn(200), FULL, [(100, 200), (200, 300)]),
        (AtLsn(250), SECOND, [(200, 300)]),
        (Through(made_up_window(60, 100, 200, base=FULL.id)), FULL, [(100, 200)]),
    ],
    ids=str,
)
async def test_a_moment_is_made_of_the_newest_base_before_it_and_as_few_windows_as_reach_it(
    point: Point, base: Manifest, ends: list[tuple[int, int]]
) -> None:
    chain = await chain_to([await stored(*HISTORY)], point)
    assert (chain.base.id, lsns(chain)) == (base.id, ends)


async def test_a_full_without_later_windows_of_its_own_takes_earlier_ones_that_it_does_not_see_whole() -> None:
    late = made_up_full(90, since=120, lsn=250).manifest
    chain = await chain_to([await stored(late, *windows((100, 200), (200, 300)))], At(after(100)))
    assert lsns(chain) == [(100, 200), (200, 300)]


@pytest.mark.parametrize(("seconds", "nearest"), [(-5, [0]), (181, [180]), (500, [180])])
async def test_a_time_that_nothing_reaches_is_refused_with_the_nearest(seconds: float, nearest: list[float]) -> None:
    with pytest.raises(NotThere) as refused:
        await chain_to([await stored(*HISTORY)], At(after(seconds)))
    for moment in nearest:
        assert after(moment).isoformat() in refused.value.hint


async def test_a_time_in_a_gap_is_refused_with_the_moments_on_both_sides() -> None:
    anew = made_up_full(300, since=900, lsn=950, slot="rowvault_ffffffff").manifest
    place = await stored(*HISTORY, anew)
    with pytest.raises(NotThere) as refused:
        await chain_to([place], At(after(200)))
    assert f"{after(180).isoformat()} and {after(300).isoformat()}" in refused.value.hint


async def test_a_chain_does_not_span_a_changed_definition_that_a_full_backup_found() -> None:
    (table,) = SECOND.tables
    changed = SECOND.model_copy(update={"tables": (table.model_copy(update={"fingerprint": "another"}),)})
    first, *others = windows((100, 200), (200, 300), (300, 400))
    later = [one.model_copy(update={"fingerprint": changed.fingerprint}) for one in others]
    place = await stored(FULL, changed, first, *later)
    assert lsns(await chain_to([place], At(after(60)))) == [(100, 200)]
    with pytest.raises(NotThere) as refused:
        await chain_to([place], At(after(61)))
    assert f"{after(60).isoformat()} and {after(90).isoformat()}" in refused.value.hint
    assert (await chain_to([place], At(after(120)))).base.id == changed.id


@pytest.mark.parametrize("point", [AtLsn(149), AtLsn(400), BeforeXid(5)], ids=str)
async def test_another_point_that_nothing_reaches_is_refused_by_name(point: Point) -> None:
    with pytest.raises(NotThere, match=str(point)):
        await chain_to([await stored(*HISTORY)], point)


async def test_without_any_backup_the_refusal_says_to_take_one() -> None:
    with pytest.raises(NotThere) as refused:
        await chain_to([await stored()], At(datetime.now(UTC)))
    assert "rowvault backup" in refused.value.hint
