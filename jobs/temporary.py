"""Temporary folders: each is locked while it is in use, so that what a killed process left is told from one at work."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "rowvault-work-"


@contextmanager
def temporary_folder(below: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """A folder that only we can enter, removed afterwards; what killed processes left beside it is removed first.

    It lies `below` another, by default where temporary files go. Raises `OSError` where it cannot be made.
    """
    parent = Path(tempfile.gettempdir()) if below is None else below
    sweep_folders(parent, prefix)
    folder, lock = _claim(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, locked before it has the name by which others know it; the lock goes with our process."""
    fresh = Path(tempfile.mkdtemp(prefix=".rowvault-", dir=parent))
    lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fresh.rename(parent / f"{prefix}{secrets.token_hex(6)}"), lock


def sweep_folders(parent: Path, prefix: str = PREFIX) -> list[Path]:
    """Remove folders of ours that nobody works in any more; return which."""
    swept = []
    for folder in sorted(parent.glob(f"{prefix}*")):
        with suppress(OSError):  # it has gone meanwhile, or is somebody else's
            if folder.lstat().st_uid == os.geteuid() and _is_left(folder):
                shutil.rmtree(folder)
                swept.append(folder)
    return swept


def _is_left(folder: Path) -> bool:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
