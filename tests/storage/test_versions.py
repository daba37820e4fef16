"""Buckets that keep versions and lock objects: what goes for good, and what is said of what cannot go."""

from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage.backends.protocol import Locked
from storage.backends.s3 import S3Backend
from storage.backends.s3_client import S3Client
from storage.backends.s3_options import Keeping
from storage.errors import Refused
from tests.storage.conftest import prefix, under_prefix
from tests.storage.helpers import MIB, fetch, names, payload, store
from tests.storage.meddler import Meddler, Reply, error

BUCKET = "versioned-storage-tests"


@pytest.fixture(scope="session")
async def versioning_client(shared_client: S3Client) -> S3Client:
    """A client of a bucket that keeps versions and may lock them."""
    client = S3Client(replace(shared_client.options, bucket=BUCKET), shared_client._client, AsyncExitStack())
    await client.call("make the bucket", "create_bucket", ObjectLockEnabledForBucket=True)
    return client


@pytest.fixture
def versioning(versioning_client: S3Client) -> S3Backend:
    """An empty backend in that bucket."""
    return under_prefix(versioning_client, replace(versioning_client.options, prefix=prefix()))


@pytest.fixture
def locking(versioning: S3Backend) -> S3Backend:
    """The same, where what is called archives/… is locked for a day."""
    keeping = Keeping(lambda name: name.startswith("archives/"), lock_mode="compliance", lock_days=1)
    return under_prefix(versioning._client, replace(versioning._client.options, keepings=(keeping,)))


async def versions(backend: S3Backend) -> list[str]:
    """The names of all versions and markers that are there, as often as there are any."""
    client = backend._client
    pages = [page async for page in client.pages("list_object_versions", Prefix=client.key(""))]
    found = [one for page in pages for one in (*page.get("Versions", []), *page.get("DeleteMarkers", []))]
    return sorted(client.name(one["Key"]) for one in found)


async def test_deleting_keeps_versions_and_purging_does_not(versioning: S3Backend) -> None:
    for data in (b"first", b"second"):
        for name in ("a/b/one", "a/b/two", "a/b/twofold", "c"):
            await store(versioning, name, data)
    await versioning.delete(["a/b/one"])
    assert (await versions(versioning)).count("a/b/one") == 3
    assert await versioning.purge(["a/b/one", "a/b/two", "c", "absent"]) == ()
    assert await versions(versioning) == ["a/b/twofold"] * 2
    assert await fetch(versioning, "a/b/twofold") == b"second"


async def test_what_is_locked_is_named_with_the_day_and_stays_visible(locking: S3Backend) -> None:
    await store(locking, "archives/a", payload(1000))
    await store(locking, "archives/b", payload(9 * MIB))
    await store(locking, "other", b"bytes")
    await locking.copy("other", "archives/c")
    locked = await locking.purge(["archives/a", "archives/b", "archives/c", "other"])
    assert sorted(one.name for one in locked) == ["archives/a", "archives/b", "archives/c"]
    for one in locked:
        assert one.until is not None
        assert abs(one.until - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)
    assert await names(locking) == ["archives/a", "archives/b", "archives/c"]


async def test_a_bucket_that_knows_no_locks_takes_nothing_that_is_to_be_locked(s3: S3Backend) -> None:
    keeping = Keeping(lambda _: True, lock_mode="governance", lock_days=1)
    backend = under_prefix(s3._client, replace(s3._client.options, keepings=(keeping,)))
    for size in (1000, 9 * MIB):
        with pytest.raises(Refused, match=r"cannot (write|begin) object .* takes no object lock") as raised:
            await store(backend, "object", payload(size))
        assert "ROWVAULT_ARCHIVE__LOCK_MODE" in raised.value.hint
    assert await names(s3) == []


async def test_what_keeps_an_object_can_be_asked(locking: S3Backend, versioning: S3Backend) -> None:
    await store(locking, "archives/a", b"bytes")
    await store(locking, "object", b"bytes")
    locked = await locking.lock_of("archives/a")
    assert locked is not None
    assert locked.until is not None
    assert locked == (await locking.purge(["archives/a"]))[0]
    assert await locking.lock_of("object") is None
    await hold(versioning._client, "ON")
    held = await versioning.lock_of("object")
    assert held is not None
    assert held.until is None
    await hold(versioning._client, "OFF")


async def test_a_locked_version_that_was_deleted_stays_hidden(locking: S3Backend) -> None:
    await store(locking, "archives/a", b"bytes")
    await locking.delete(["archives/a"])
    (locked,) = await locking.purge(["archives/a"])
    assert locked.name == "archives/a"
    assert await names(locking) == []


async def test_a_version_on_hold_is_locked_until_somebody_lifts_it(versioning: S3Backend) -> None:
    client = versioning._client
    await store(versioning, "object", b"bytes")
    await hold(client, "ON")
    (locked,) = await versioning.purge(["object"])
    assert locked == Locked("object", locked.version, None)
    await hold(client, "OFF")
    assert await versioning.purge(["object"]) == ()
    assert await versions(versioning) == []


async def hold(client: S3Client, status: str) -> None:
    key = client.key("object")
    await client.call("hold it", "put_object_legal_hold", Key=key, LegalHold={"Status": status})


async def test_a_version_that_may_not_be_deleted_though_nothing_locks_it_is_an_error(
    meddled: S3Backend, meddler: Meddler
) -> None:
    await store(meddled, "object", b"bytes")
    key = meddled._client.key("object")
    said = f"<Error><Key>{key}</Key><VersionId>null</VersionId><Code>AccessDenied</Code><Message>no</Message></Error>"
    answer = Reply(200, f"<DeleteResult>{said}</DeleteResult>")
    meddler.rule = lambda request: answer if request.query == "delete" else None
    with pytest.raises(Refused, match="cannot delete version null of object"):
        await meddled.purge(["object"])


async def test_a_lock_that_ended_while_it_was_asked_is_a_lock(meddled: S3Backend, meddler: Meddler) -> None:
    """Between the store's no and its answer why, or by a clock that is not ours."""
    await store(meddled, "object", b"bytes")
    key, ended = meddled._client.key("object"), datetime.now(UTC) - timedelta(seconds=1)
    said = f"<Error><Key>{key}</Key><VersionId>null</VersionId><Code>AccessDenied</Code><Message>no</Message></Error>"
    no = Reply(200, f"<DeleteResult>{said}</DeleteResult>")
    until = {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": ended.isoformat()}
    meddler.rule = lambda request: (
        no if request.query == "delete" else Reply(200, "", until) if request.method == "HEAD" else None
    )
    assert await meddled.purge(["object"]) == (Locked("object", "null", ended),)


async def test_where_versions_are_not_known_purging_is_deleting(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "object", b"bytes")
    meddler.rule = lambda request: error(501, "NotImplemented") if "versions" in request.query else None
    assert await meddled.purge(["object"]) == ()
    assert await names(meddled) == []
