"""What only the S3 backend promises: that no byte changes unnoticed, and that stores may differ."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from storage.backends.protocol import Backend
from storage.backends.retrying import Patience, Retrying
from storage.backends.s3 import S3Backend
from storage.backends.s3_client import S3Client
from storage.errors import AlreadyExists, OutOfSpace, Refused, StorageError, Unavailable
from tests.storage.conftest import OpenS3
from tests.storage.helpers import MIB, blocks_of, fetch, folders, names, payload, store, unfinished
from tests.storage.meddler import Meddler, Reply, Request, Rule, error

LARGE = 9 * MIB + 1

When = Callable[[Request], bool]


def patient(backend: Backend) -> Retrying:
    return Retrying(backend, Patience(first_delay=0.01))


def is_conditional_put(request: Request) -> bool:
    return "If-None-Match" in request.headers


def is_complete(request: Request) -> bool:
    return request.method == "POST" and request.query.startswith("uploadId=")


def is_batch_delete(request: Request) -> bool:
    return request.method == "POST" and request.query == "delete"


def carries_data(request: Request) -> bool:
    return request.method == "PUT" and len(request.body) > 1000


def changing(change: Callable[[Request], None], when: When = lambda _: True, times: int = 1000) -> Rule:
    """A rule that changes so many of the requests of a kind."""
    left = iter(range(times))

    def rule(request: Request) -> None:
        if when(request) and next(left, None) is not None:
            change(request)

    return rule


def answering(reply: Reply, when: When = lambda _: True) -> Rule:
    """A rule that answers requests of a kind in the store's place."""
    return lambda request: reply if when(request) else None


def change_a_byte(request: Request) -> None:
    request.body = request.body[:-1] + bytes([request.body[-1] ^ 1])


def shorten_reply(request: Request) -> None:
    request.reply_bytes = 1000


def lose_reply(request: Request) -> None:
    request.reply_lost = True


async def test_the_store_notices_every_byte_that_changes_on_the_way(meddled: S3Backend, meddler: Meddler) -> None:
    meddler.rule = changing(change_a_byte, carries_data)
    for size in (2000, LARGE):
        with pytest.raises(Unavailable, match="the bytes arrived changed"):
            await store(meddled, "object", payload(size))
    with pytest.raises(Unavailable, match="the bytes arrived changed"):
        await meddled.create("object", payload(2000))
    assert await names(meddled) == []
    assert await unfinished(meddled) == []


@pytest.mark.parametrize("size", [2000, LARGE])
async def test_bytes_that_changed_on_the_way_are_sent_again(meddled: S3Backend, meddler: Meddler, size: int) -> None:
    meddler.rule = changing(change_a_byte, carries_data, times=1)
    await store(patient(meddled), "object", payload(size))
    assert await fetch(meddled, "object") == payload(size)


async def test_up_to_8_mebibytes_take_one_request_and_more_take_parts(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "small", payload(8 * MIB))
    assert [(request.method, len(request.body)) for request in meddler.seen] == [("PUT", 8 * MIB)]
    meddler.seen.clear()
    await store(meddled, "large", payload(8 * MIB + 1))
    assert [request.method for request in meddler.seen] == ["POST", "PUT", "PUT", "POST"]
    assert sorted(len(request.body) for request in meddler.seen if request.method == "PUT") == [1, 8 * MIB]


async def test_a_reply_that_ends_early_is_unavailable(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "object", payload(MIB))
    meddler.rule = changing(shorten_reply)
    with pytest.raises(Unavailable, match="cannot read object"):
        await fetch(meddled, "object")
    meddler.rule = changing(shorten_reply, times=1)
    assert await fetch(patient(meddled), "object") == payload(MIB)


async def test_a_store_that_ignores_offsets_is_refused(meddled: S3Backend, meddler: Meddler) -> None:
    meddler.rule = answering(Reply(200, "all of it"))
    with pytest.raises(Refused, match="offset"):
        await fetch(meddled, "object", 5)


@pytest.mark.parametrize("answer", [error(501, "NotImplemented"), error(400, "InvalidArgument")])
async def test_create_works_where_conditions_are_not_known(meddled: S3Backend, meddler: Meddler, answer: Reply) -> None:
    meddler.rule = answering(answer, is_conditional_put)
    await meddled.create("object", b"first")
    with pytest.raises(AlreadyExists):
        await meddled.create("object", b"second")
    assert await fetch(meddled, "object") == b"first"


async def test_create_does_not_rely_on_a_store_to_heed_conditions(meddled: S3Backend, meddler: Meddler) -> None:
    await meddled.create("object", b"first")
    meddler.seen.clear()
    with pytest.raises(AlreadyExists):
        await meddled.create("object", b"second")
    assert [request.method for request in meddler.seen] == ["HEAD"]


@pytest.mark.parametrize("times", [1, 1000])
async def test_create_whose_reply_is_lost_succeeds_in_the_end(meddled: S3Backend, meddler: Meddler, times: int) -> None:
    meddler.rule = changing(lose_reply, is_conditional_put, times)
    await patient(meddled).create("object", b"ours")
    assert await fetch(meddled, "object") == b"ours"
    with pytest.raises(AlreadyExists):
        await patient(meddled).create("object", b"ours")


async def test_create_whose_request_is_lost_leaves_the_name_to_another(meddled: S3Backend, meddler: Meddler) -> None:
    meddler.rule = answering(error(503, "SlowDown"), is_conditional_put)
    with pytest.raises(Unavailable):
        await meddled.create("object", b"same")
    meddler.rule = lambda _: None
    another = S3Backend(meddled._client)
    await another.create("object", b"same")
    with pytest.raises(AlreadyExists):
        await meddled.create("object", b"same")


async def test_create_that_another_overtakes_fails(meddled: S3Backend, meddler: Meddler) -> None:
    meddler.rule = answering(error(412, "PreconditionFailed"), is_conditional_put)
    with pytest.raises(AlreadyExists):
        await meddled.create("object", b"ours")


async def test_a_commit_whose_reply_is_lost_succeeds_in_the_end(meddled: S3Backend, meddler: Meddler) -> None:
    meddler.rule = changing(lose_reply, is_complete, times=1)
    await store(patient(meddled), "object", payload(LARGE))
    assert await fetch(meddled, "object") == payload(LARGE)
    assert await unfinished(meddled) == []


async def test_a_commit_whose_reply_is_lost_is_known_by_its_mark_where_the_upload_is_gone(
    meddled: S3Backend, meddler: Meddler
) -> None:
    """AWS forgets a completed upload after a while; SeaweedFS answers as if it had just completed it."""
    lose = changing(lose_reply, is_complete, times=1)

    def rule(request: Request) -> Reply | None:
        lose(request)
        return error(404, "NoSuchUpload") if is_complete(request) and not request.reply_lost else None

    meddler.rule = rule
    await store(patient(meddled), "object", payload(LARGE))
    assert await fetch(meddled, "object") == payload(LARGE)


async def test_an_upload_that_somebody_discarded_is_not_taken_for_ours(meddled: S3Backend, meddler: Meddler) -> None:
    await store(meddled, "object", payload(LARGE))
    meddler.rule = answering(error(404, "NoSuchUpload"), is_complete)
    with pytest.raises(Refused, match="somebody discarded the unfinished object"):
        await store(meddled, "object", payload(LARGE))


async def test_deleting_works_one_by_one_where_there_are_no_batches(meddled: S3Backend, meddler: Meddler) -> None:
    meddler.rule = answering(error(501, "NotImplemented"), is_batch_delete)
    for name in ("a", "b", "c"):
        await store(meddled, name, b"")
    await meddled.delete(["a", "absent"])
    await meddled.delete(["b"])
    assert await names(meddled) == ["c"]
    assert sum(map(is_batch_delete, meddler.seen)) == 1


@pytest.mark.parametrize(("code", "expected"), [("AccessDenied", Refused), ("InternalError", Unavailable)])
async def test_an_object_that_a_batch_could_not_delete_is_an_error_that_names_it(
    meddled: S3Backend, meddler: Meddler, code: str, expected: type[StorageError]
) -> None:
    key = meddled._client.key("folder/object")
    reply = f"<DeleteResult><Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error></DeleteResult>"
    meddler.rule = answering(Reply(200, reply), is_batch_delete)
    with pytest.raises(expected, match="cannot delete folder/object"):
        await meddled.delete(["other", "folder/object"])


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (error(503, "SlowDown"), Unavailable, "fewer requests"),
        (error(500, "InternalError"), Unavailable, "fault of its own"),
        (error(502, "BadGateway"), Unavailable, "502 BadGateway: so it is"),
        (error(429, "TooManyRequests"), Unavailable, "fewer requests"),
        (error(409, "ConditionalRequestConflict"), Unavailable, "somebody else"),
        (error(400, "RequestTimeout"), Unavailable, "too slowly"),
        (error(403, "AccessDenied"), Refused, "access is denied"),
        (error(403, "RequestTimeTooSkewed"), Refused, "clocks differ"),
        (error(400, "ExpiredToken"), Refused, "token has expired"),
        (error(301, "PermanentRedirect"), Refused, "another region"),
        (error(400, "SomethingNew"), Refused, "400 SomethingNew: so it is"),
        (error(507, "InsufficientStorage"), OutOfSpace, "store is full"),
        (error(403, "QuotaExceeded"), OutOfSpace, "quota"),
    ],
)
async def test_each_answer_of_a_store_has_its_meaning(
    meddled: S3Backend, meddler: Meddler, answer: Reply, expected: type[StorageError], says: str
) -> None:
    meddler.rule = answering(answer, lambda request: request.method == "PUT")
    with pytest.raises(expected, match=f"cannot write object in bucket .*{says}") as caught:
        await store(meddled, "object", b"bytes")
    assert type(caught.value) is expected


async def test_listings_go_on_from_page_to_page(s3: S3Backend) -> None:
    uploads = [await s3.begin(f"folder/{number}") for number in range(5)]
    for upload in uploads:
        for block in blocks_of(payload(9 * MIB)):
            await upload.append(block)
        await upload.append(b"more")
    client: S3Client = s3._client
    pages = [page async for page in client.pages("list_multipart_uploads", Prefix=client.key(""), MaxUploads=2)]
    found = [upload["Key"] for page in pages for upload in page.get("Uploads", [])]
    for upload in uploads:
        await upload.commit()
        await upload.abort()
    assert len(pages) >= 3
    assert sorted(found) == sorted(client.key(f"folder/{number}") for number in range(5))
    pages = [page async for page in client.pages("list_objects_v2", Prefix=client.key(""), MaxKeys=2)]
    assert [len(page["Contents"]) for page in pages] == [2, 2, 1]


async def test_two_prefixes_of_one_bucket_are_two_stores(s3: S3Backend, open_s3: OpenS3) -> None:
    options = s3._client.options
    below = await open_s3(replace(options, prefix=f"/{options.prefix}/inner/"))
    await store(below, "folder/object", b"bytes")
    assert await names(below) == ["folder/object"]
    assert await folders(below) == ["folder"]
    assert await names(s3) == ["inner/folder/object"]
