"""One S3 client for the running loop: options, requests with a time limit, errors in our words.

botocore makes one attempt at each request; trying again is `Retrying`'s work. Checksums are the caller's: some stores
(R2) refuse the trailers that botocore would add by itself.
"""

import asyncio
import hashlib
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import datetime
from functools import cache
from typing import Any, cast

import aioboto3
import aiohttp
from aiobotocore.session import get_session
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp

from storage.backends.s3_errors import explain
from storage.backends.s3_options import S3Options
from storage.errors import NotFound, Refused

Blocks = Sequence[bytes | memoryview]
"""A body in pieces as they came: to join them would take its room twice."""

SEND_BYTES = 128 << 10

MARK = "rowvault-write"
"""Metadata that tells our own write from another's, where a reply was lost."""

FAULTS = (ClientError, BotoCoreError, aiohttp.ClientError, OSError, TimeoutError)
"""What a request can raise."""

_NEXT = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_object_versions": {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
}
"""How each listing goes on: a parameter of the next request, and what of the last reply it takes."""


class S3Client:
    """Requests about one bucket. Belongs to the loop that `open` ran on."""

    def __init__(self, options: S3Options, client: Any, stack: AsyncExitStack) -> None:
        self.options = options
        self._client = client
        self._stack = stack

    @classmethod
    async def open(cls, options: S3Options) -> "S3Client":
        """Make the client; nothing is asked of the store yet. Raises `Refused` for options that cannot be right."""
        _require_no_password(options)
        _require_certificates(options)
        stack = AsyncExitStack()
        try:
            client = await stack.enter_async_context(_new_client(options))
        except (BotoCoreError, ValueError, OSError) as error:
            hint = "Check ROWVAULT_S3__ENDPOINT_URL, ROWVAULT_S3__REGION and the AWS configuration."
            raise Refused(f"cannot use {options.place}: {error}", hint) from error
        return cls(options, client, stack)

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    def key(self, name: str) -> str:
        """An object's key in the bucket."""
        return self.options.key_prefix + name

    def name(self, key: str) -> str:
        """The name of the object that has this key."""
        return key.removeprefix(self.options.key_prefix)

    async def call(self, doing: str, operation: str, blocks: Blocks | None = None, **parameters: Any) -> Any:
        """One request about the bucket, `blocks` its body; `doing` says in an error what could not be done.

        Raises besides `Unavailable` and `Refused`: `NotFound` (404) and `AlreadyExists` (412).
        """
        silence = self.options.silence_seconds
        loop = asyncio.get_running_loop()
        with self.explained(doing, locking="ObjectLockMode" in parameters):
            async with asyncio.timeout(silence) as limit:
                if blocks is not None:
                    parameters["Body"] = _Body(blocks, lambda: limit.reschedule(loop.time() + silence))
                return await getattr(self._client, operation)(Bucket=self.options.bucket, **parameters)

    async def pages(self, operation: str, **parameters: Any) -> AsyncIterator[Any]:
        """The pages of a listing, one request each, led on by the marks that the store itself gives."""
        while True:
            page = await self.call("list objects", operation, **parameters)
            yield page
            if not page.get("IsTruncated"):
                return
            parameters |= {to: page[found] for to, found in _NEXT[operation].items() if page.get(found)}

    async def put(self, name: str, blocks: Blocks, digest: bytes, **parameters: Any) -> None:
        """Store an object by one request; the store compares `digest`, the SHA-256, before it shows the object."""
        parameters |= {"Key": self.key(name), "ChecksumSHA256": as_base64(digest), **self.options.writing(name)}
        await self.call(f"write {name}", "put_object", blocks, **parameters)

    async def begin(self, name: str, **parameters: Any) -> str:
        """Begin a multipart upload whose parts have SHA-256 checksums; return its id."""
        parameters |= {"Key": self.key(name), "ChecksumAlgorithm": "SHA256", **self.options.writing(name)}
        reply = await self.call(f"begin {name}", "create_multipart_upload", **parameters)
        return str(reply["UploadId"])

    async def abort(self, name: str, upload_id: str) -> None:
        """Free what an unfinished multipart upload took; one that is gone is no error."""
        with suppress(NotFound):
            key = self.key(name)
            await self.call(f"discard {name}", "abort_multipart_upload", Key=key, UploadId=upload_id)

    async def head(self, name: str, **parameters: Any) -> Any:
        """What the store says of an object. Raises `NotFound`, and `Refused` if there is not even the bucket."""
        try:
            return await self.call(f"look up {name}", "head_object", Key=self.key(name), **parameters)
        except NotFound:
            # A HEAD has no body to tell a missing object from a missing bucket.
            await self._require_bucket()
            raise

    async def mark_of(self, name: str) -> str | None:
        """The mark that an object was written with, empty if without one; None if there is no such object."""
        try:
            head = await self.head(name)
        except NotFound:
            return None
        return str(head["Metadata"].get(MARK, ""))

    async def delete(self, name: str) -> None:
        """Delete one object; one that is absent is no error."""
        with suppress(NotFound):
            await self.call(f"delete {name}", "delete_object", Key=self.key(name))

    async def delete_batch(self, names: list[str]) -> None:
        """Delete at most 1,000 objects. Raises what the store says of the first that it could not delete."""
        wanted = {"Objects": [{"Key": self.key(name)} for name in names], "Quiet": True}
        doing = f"delete {len(names)} objects"
        reply = await self.call(doing, "delete_objects", Delete=wanted, ChecksumAlgorithm="SHA256")
        for error in reply.get("Errors", []):
            if error.get("Code") != "NoSuchKey":
                doing = f"delete {self.name(error.get('Key', ''))}"
                raise explain(ClientError({"Error": error}, "DeleteObjects"), doing, self.options)

    @contextmanager
    def explained(self, doing: str, *, locking: bool = False) -> Iterator[None]:
        """Raise what goes wrong inside as a storage error that says what could not be done."""
        try:
            yield
        except FAULTS as error:
            raise explain(error, doing, self.options, locking=locking) from error

    async def _require_bucket(self) -> None:
        try:
            await self.call("find the bucket", "head_bucket")
        except NotFound as error:
            hint = "Create it, or correct ROWVAULT_S3__BUCKET and ROWVAULT_S3__ENDPOINT_URL."
            raise Refused(f"{self.options.place} does not exist", self.options.named(hint)) from error


class _Body(Payload):
    """Bytes on their way out. Each time some more are taken, `progress` is told; nothing is copied.

    aiohttp may send it twice: on a kept connection that turns out to be closed, or where it is redirected to.
    """

    def __init__(self, blocks: Blocks, progress: Callable[[], None]) -> None:
        super().__init__(blocks)
        self._blocks = blocks
        self._progress = progress

    @property
    def size(self) -> int:
        return len(self)

    @property
    def autoclose(self) -> bool:
        return True

    async def write(self, writer: AbstractStreamWriter) -> None:
        for block in self._blocks:
            view = memoryview(block)
            for start in range(0, len(view), SEND_BYTES):
                # The store may answer, and end the time limit, before it has taken everything.
                with suppress(RuntimeError):
                    self._progress()
                await writer.write(view[start : start + SEND_BYTES])

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read().decode(encoding, errors)

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    # botocore takes for a body what looks like a file, though it never reads this one.
    def read(self) -> bytes:
        return b"".join(self._blocks)

    def seek(self, offset: int) -> int:
        return offset


def sha256_of(blocks: Blocks) -> bytes:
    """The SHA-256 of a body. Large ones belong into a thread."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.digest()


def as_base64(digest: bytes) -> str:
    """A checksum as S3's headers have it."""
    return b64encode(digest).decode()


def _require_no_password(options: S3Options) -> None:
    # Messages show the endpoint, ours and botocore's.
    if "@" in (options.endpoint_url or ""):
        hint = "Give the keys in ROWVAULT_S3__ACCESS_KEY_ID and ROWVAULT_S3__SECRET_ACCESS_KEY."
        raise Refused(f"cannot use bucket {options.bucket}: its endpoint URL holds a user name or a password", hint)


def _require_certificates(options: S3Options) -> None:
    if options.ca_file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(options.ca_file)
    except OSError as error:
        reason = f"cannot use the certificates in {options.ca_file}: {error.strerror}"
        raise Refused(reason, "Name a readable PEM file in ROWVAULT_S3__CA_FILE.") from error


def _new_client(options: S3Options) -> Any:
    config = Config(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=options.connect_seconds,
        read_timeout=options.silence_seconds,
        max_pool_connections=options.connections,
        signature_version="s3v4",
        # The checksum header covers the body and is signed; to hash the body again would hold up the loop.
        s3={"addressing_style": options.addressing_style, "payload_signing_enabled": False},
    )
    # Keys that are found elsewhere stay in a session, and others may be found there by the next one.
    session = _session() if options.access_key_id else _new_session()
    return session.client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
        verify=_authorities(options),
        config=config,
    )


@cache
def _session() -> aioboto3.Session:
    """Who makes the clients that are given their keys: to read what botocore knows of S3 takes a tenth of a second."""
    return _new_session()


def _new_session() -> aioboto3.Session:
    session = get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
    return aioboto3.Session(botocore_session=session)


def moment(text: Any) -> datetime:
    """The time that a reply tells: at once where it is written as in listings, of which each object has one.

    botocore tries every form there is, which takes most of a listing of thousands.
    """
    with suppress(TypeError, ValueError):
        read = datetime.fromisoformat(text)
        if read.tzinfo is not None:
            return read
    return cast("datetime", parse_timestamp(text))


def _authorities(options: S3Options) -> str | bool | None:
    """Whom to believe who the server is: a file, None for the usual authorities. False without TLS, which has none:
    to read the usual ones takes as long as a small command.
    """
    if (options.endpoint_url or "").startswith("http://"):
        return False
    return str(options.ca_file) if options.ca_file else None
