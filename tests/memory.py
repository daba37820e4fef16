"""Where tests put what is temporary: in memory, if there is room.

On ext4 a file takes the longer to make the more were removed in the last minutes, and each database has hundreds: a
tenth of a second of processor time for every one that a test makes. What tests keep in pytest's folders is on the disk.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
PREFIX = "rowvault-tests-"
ROOM = 6 << 30


@contextmanager
def in_memory() -> Iterator[None]:
    """Let temporary files of ours, and of what we start, be in memory, unless TMPDIR says where; gone at the end."""
    if "TMPDIR" in os.environ or not _has_room():
        yield
        return
    _sweep()
    folder, lock = _claim()
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _has_room() -> bool:
    if not os.access(MEMORY, os.W_OK):
        return False
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) << 10
    return min(available, shutil.disk_usage(MEMORY).free) >= ROOM


def _claim() -> tuple[Path, int]:
    """A new folder, locked before it has the name by which others know it; the lock goes with our process."""
    fresh = Path(tempfile.mkdtemp(prefix=".rowvault-", dir=MEMORY))
    fresh.chmod(0o755)  # servers are somebody else
    lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return fresh.rename(MEMORY / f"{PREFIX}{secrets.token_hex(6)}"), lock


def _sweep() -> None:
    """Remove what is left of runs that were killed: their locks are free."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is in use, somebody else's, or has gone meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
