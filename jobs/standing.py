"""How backups stand: which places have them, and what each place's policy decides of them, and why."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.catalogue import Asked, Listing, ask, merge, policies, read_backup
from jobs.postgres.pgoutput import lsn_number
from jobs.wanted import Catalogues, Wanted, all_held, wanted
from storage.errors import Corrupt, NotFound
from storage.increments import AnyBackup, Increment
from storage.manifest import Manifest
from storage.repository import Repository
from storage.retention import Held, Needs, Policy, chain_bases

AT_ONCE = 8


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
    now, asked, kept = now or datetime.now(UTC), await ask(repositories), policies(repositories)
    needs = await EarlierWindows(repositories).needs(asked.catalogues, kept, now)
    return Standing(asked, wanted(asked.catalogues, kept, now, needs))


class EarlierWindows:
    """Finds the windows from before full backups that hold what their snapshots do not see, each looked for once."""

    def __init__(self, repositories: Sequence[Repository]) -> None:
        self._repositories = repositories
        self._found: dict[str, tuple[str, ...]] = {}

    async def needs(self, catalogues: Catalogues, policies: Mapping[str, Policy | None], now: datetime) -> Needs:
        """Those of every full backup with which a chain begins that stays; a few manifests are read.

        Raises what reading them raises; one that is damaged or gone needs nothing.
        """
        held = sorted(all_held(catalogues), key=lambda one: one.id, reverse=True)
        bases = {base for policy in set(policies.values()) for base in chain_bases(held, policy, now)}
        looked_for = sorted(bases - self._found.keys())
        for begin in range(0, len(looked_for), AT_ONCE):
            some = looked_for[begin : begin + AT_ONCE]
            self._found |= zip(some, await asyncio.gather(*(self._before(base, held) for base in some)), strict=True)
        return {base: self._found[base] for base in bases}

    async def _before(self, base: str, newest_first: Sequence[Held]) -> tuple[str, ...]:
        manifest = await self._read(base)
        if not isinstance(manifest, Manifest) or manifest.capture is None:
            return ()
        found, since = [], lsn_number(manifest.capture.since)
        for one in newest_first:
            if one.kind != "incremental" or one.at > manifest.created_at:
                continue
            window = await self._read(one.id)
            if window is None:  # who knows what it holds
                found.append(one.id)
                continue
            if not isinstance(window, Increment) or window.slot != manifest.capture.slot:
                break
            if lsn_number(window.end) > since:
                found.append(one.id)
            if lsn_number(window.start) <= since:
                break
        return tuple(found)

    async def _read(self, backup_id: str) -> AnyBackup | None:
        try:
            return await read_backup(self._repositories, backup_id)
        except (Corrupt, NotFound):
            return None
