"""Lengths of time and amounts of bytes as people write them: `90s`, `30m`, `2h`, `7d`; `50MB`, `8MiB`."""

import re
from datetime import timedelta

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
# Few digits, so that every duration can still be added to a date.
_DURATION = re.compile(r"(\d{1,6})\s*([smhd])", re.ASCII)
_SIZE = re.compile(rf"(\d{{1,9}})\s*({'|'.join(_BYTES)})", re.ASCII | re.IGNORECASE)


def parse_duration(text: str) -> timedelta:
    """The length of time that `text` says. Raises ValueError, whose message does not repeat the text."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a whole number above zero and a unit, s, m, h or d, such as 90s, 30m, 2h or 7d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def format_duration(duration: timedelta) -> str:
    """Write a duration in the largest unit that says it exactly; parts of a second are rounded away."""
    seconds = round(duration.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def parse_size(text: str) -> int:
    """The number of bytes that `text` says: kB, MB … are powers of 1000, KiB, MiB … of 1024, in either case.

    Raises ValueError, whose message does not repeat the text.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a whole number above zero and a unit, such as 500kB, 50MB, 64MiB or 1GB")
    return int(match[1]) * _BYTES[match[2].upper()]


def format_size(size: int) -> str:
    """Write a number of bytes in the largest power of 1000 that says it exactly."""
    for unit in ("TB", "GB", "MB"):
        if size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"
