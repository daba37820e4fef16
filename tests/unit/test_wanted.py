"""What each place should hold: its policy, the marks and verifications of all places, and what chains lack."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from jobs.places.catalogue import list_backups
from jobs.places.standing import standing
from storage.backends.memory import MemoryBackend
from storage.increments import Increment
from storage.objects import put
from storage.repository import Repository
from storage.retention import Policy
from tests.manifests import MadeUp, made_up_full, made_up_window

DAY = 86_400
NEWEST_ONLY = Policy(daily=1, weekly=0, monthly=0, incremental_days=1)
START = datetime.fromtimestamp(1_700_000_000, UTC)


def place(name: str, policy: Policy | None) -> Repository:
    return Repository(name, MemoryBackend(), policy=policy)


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


async def committed(place: Repository, *backups: MadeUp | Increment) -> None:
    for one in backups:
        await (place.commit(one) if isinstance(one, Increment) else one.commit(place))


def full(day: int) -> MadeUp:
    return made_up_full(day * DAY, since=day * 1000, lsn=day * 1000 + 10)


async def staying(places: Sequence[Repository], now: datetime) -> dict[str, set[str]]:
    found = await standing(places, now)
    return {
        one.place: {each.id for each in found.listing.backups if found.wanted.by(one.place, each.id)} for one in places
    }


async def test_a_place_that_does_not_want_a_backup_is_not_pending() -> None:
    local, s3 = place("local", Policy(daily=2)), place("s3", NEWEST_ONLY)
    old, new = full(0), full(1)
    await committed(local, old, new)
    shown = {one.id: one for one in (await list_backups([local, s3])).backups}
    assert [(one.name, one.state) for one in shown[old.manifest.id].places] == [("local", "committed")]
    assert [one.state for one in shown[new.manifest.id].places] == ["committed", "pending"]
    assert [shown[one.manifest.id].state for one in (old, new)] == ["success", "warning"]


async def test_the_list_says_which_slots_a_backup_fills_and_until_when_it_stays() -> None:
    local, s3 = place("local", NEWEST_ONLY), place("s3", Policy(daily=3))
    backups = [full(day) for day in range(4)]
    for one in (local, s3):
        await committed(one, *backups)
    newest, *_, oldest = (await list_backups([local, s3])).backups
    assert (newest.tiers, newest.reasons) == (("daily",), ("daily", "newest good"))
    assert (oldest.tiers, oldest.reasons, oldest.kept_until) == ((), (), None)


async def test_a_mark_or_a_good_copy_in_one_place_counts_in_all() -> None:
    local, s3 = place("local", NEWEST_ONLY), place("s3", NEWEST_ONLY)
    backups = [full(day) for day in range(3)]
    for one in (local, s3):
        await committed(one, *backups)
    first, _, last = (one.manifest.id for one in backups)
    await s3.keep(first, "")
    await local.record_verification(last, "failed", {})
    assert await staying([local, s3], at(3 * DAY)) == {"local": {first, last}, "s3": {first, last}}


async def test_what_nobody_has_read_back_yet_lets_nothing_go_that_somebody_has() -> None:
    """A daemon that was killed between the two goes on with retention when it starts."""
    local, s3 = place("local", NEWEST_ONLY), place("s3", NEWEST_ONLY)
    backups = [full(day) for day in range(4)]
    for one in (local, s3):
        await committed(one, *backups)
    _, older, newer, last = (one.manifest.id for one in backups)
    await local.record_verification(older, "success", {})
    await s3.record_verification(newer, "success", {})
    assert await staying([local, s3], at(4 * DAY)) == {"local": {newer, last}, "s3": {newer, last}}
    await s3.record_verification(last, "success", {})
    assert await staying([local, s3], at(4 * DAY)) == {"local": {last}, "s3": {last}}


@pytest.mark.parametrize("readable", [True, False])
async def test_the_window_that_a_base_lacks_is_read_from_its_manifest(readable: bool) -> None:
    local = place("local", NEWEST_ONLY)
    old, base = full(0), full(3)
    windows = [
        made_up_window(3 * DAY - 10, 2000, 2900, base=old.manifest.id),
        made_up_window(3 * DAY - 5, 2900, 3005, base=old.manifest.id),
    ]
    later = made_up_window(5 * DAY, 3005, 3100, base=base.manifest.id)
    await committed(local, old, base, *windows, later)
    if not readable:
        await put(local.backend, str(windows[1].name()), b"damaged")
    assert await staying([local], at(5 * DAY)) == {"local": {base.manifest.id, later.id, windows[1].id}}


async def test_windows_of_another_slot_are_of_no_use_to_a_base() -> None:
    local = place("local", NEWEST_ONLY)
    base = full(3)
    early = made_up_window(3 * DAY - 5, 2900, 3005, slot="rowvault_ffffffff")
    later = made_up_window(5 * DAY, 3005, 3100, base=base.manifest.id)
    await committed(local, base, early, later)
    assert await staying([local], at(5 * DAY)) == {"local": {base.manifest.id, later.id}}
