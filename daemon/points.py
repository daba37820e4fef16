"""How a person names a moment: a time, an LSN, or a transaction."""

import re
from datetime import datetime, tzinfo

from daemon.outcomes import UsageError
from jobs.chains.points import At, AtLsn, BeforeXid, Point
from jobs.postgres.pgoutput import lsn_number

_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


def read_point(time: str | None, lsn: str | None, xid: str | None, zone: tzinfo) -> Point | None:
    """The moment that `--at`, `--at-lsn` or `--before-xid` means, None if none is given.

    A time without an offset is meant in `zone`. Raises `UsageError`.
    """
    given = [option for option in (time, lsn, xid) if option is not None]
    if len(given) > 1:
        raise UsageError("say one of --at, --at-lsn and --before-xid")
    if time is not None:
        return At(read_time(time, zone, "--at"))
    if lsn is not None:
        return AtLsn(_lsn(lsn))
    return BeforeXid(_xid(xid)) if xid is not None else None


def read_time(text: str, zone: tzinfo, option: str) -> datetime:
    """A time as a person writes it; without an offset it is meant in `zone`. Raises `UsageError`, naming the option."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(f"{option} {text}: wants a time such as 2026-01-31T14:05:00+01:00") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=zone)


def _lsn(text: str) -> int:
    if not _LSN.fullmatch(text):
        raise UsageError(f"--at-lsn {text}: wants an LSN such as 16/B374D848")
    return lsn_number(text)


def _xid(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--before-xid {text}: wants a transaction's number")
    return int(text)
