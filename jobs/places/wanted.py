"""Which backups each place should hold: its policy, applied to what all places hold together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from storage.repository import Catalogue
from storage.retention import Decision, Held, Policy, decide

Catalogues = Mapping[str, Catalogue | None]
"""By place; None is a place that did not answer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the policy of each place decides, by place and backup. A place of which nothing is known wants all."""

    decisions: Mapping[str, Mapping[str, Decision]] = field(default_factory=dict)

    def by(self, place: str, backup_id: str) -> bool:
        """Whether a place should hold a backup."""
        decision = self.of(place, backup_id)
        return decision is None or decision.stays

    def of(self, place: str, backup_id: str) -> Decision | None:
        """What a place decides of a backup."""
        return self.decisions.get(place, {}).get(backup_id)


def wanted(catalogues: Catalogues, policies: Mapping[str, Policy | None], now: datetime) -> Wanted:
    """What each place should hold now, by names alone: windows from before a full backup may seem to be of no use."""
    held = all_held(catalogues)
    decided = {policy: _by_id(decide(held, policy, now)) for policy in set(policies.values())}
    return Wanted({place: decided[policy] for place, policy in policies.items()})


def _by_id(decisions: Iterable[Decision]) -> dict[str, Decision]:
    return {one.id: one for one in decisions}


def broken_off(catalogues: Catalogues) -> frozenset[str]:
    """The incremental backups that go on from one that failed its verification wherever it is: nothing reaches them."""
    windows = [one for found in catalogues.values() if found for one in found.entries if one.kind == "incremental"]
    failed = {one.id: one.base for one in windows if one.verified == "failed"}
    whole = {one.id for one in windows if one.id in failed and one.verified != "failed"}
    first: dict[str | None, str] = {}
    for one in sorted(failed.keys() - whole, reverse=True):
        first[failed[one]] = one
    return frozenset(one.id for one in windows if one.base in first and one.id > first[one.base])


def all_held(catalogues: Catalogues) -> list[Held]:
    """The places' backups as one catalogue: marked if it is anywhere, good if it did not fail everywhere, proved if it
    passed its verification anywhere.
    """
    merged: dict[str, Held] = {}
    for catalogue in catalogues.values():
        for one in catalogue.entries if catalogue else ():
            good, before = one.verified != "failed", merged.get(one.id)
            merged[one.id] = Held(
                id=one.id,
                at=one.created_at,
                kind=one.kind,
                base=one.base,
                kept=one.kept or (before is not None and before.kept),
                good=good or (before is not None and before.good),
                proved=one.verified == "success" or (before is not None and before.proved),
            )
    return list(merged.values())
