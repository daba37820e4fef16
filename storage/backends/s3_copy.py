"""Copies inside a bucket: the store moves the bytes, by one request or, of large objects, part by part.

API: https://docs.aws.amazon.com/AmazonS3/latest/userguide/copy-object.html
"""

import asyncio
import math
from base64 import b64decode
from contextlib import suppress
from functools import partial
from typing import Any

from storage.backends.protocol import Checksum
from storage.backends.s3_client import S3Client
from storage.backends.s3_errors import Unsupported
from storage.backends.s3_upload import ABORT_SECONDS, PART_BYTES
from storage.backends.waiting import in_streams, to_the_end
from storage.errors import StorageError

STREAMS = 4


async def copy_object(client: S3Client, name: str, to: str) -> None:
    """Let the store make `to` of what `name` holds. Raises `NotFound`."""
    size = (await client.head(name))["ContentLength"]
    writing = client.options.writing(to)
    if size > client.options.copy_bytes:
        await _copy_parts(client, name, to, size)
    else:
        copy = partial(client.call, f"copy {name} to {to}", "copy_object", Key=client.key(to), **writing)
        try:
            await copy(CopySource=_source(client, name), ChecksumAlgorithm="SHA256")
        except Unsupported:  # then it keeps no checksum, or the one that it has
            await copy(CopySource=_source(client, name))
    if mode := writing.get("ObjectLockMode"):
        await _lock(client, to, {"Mode": mode, "RetainUntilDate": writing["ObjectLockRetainUntilDate"]})


async def kept_checksum(client: S3Client, name: str) -> Checksum | None:
    """The checksum that the store keeps of an object; None for none, or one of parts whose size cannot be told."""
    head = await client.head(name, ChecksumMode="ENABLED")
    value, _, count = str(head.get("ChecksumSHA256", "")).partition("-")
    if not value:
        return None
    sha256 = b64decode(value).hex()
    if not count:
        return Checksum(sha256)
    for part_bytes in (PART_BYTES, client.options.copy_bytes):
        if math.ceil(head["ContentLength"] / part_bytes) == int(count):
            return Checksum(sha256, part_bytes)
    return None


async def _lock(client: S3Client, name: str, retention: dict[str, object]) -> None:
    """Lock a copy that the store did not lock when it made it (SeaweedFS)."""
    if not (await client.head(name)).get("ObjectLockMode"):
        await client.call(f"lock {name}", "put_object_retention", Key=client.key(name), Retention=retention)


async def _copy_parts(client: S3Client, name: str, to: str, size: int) -> None:
    upload_id = await client.begin(to)
    step = client.options.copy_bytes
    spans = iter([(number, start) for number, start in enumerate(range(0, size, step), 1)])
    parts: list[dict[str, Any]] = []

    async def stream() -> None:
        for number, start in spans:
            end = min(start + step, size) - 1
            parts.append(await _copy_part(client, name, to, upload_id, number, f"bytes={start}-{end}"))

    try:
        await in_streams(STREAMS, stream)
        parts.sort(key=lambda part: int(part["PartNumber"]))
        await client.call(
            f"complete {to}",
            "complete_multipart_upload",
            Key=client.key(to),
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
        )
    except BaseException:
        await to_the_end(_abort(client, to, upload_id))
        raise


async def _copy_part(client: S3Client, name: str, to: str, upload_id: str, number: int, span: str) -> dict[str, Any]:
    """Copy one span; return what CompleteMultipartUpload must say of it."""
    reply = await client.call(
        f"copy part {number} of {name} to {to}",
        "upload_part_copy",
        Key=client.key(to),
        CopySource=_source(client, name),
        CopySourceRange=span,
        UploadId=upload_id,
        PartNumber=number,
    )
    result = reply["CopyPartResult"]
    said = {field: result[field] for field in ("ETag", "ChecksumSHA256") if result.get(field)}
    return {"PartNumber": number, **said}


async def _abort(client: S3Client, name: str, upload_id: str) -> None:
    with suppress(StorageError, TimeoutError):
        async with asyncio.timeout(ABORT_SECONDS):
            await client.abort(name, upload_id)


def _source(client: S3Client, name: str) -> dict[str, str]:
    return {"Bucket": client.options.bucket, "Key": client.key(name)}
