"""How backups stand: which places have them, and what each place's policy decides of them, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.places.catalogue import Asked, Listing, ask, merge, policies, read_backup
from jobs.places.wanted import Catalogues, Wanted, all_held
from jobs.postgres.pgoutput import lsn_number
from storage.errors import Corrupt, NotFound
from storage.increments import AnyBackup, Increment
from storage.manifest import Manifest
from storage.names import id_moment
from storage.repository import Repository
from storage.retention import Decision, Held, Policy, Retention, decide


@dataclass(frozen=True, slots=True)
class Standing:
    """What every place answered, and what the policies decide of that."""

    asked: Asked
    wanted: Wanted

    @property
    def listing(self) -> Listing:
        """The same as a list."""
        return Listing(merge(self.asked.catalogues, self.wanted), self.asked.unreachable, self.asked.strays)


async def standing(repositories: Sequence[Repository], now: datetime | None = None) -> Standing:
    """Ask every place, and decide. Raises `Unavailable` if none answers, and what reading a few manifests raises."""
    asked = await ask(repositories)
    decided = await Deciding(repositories).wanted(asked.catalogues, policies(repositories), now or datetime.now(UTC))
    return Standing(asked, decided)


class Deciding:
    """Applies policies, and lets full backups keep the windows from before them that hold what they do not see.

    Only those windows are looked at that would go otherwise, each once.
    """

    def __init__(self, repositories: Sequence[Repository]) -> None:
        self._repositories = repositories
        self._known: dict[str, _Log] = {}

    async def wanted(self, catalogues: Catalogues, policies: Mapping[str, Policy | None], now: datetime) -> Wanted:
        """What each place should hold. Raises what reading manifests raises; a damaged base needs nothing."""
        held = sorted(all_held(catalogues), key=lambda one: one.id)
        decided = {policy: await self._decided(held, policy, now) for policy in set(policies.values())}
        return Wanted({place: decided[policy] for place, policy in policies.items()})

    async def _decided(self, held: Sequence[Held], policy: Policy | None, now: datetime) -> dict[str, Decision]:
        if policy is None:
            return {one.id: one for one in decide(held, None, now)}
        retention = Retention(held, policy, now)
        going = {one.id for one in retention.decisions() if not one.stays}
        windows = [one for one in held if one.kind == "incremental" and one.id in going]
        retention.keep_windows(await self.needs(sorted(retention.bases), windows))
        return {one.id: one for one in retention.decisions()}

    async def needs(self, bases: Sequence[str], going: Sequence[Held]) -> dict[str, list[str]]:
        """Which of the windows that would go bases need, both oldest first.

        What a base does not need, no later one does: the log goes on.
        """
        needs, of_no_use = dict[str, list[str]](), ""
        for base in bases:
            before = [one for one in going if of_no_use < one.id and one.at <= id_moment(base)]
            if before:
                of_no_use, needs[base] = await self._needed_by(base, before)
        return needs

    async def _needed_by(self, base: str, before: Sequence[Held]) -> tuple[str, list[str]]:
        """The newest of the windows that the base does not need (empty: none), and those that it does."""
        needed, begin = list[str](), await self._log_of(base)
        if begin is None or begin.slot is None:
            return "", needed
        for one in reversed(before):
            window = await self._log_of(one.id)
            if window is not None and (window.slot != begin.slot or window.lsn <= begin.lsn):
                return one.id, needed
            needed.append(one.id)  # also what cannot be read: who knows what it holds
        return "", needed

    async def _log_of(self, backup_id: str) -> "_Log | None":
        """Where a backup stands in the change log; None if its manifest cannot be read."""
        if backup_id not in self._known:
            try:
                self._known[backup_id] = _log_of(await read_backup(self._repositories, backup_id))
            except (Corrupt, NotFound):
                return None
        return self._known[backup_id]


@dataclass(frozen=True, slots=True)
class _Log:
    """Which slot's log a backup belongs to, None for none; from where a full one needs it, to where a window goes."""

    slot: str | None
    lsn: int


def _log_of(backup: AnyBackup) -> _Log:
    if isinstance(backup, Manifest) and backup.capture is not None:
        return _Log(backup.capture.slot, lsn_number(backup.capture.since))
    return _Log(backup.slot, lsn_number(backup.end)) if isinstance(backup, Increment) else _Log(None, 0)
