"""Reconciling places of which one has gone through an erasure: what was erased does not come back."""

from datetime import UTC, datetime

import pytest

from jobs.places.survey import Check
from jobs.verify import verify_backup
from storage.backends.memory import MemoryBackend
from storage.erasures import Clean, Erasure, read_erasures, write_erasure
from storage.manifest import StoredFile
from storage.repository import Repository
from tests.manifests import ID, OTHER_ID, SYSTEM, MadeUp, sound
from tests.places import Planter, contents
from tests.reconciling import CHECKS, DATA, OBJECT, Places, found, place, require_alike, synced, two_places
from tests.storage.helpers import hash_of


@pytest.fixture
async def places() -> Places:
    return await two_places()


REWRITTEN = f"backups/{ID}/r1/schema.sql"


def revised(data: bytes = b"all without the subject") -> MadeUp:
    """The first backup after an erasure: one object was written anew."""
    made = sound(ID)
    name = REWRITTEN
    sql = StoredFile(name=name, bytes=len(data), sha256=hash_of(data))
    dump = made.manifest.dump.model_copy(update={"sql": sql})
    manifest = made.manifest.model_copy(update={"revision": 1, "erasures": (ERASURE.id,), "dump": dump})
    return MadeUp(manifest, {key: value for key, value in made.objects.items() if key != OBJECT} | {name: data})


ERASURE = Erasure(
    id="20260105T000000.000Z-erasure-0a1b2c",
    state="done",
    moment=datetime(2026, 1, 5, tzinfo=UTC),
    lsn="0/0",
    system_identifier=SYSTEM,
    children="",
    salt="00",
    subject="",
    tables=(),
    clean=(Clean(id=OTHER_ID, revision=0, sha256=""),),
)


@pytest.mark.parametrize("check", CHECKS)
async def test_an_earlier_revision_gives_way_to_the_newest_with_all_that_it_alone_held(check: Check) -> None:
    old, new = await place("local", sound(ID), sound(OTHER_ID)), await place("s3", revised(), sound(OTHER_ID))
    await write_erasure(new, ERASURE)
    result = await synced((old, new), check)
    assert found(result) == [(ID, "local", "outdated", "made good")]
    assert OBJECT not in await contents(old.backend)
    await require_alike((old, new))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("number", [0, 1])
async def test_what_was_rewritten_apart_is_not_mixed(check: Check, number: int) -> None:
    """As where each place was away from another erasure, or it was sealed twice: each copy is whole by itself."""
    apart = await place("local", revised()), await place("s3", revised(b"one without the subject"))
    assert found(await synced(apart, check)) == []
    damaged = apart[number]
    await damaged.backend.delete([DATA])
    assert found(await synced(apart, check)) == [(ID, damaged.place, "partial", "made good")]
    await damaged.backend.delete([REWRITTEN])
    assert found(await synced(apart, check)) == [(ID, damaged.place, "partial", "failed")]
    assert (await verify_backup([apart[1 - number]], ID)).state == "success"


async def test_a_backup_that_an_erasure_has_still_to_go_through_is_not_spread(places: Places) -> None:
    await write_erasure(places[0], ERASURE)
    empty = Repository("s3", MemoryBackend())
    result = await synced((places[0], empty))
    assert found(result) == [(ID, "s3", "missing", "left"), (OTHER_ID, "s3", "missing", "made good")]
    assert "rowvault erase --resume" in str(result.lacking[0].error)
    assert result.state == "warning"
    assert await read_erasures(empty) == (ERASURE,)


async def test_a_damaged_entry_of_the_ledger_is_mended(places: Places) -> None:
    for one in places:
        await write_erasure(one, ERASURE)
    await Planter(places[0].backend).truncate(f"erasures/{ERASURE.id}.json")
    await synced(places)
    assert await read_erasures(places[0]) == (ERASURE,)
