"""A backend in a bucket of any S3-compatible store.

API: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import closing
from datetime import UTC
from functools import partial
from itertools import islice

from storage.backends.naming import is_name, require_name, require_prefix
from storage.backends.protocol import Checksum, Locked, StoredObject, Unfinished, Upload
from storage.backends.s3_client import MARK, S3Client, sha256_of
from storage.backends.s3_copy import copy_object, kept_checksum
from storage.backends.s3_errors import RangeError, Unsupported
from storage.backends.s3_options import S3Options
from storage.backends.s3_upload import S3Upload
from storage.backends.s3_versions import lock_of, purge
from storage.errors import AlreadyExists, Refused, Unavailable

__all__ = ["S3Backend", "S3Options"]

BLOCK_BYTES = 1 << 20
DELETE_BATCH = 1000


class S3Backend:
    """Objects in a bucket, under a prefix. Implements `Backend`; belongs to the loop it was opened on."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._unanswered: dict[tuple[str, bytes], str] = {}
        self._deletes_batches = True

    @classmethod
    async def open(cls, options: S3Options) -> "S3Backend":
        """Make the one client; nothing is asked of the store yet. Raises `Refused` for options that cannot be right."""
        return cls(await S3Client.open(options))

    async def begin(self, name: str, *, sha256: str | None = None) -> Upload:
        """See `Backend.begin`."""
        return S3Upload(self._client, require_name(name), sha256)

    async def create(self, name: str, data: bytes) -> None:
        """See `Backend.create`. Exclusive where the store knows `If-None-Match`; elsewhere only looked up before.

        After a lost reply the object may be ours already: it carries a mark, by which the next try knows it.
        """
        digest = sha256_of([data])
        mark = self._unanswered.pop((require_name(name), digest), None) or secrets.token_hex(16)
        try:
            await self._create(name, data, digest, mark)
        except (Unavailable, asyncio.CancelledError):
            self._unanswered[name, digest] = mark
            raise

    async def store(self, objects: Mapping[str, bytes]) -> None:
        """See `Backend.store`. One after the other: who tries again asks for several at a time."""
        for name, data in objects.items():
            await self._client.put(require_name(name), [data], sha256_of([data]))

    async def read(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`. A body that ends early is `Unavailable`."""
        doing = f"read {require_name(name)}"
        span = f"bytes={offset}-"
        get = partial(self._client.call, doing, "get_object", Key=self._client.key(name))
        try:
            reply = await (get(Range=span) if offset else get())
        except RangeError:
            return
        with closing(reply["Body"]) as body, self._client.explained(doing):
            if offset and not reply.get("ContentRange", "").startswith(f"bytes {offset}-"):
                raise Refused(f"cannot {doing}: the store does not read from an offset")
            while block := await body.read(BLOCK_BYTES):
                yield block

    async def stat(self, name: str) -> StoredObject:
        """See `Backend.stat`."""
        head = await self._client.head(require_name(name))
        return StoredObject(name, head["ContentLength"], head["LastModified"].astimezone(UTC))

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See `Backend.list`."""
        # AWS lists in byte order; SeaweedFS goes from folder to folder, so that `a/b` comes before `a-b`.
        group: list[StoredObject] = []
        async for found in self._objects(require_prefix(prefix)):
            if group and not _may_precede(found.name, group[0].name, len(prefix)):
                for one in sorted(group, key=_by_name):
                    yield one
                group.clear()
            group.append(found)
        for one in sorted(group, key=_by_name):
            yield one

    async def folders(self, prefix: str = "") -> AsyncIterator[str]:
        """See `Backend.folders`."""
        rests = {one.name.removeprefix(prefix) async for one in self.unfinished(prefix)}
        key = self._client.key(prefix)
        async for page in self._client.pages("list_objects_v2", Prefix=key, Delimiter="/"):
            rests |= {common["Prefix"].removeprefix(key) for common in page.get("CommonPrefixes", [])}
        for folder in sorted({rest.partition("/")[0] for rest in rests if "/" in rest}):
            if is_name(folder):
                yield folder

    async def delete(self, names: Iterable[str]) -> None:
        """See `Backend.delete`: by batches of 1,000, or one by one where the store has no batches."""
        rest = iter(names)
        while batch := [require_name(name) for name in islice(rest, DELETE_BATCH)]:
            if self._deletes_batches:
                try:
                    await self._client.delete_batch(batch)
                    continue
                except Unsupported:
                    self._deletes_batches = False
            for name in batch:
                await self._client.delete(name)

    async def purge(self, names: Iterable[str]) -> tuple[Locked, ...]:
        """See `Backend.purge`. A store that lists no versions keeps none."""
        wanted = [require_name(name) for name in names]
        try:
            return await purge(self._client, wanted)
        except Unsupported:
            await self.delete(wanted)
            return ()

    async def lock_of(self, name: str) -> Locked | None:
        """See `Backend.lock_of`: of the version that shows."""
        return lock_of(name, await self._client.head(require_name(name)))

    async def copy(self, name: str, to: str) -> None:
        """See `Backend.copy`."""
        await copy_object(self._client, require_name(name), require_name(to))

    async def checksum(self, name: str) -> Checksum | None:
        """See `Backend.checksum`: of an object that came in parts it is one of the parts."""
        return await kept_checksum(self._client, require_name(name))

    async def unfinished(self, prefix: str = "") -> AsyncIterator[Unfinished]:
        """See `Backend.unfinished`: multipart uploads."""
        key = self._client.key(require_prefix(prefix))
        async for page in self._client.pages("list_multipart_uploads", Prefix=key):
            for upload in page.get("Uploads", []):
                name = self._client.name(upload["Key"])
                if is_name(name):
                    yield Unfinished(name, upload["Initiated"].astimezone(UTC), upload["UploadId"])

    async def discard(self, unfinished: Unfinished) -> None:
        """See `Backend.discard`."""
        await self._client.abort(unfinished.name, unfinished.token)

    async def settle(self) -> None:
        """See `Backend.settle`: what a store has acknowledged is durable."""

    async def free_bytes(self) -> int | None:
        """See `Backend.free_bytes`: S3 has no such figure."""
        return None

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._client.close()

    async def _create(self, name: str, data: bytes, digest: bytes, mark: str) -> None:
        put = partial(self._client.put, name, [data], digest, Metadata={MARK: mark})
        found = await self._client.mark_of(name)
        if found == mark:
            return
        if found is not None:
            raise AlreadyExists(f"{name} exists already in {self._client.options.place}")
        try:
            await put(IfNoneMatch="*")
        except AlreadyExists:
            # aiohttp sends a request twice by itself when a kept connection turns out to be closed.
            if await self._client.mark_of(name) != mark:
                raise
        except Unsupported:
            await put()

    async def _objects(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Objects in the order the store lists them."""
        async for page in self._client.pages("list_objects_v2", Prefix=self._client.key(prefix)):
            for found in page.get("Contents", []):
                name = self._client.name(found["Key"])
                if is_name(name):
                    yield StoredObject(name, found["Size"], found["LastModified"].astimezone(UTC))


def _may_precede(name: str, first: str, start: int) -> bool:
    """Whether `name`, listed after `first` folder by folder, may come before a name since then in byte order.

    That is so while its component at `start` is that of `first`, or goes on from there with a character before `/`.
    """
    stem, _, _ = first[start:].partition("/")
    return name.startswith(stem, start) and name[start + len(stem) :][:1] <= "/"


def _by_name(found: StoredObject) -> str:
    return found.name
