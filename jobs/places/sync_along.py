"""What comes along when places are reconciled: the binding, the ledger of erasures, keep marks, reports of drills."""

from collections.abc import Sequence
from contextlib import suppress

from jobs.places.ledger import read_ledgers
from jobs.places.one_database import bindings
from jobs.places.survey import Place
from storage.erasures import Erasure, mend_erasures, share_erasures
from storage.errors import NotFound
from storage.names import DRILLS, KEPT
from storage.objects import get, put
from storage.repository import Identity, Repository


async def bind_alike(answering: Sequence[Repository], *, fill: bool, dry_run: bool) -> dict[str, Identity]:
    """What each place was bound to, before. Then one that is new, or cannot say, is bound as the others are.

    A place that is filled is from then on as old as the oldest; without `fill` the first one is left as it is. Raises
    `OtherSource`, and `Corrupt` if none can say.
    """
    bound = await bindings(answering)
    if not bound:
        return bound
    oldest = min(bound.values(), key=lambda one: one.created_at)
    to_bind = answering if fill else answering[1:]
    for repository in () if dry_run else to_bind:
        if bound.get(repository.place) != oldest:
            await repository.bind_as(oldest)
    return bound


async def share_ledger(answering: Sequence[Repository], *, dry_run: bool) -> Sequence[Erasure]:
    """Every erasure that any place knows of, after bringing the entries to all. Raises `Corrupt` for one lost."""
    if dry_run:
        return (await read_ledgers(answering)).erasures
    await mend_erasures(answering)
    return await share_erasures(answering)


async def bring_along(places: Sequence[Place], *, dry_run: bool) -> int:
    """Bring keep marks to all places that have the backup, and drill reports to all; return how many."""
    brought = 0
    for prefix in (KEPT, DRILLS):
        has = {place.name: {one.name async for one in place.repository.backend.list(prefix)} for place in places}
        for place in places:
            for name in sorted(set().union(*has.values()) - has[place.name]):
                source = next(one for one in places if name in has[one.name])
                if prefix == DRILLS or await place.repository.has(name.removeprefix(KEPT).removesuffix(".json")):
                    with suppress(NotFound):  # it was just lifted
                        data = await get(source.repository.backend, name)
                        brought += 1
                        if not dry_run:
                            await put(place.repository.backend, name, data)
    return brought
