"""One object on its way to S3: small ones by one PUT, larger ones by a multipart upload of 8 MiB parts.

Every request carries the SHA-256 of its bytes, which the store checks, and CompleteMultipartUpload names them again:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

import asyncio
import hashlib
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from storage.backends.s3_client import MARK, S3Client, as_base64, sha256_of
from storage.backends.waiting import to_the_end
from storage.errors import Corrupt, NotFound, Refused, StorageError, Unavailable

PART_BYTES = 8 << 20
MOST_PARTS = 10_000
IN_FLIGHT = 2
ABORT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    blocks: list[memoryview]


class S3Upload:
    """An object being written. Implements `Upload`.

    Holds little more than three parts: two on their way, one that waits or is being filled. A part that could not be
    sent waits, and the next `append` or `commit` sends it again.
    """

    def __init__(self, client: S3Client, name: str, sha256: str | None) -> None:
        self._client = client
        self._name = name
        self._key = client.key(name)
        self._promised = sha256
        self._hash = hashlib.sha256()
        self._mark = secrets.token_hex(16)
        self._filling: list[memoryview] = []
        self._filled = 0
        self._waiting: deque[_Part] = deque()
        self._flying: dict[asyncio.Task[dict[str, Any]], _Part] = {}
        self._landed: dict[int, dict[str, Any]] = {}
        self._upload_id: str | None = None
        self._parts = 0
        self._size = 0

    async def append(self, block: bytes) -> None:
        """See `Upload.append`."""
        await self._send_waiting()
        rest = memoryview(block)
        while rest:
            if self._filled == PART_BYTES:
                await self._enqueue()
            taken = rest[: PART_BYTES - self._filled]
            self._filling.append(taken)
            self._filled += len(taken)
            rest = rest[len(taken) :]
        self._size += len(block)

    async def commit(self) -> int:
        """See `Upload.commit`."""
        if self._parts == 0:
            await self._put_whole()
        else:
            await self._complete()
        return self._size

    async def abort(self) -> None:
        """See `Upload.abort`; what the store does not free within some seconds, `unfinished` will find."""
        self._filling, self._filled = [], 0
        self._waiting.clear()
        if self._upload_id is not None:
            await to_the_end(self._abort())

    async def _enqueue(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise Refused(f"{self._name} is larger than 78 GiB", "Cut it into several objects.")
        part = _Part(self._parts, self._filling)
        self._filling, self._filled = [], 0
        if self._promised is not None:
            await asyncio.to_thread(self._add_to_hash, part.blocks)
        self._waiting.append(part)

    def _add_to_hash(self, blocks: list[memoryview]) -> None:
        for block in blocks:
            self._hash.update(block)

    async def _send_waiting(self) -> None:
        """Get every full part on its way. Raises what one met that was on its way before; it waits again then."""
        if self._waiting and self._upload_id is None:
            self._upload_id = await self._client.begin(self._name, Metadata={MARK: self._mark})
        while self._waiting:
            if len(self._flying) == IN_FLIGHT:
                await self._land()
            part = self._waiting.popleft()
            self._flying[asyncio.create_task(self._send(part))] = part

    async def _land(self) -> None:
        """Wait until a part that is on its way has arrived."""
        done, _ = await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        part = self._flying.pop(task)
        try:
            self._landed[part.number] = task.result()
        except Unavailable:
            self._waiting.appendleft(part)
            raise

    async def _send(self, part: _Part) -> dict[str, Any]:
        """Upload one part; return what CompleteMultipartUpload must say of it."""
        checksum = as_base64(await asyncio.to_thread(sha256_of, part.blocks))
        try:
            reply = await self._client.call(
                f"write part {part.number} of {self._name}",
                "upload_part",
                part.blocks,
                Key=self._key,
                UploadId=self._upload_id,
                PartNumber=part.number,
                ChecksumSHA256=checksum,
            )
        except NotFound as error:
            raise self._swept() from error
        return {"PartNumber": part.number, "ETag": reply["ETag"], "ChecksumSHA256": checksum}

    async def _put_whole(self) -> None:
        digest = await asyncio.to_thread(sha256_of, self._filling)
        self._require_promised(digest.hex())
        await self._client.put(self._name, self._filling, digest)

    async def _complete(self) -> None:
        if self._filling:
            await self._enqueue()
        await self._send_waiting()
        while self._flying:
            await self._land()
        try:
            self._require_promised(self._hash.hexdigest())
        except Corrupt:
            await self.abort()
            raise
        await self._publish()

    def _require_promised(self, found: str) -> None:
        if self._promised not in (None, found):
            raise Corrupt(f"{self._name}: the bytes have another SHA-256 than was promised")

    async def _publish(self) -> None:
        parts = [self._landed[number] for number in sorted(self._landed)]
        try:
            await self._client.call(
                f"complete {self._name}",
                "complete_multipart_upload",
                Key=self._key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": parts},
            )
        except NotFound as error:
            # It is gone: by our own earlier try, whose reply was lost, or by somebody's sweep.
            if await self._client.mark_of(self._name) != self._mark:
                raise self._swept() from error
        self._upload_id = None

    def _swept(self) -> Refused:
        return Refused(f"somebody discarded the unfinished {self._name}", "Run it again.")

    async def _abort(self) -> None:
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        self._flying.clear()
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(ABORT_SECONDS):
                await self._client.abort(self._name, str(self._upload_id))
        self._upload_id = None
