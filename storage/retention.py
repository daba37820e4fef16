"""Retention: which backups a policy keeps, why, and until when. Pure functions of catalogue, policy and time.

- Full backups fill daily slots, the newest good one of each of the last days that hold any; archives fill weekly (ISO)
  and monthly ones, the first good one of each. Time without backups empties no slot.
- Incremental backups stay by age. It is counted back from the newest backup, not from now, and what lies between two
  backups counts as a day at most: neither a pause nor a clock that runs ahead makes them old.
- Those of one base go together, once the newest of them is too old, with what was taken among them of another. While
  one stays, so does its base; if that is damaged or gone, the newest good full backup before it, with every incremental
  one since; and the windows from before its base that this base lacks.
- A keep mark holds until it is lifted. The newest good backup of all never goes, nor the newest good full one, nor the
  newest good incremental one, with which the next goes on; nor the newest full one that passed its verification. What
  is dated in the future stays, and fills no slot. What failed its verification fills none either; it stays for as long
  as a daily backup would, so that it can be repaired.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal

Tier = Literal["daily", "weekly", "monthly", "incremental"]
TIERS: tuple[Tier, ...] = ("daily", "weekly", "monthly", "incremental")

KEPT, NEWEST, FAILED, FUTURE = "kept", "newest good", "failed, kept to be repaired", "dated in the future"
PROVED = "newest verified"
_NEEDED = "needed by "
_DAY = timedelta(days=1)
_OPEN = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Policy:
    """How many backups of each tier stay; `zone` says where days, weeks and months begin.

    `kinds` are those that the place is for; of others it wants none at all.
    """

    daily: int = 7
    weekly: int = 4
    monthly: int = 12
    incremental_days: int = 7
    zone: tzinfo = UTC
    kinds: frozenset[str] = frozenset({"full", "incremental", "archive"})

    def keeps(self, kind: str) -> bool:
        """Whether it has room for any of a kind."""
        return kind in self.kinds and (kind != "archive" or self.weekly + self.monthly > 0)


@dataclass(frozen=True, slots=True)
class Held:
    """One backup of the merged catalogue. `good`: whole in at least one place, as far as is known; `proved` so by a
    verification.
    """

    id: str
    at: datetime
    kind: str
    base: str | None
    kept: bool
    good: bool
    proved: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one backup: `reasons` why it stays, none if it may go; the `tiers` are among them.

    It stays until `until` at least, unless a newer full backup of the same day takes its slot; None: that is open.
    """

    id: str
    tiers: tuple[Tier, ...] = ()
    reasons: tuple[str, ...] = ()
    until: datetime | None = None

    @property
    def stays(self) -> bool:
        """Whether anything keeps it."""
        return bool(self.reasons)


Needs = Mapping[str, Iterable[str]]
"""By id of a full backup: the incremental ones from before it that hold what its snapshot does not see."""


def decide(backups: Iterable[Held], policy: Policy | None, now: datetime, needs: Needs | None = None) -> list[Decision]:
    """What becomes of each backup, newest first. `needs` is wanted of `Retention.bases`; no policy keeps everything."""
    if policy is None:
        return [Decision(one.id, (), ("there is no policy",)) for one in _sorted(backups)]
    retention = Retention(list(backups), policy, now)
    retention.keep_windows(needs or {})
    return retention.decisions()


def _sorted(backups: Iterable[Held]) -> list[Held]:
    return sorted(backups, key=lambda one: one.id, reverse=True)


class Retention:
    """Gathers why each backup stays, and until when for each reason (None: who knows).

    `bases` are the full backups with which chains begin that stay: each may need windows from before it.
    """

    def __init__(self, backups: Sequence[Held], policy: Policy, now: datetime) -> None:
        self._ids = [one.id for one in _sorted(backups)]
        self._all = _sorted(one for one in backups if one.kind in policy.kinds)
        self._past = [one for one in self._all if one.at <= now]
        self._policy = policy
        self._now = now
        self._reasons: dict[str, dict[str, datetime | None]] = defaultdict(dict)
        self._spans: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
        self.bases: dict[str, datetime | None] = {}
        self._by_mark_and_clock()
        self._by_tier()
        self._by_age()
        self._newest_good()
        self._by_chain()

    def decisions(self) -> list[Decision]:
        """What the reasons come to, newest first."""
        return [self._decision(one) for one in self._ids]

    def keep_windows(self, needs: Needs) -> None:
        """Keep the windows that bases lack. They stay for such a base alone, and need none of their own."""
        there = {one.id for one in self._all}
        for base, until in self.bases.items():
            for window in sorted(there.intersection(needs.get(base, ()))):
                self._need(window, base, until)

    def _decision(self, backup_id: str) -> Decision:
        reasons = self._reasons.get(backup_id, {})
        until = _longest(reasons.values())
        tiers = tuple(tier for tier in TIERS if tier in reasons)
        known = None if until is None or until == _OPEN else max(until, self._now)
        return Decision(backup_id, tiers, tuple(reasons), known)

    def _by_mark_and_clock(self) -> None:
        for one in self._all:
            if one.kept:
                self._reasons[one.id][KEPT] = _OPEN
            if one.at > self._now:
                self._reasons[one.id][FUTURE] = one.at

    def _by_tier(self) -> None:
        policy = self._policy
        fulls = [one for one in self._past if one.good and one.kind == "full"]
        archives = [one for one in self._past if one.good and one.kind == "archive"]
        # A period belongs to whichever comes last here.
        tiers: tuple[tuple[Tier, int, _Period, Iterable[Held]], ...] = (
            ("daily", policy.daily, _DAYS, reversed(fulls)),
            ("weekly", policy.weekly, _WEEKS, archives),
            ("monthly", policy.monthly, _MONTHS, archives),
        )
        for tier, count, period, holders in tiers:
            by_period = {period.of(one.at, policy.zone): one for one in holders}
            slots = _Slots(count, period, sorted(by_period), self._now, policy.zone)
            for number in slots.taken[-count:] if count else ():
                self._reasons[by_period[number].id][tier] = slots.until(number)
        days = sorted({_DAYS.of(one.at, policy.zone) for one in fulls})
        self._failed(_Slots(max(policy.daily, 1), _DAYS, days, self._now, policy.zone))

    def _failed(self, slots: "_Slots") -> None:
        for one in self._past:
            if not one.good and one.kind != "incremental":
                day = _DAYS.of(one.at, self._policy.zone)
                if slots.newer(day) < slots.count:
                    self._reasons[one.id][FAILED] = slots.until(day)

    def _by_age(self) -> None:
        """What lies between two backups counts as a day at most, and so does the time since the newest."""
        limit, age = self._policy.incremental_days * _DAY, timedelta()
        after = self._past[0].at if self._past else self._now
        pause = min(self._now - after, _DAY)
        for one in self._past:
            age, after = age + min(after - one.at, _DAY), one.at
            if age >= limit:
                return
            if one.kind == "incremental":
                left = max(timedelta(), limit - age - pause)
                self._reasons[one.id]["incremental" if one.good else FAILED] = _later(self._now, left)

    def _newest_good(self) -> None:
        good = [one for one in self._past if one.good]
        full = next((one for one in good if one.kind == "full"), None)
        incremental = next((one for one in good if one.kind == "incremental"), None)
        for one in (*good[:1], full, incremental):
            if one is not None:
                self._reasons[one.id].setdefault(NEWEST, None)
        if full:
            self.bases[full.id] = None
        # A run may have been killed between committing and reading back.
        proved = next((one for one in good if one.proved and one.kind == "full"), None)
        if proved and full and not full.proved:
            self._reasons[proved.id][PROVED] = None
            self.bases.setdefault(proved.id, None)

    def _by_chain(self) -> None:
        groups: dict[str, list[Held]] = defaultdict(list)
        for one in self._all:
            if one.kind == "incremental" and one.base is not None:
                groups[one.base].append(one)
        fulls = {one.id: one for one in self._all if one.kind == "full"}
        stayed = -1
        while stayed != len(self._reasons):  # what one chain needs may belong to another
            stayed = len(self._reasons)
            for base in sorted(groups, reverse=True):
                staying = [one.id for one in groups[base] if one.id in self._reasons]
                if staying:
                    user = max(staying, key=lambda one: _rank(_longest(self._reasons[one].values())))
                    self._keep_chain(base, groups[base], fulls, user)
        self._keep_between(groups, fulls)

    def _keep_between(self, groups: Mapping[str, Sequence[Held]], fulls: Mapping[str, Held]) -> None:
        """Keep what lies among the incremental backups of a base and is of another.

        As where the base was out of sight when it was taken: the log went on all the same. It needs none of its own.
        """
        ids = sorted(one.id for group in groups.values() for one in group)
        found: list[tuple[str, str, datetime | None]] = []  # all are found first: what they add keeps nothing itself
        for base, group in groups.items():
            if base in fulls and fulls[base].good and group[0].id in self._reasons:
                user = max(group, key=lambda one: (_rank(_longest(self._reasons[one.id].values())), one.id)).id
                until, last = _longest(self._reasons[user].values()), max(self._before_now(group), default=base)
                among = set(ids[bisect_left(ids, base) : bisect_left(ids, last)])
                found += [(one, user, until) for one in sorted(among - {each.id for each in group})]
        for one, user, until in found:
            self._need(one, user, until)

    def _before_now(self, group: Sequence[Held]) -> list[str]:
        return [one.id for one in group if one.at <= self._now]

    def _keep_chain(self, base: str, group: Sequence[Held], fulls: Mapping[str, Held], user: str) -> None:
        """Keep all incremental backups of a base, and what they build on."""
        until = _longest(self._reasons[user].values())
        needed = {one.id for one in group}
        root = base if base in fulls and fulls[base].good else None
        if root is None:
            first = min(base, group[-1].id)  # where the clock went back, a base may have the later id
            root = next((one.id for one in fulls.values() if one.good and one.id < first), None)
            needed |= self._since(root, group[0].id, until) if root is not None else set()
        needed |= {root or base, base} & fulls.keys()
        for one in sorted(needed - {user}):
            self._need(one, user, until)
        if root is not None:
            self.bases[root] = max(self.bases.get(root), until, key=_rank)

    def _since(self, root: str, last: str, until: datetime | None) -> set[str]:
        """Every incremental backup between a full one and another; none if they were found for longer already."""
        span = last, _rank(until)
        if any(last <= other and span[1] <= rank for other, rank in self._spans[root]):
            return set()
        self._spans[root].append(span)
        return {one.id for one in self._all if one.kind == "incremental" and root < one.id < last}

    def _need(self, backup_id: str, user: str, until: datetime | None) -> None:
        """Note who needs a backup: of several, who does for longest."""
        reasons = self._reasons[backup_id]
        before = next((reason for reason in reasons if reason.startswith(_NEEDED)), None)
        if before is None or _rank(until) > _rank(reasons[before]):
            reasons.pop(before or "", None)
            reasons[f"{_NEEDED}{user}"] = until


@dataclass(frozen=True, slots=True)
class _Period:
    """A kind of period: the number of the one that a day is in, and the first day of the one with a number."""

    number: Callable[[date], int]
    first: Callable[[int], date]

    def of(self, moment: datetime, zone: tzinfo) -> int:
        """The number of the period in which a moment lies."""
        try:
            return self.number(moment.astimezone(zone).date())
        except OverflowError:  # at the ends of the calendar
            return self.number(moment.date())


_DAYS = _Period(date.toordinal, date.fromordinal)
_WEEKS = _Period(lambda day: (day.toordinal() - 1) // 7, lambda number: date.fromordinal(number * 7 + 1))
_MONTHS = _Period(lambda day: day.year * 12 + day.month - 1, lambda number: date(number // 12, number % 12 + 1, 1))


@dataclass(frozen=True, slots=True)
class _Slots:
    """The last `count` of the periods that are `taken` (in order) are slots."""

    count: int
    period: _Period
    taken: Sequence[int]
    now: datetime
    zone: tzinfo

    def newer(self, number: int) -> int:
        """How many periods are taken that are newer than one."""
        return len(self.taken) - bisect_left(self.taken, number + 1)

    def until(self, number: int) -> datetime | None:
        """The earliest moment at which so many newer periods can be taken that this one is none of the last."""
        newest = self.taken[-1] if self.taken else number
        next_one = max(newest + 1, self.period.of(self.now, self.zone))
        missing = self.count - self.newer(number)
        try:
            first = self.period.first(next_one + missing - 1)
            return datetime.combine(first, time(), self.zone).astimezone(UTC)
        except (ValueError, OverflowError):
            return _OPEN


def _later(moment: datetime, delta: timedelta) -> datetime:
    try:
        return moment + delta
    except OverflowError:
        return _OPEN


def _longest(untils: Iterable[datetime | None]) -> datetime | None:
    return max(untils, key=_rank, default=None)


def _rank(until: datetime | None) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if until is None else until
