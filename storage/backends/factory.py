"""Backends as they are used: each place's options in, a backend out."""

from pathlib import Path

from storage.backends.local import LocalBackend
from storage.backends.protocol import Backend
from storage.backends.retrying import Patience, Retrying
from storage.backends.s3_options import S3Options


def open_local(root: Path) -> Backend:
    """Objects as files under `root`, which the first write makes. Not retried: a disk that says no means it."""
    return LocalBackend(root)


async def open_s3(options: S3Options, patience: Patience | None = None) -> Retrying:
    """Objects in a bucket, retried with patience; on the running loop only. Raises `Refused` for impossible options.

    Nothing is asked of the store yet: an unreachable one shows at the first use. Whoever opens it closes it.
    """
    # botocore takes 9 MB, which who keeps backups on local disks alone need not pay.
    from storage.backends.s3 import S3Backend

    return Retrying(await S3Backend.open(options), patience)
