"""What `doctor` finds: one check, how it stands, what it is about, and what to do."""

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.postgres.errors import Contended, PostgresError
from storage.errors import StorageError

FindingState = Literal["ok", "warning", "problem"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to. A problem stops or endangers backups; `hint` says what to do, with the SQL or the setting.

    `place` and `table` (as people write it) say what it is about, where it is about one.
    """

    check: str
    state: FindingState
    message: str
    hint: str = ""
    place: str | None = None
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found; `healthy` if there is no problem."""

    findings: tuple[Finding, ...]
    healthy: bool


def report_on(findings: Iterable[Finding]) -> Report:
    """The findings, and what they come to."""
    every = tuple(findings)
    return Report(every, not any(finding.state == "problem" for finding in every))


async def checked(check: str, made: Awaitable[list[Finding]], place: str | None = None) -> list[Finding]:
    """A check's findings, or the one that says why it could not be made: the others still can."""
    try:
        return await made
    except Contended as error:
        return [Finding(check, "warning", error.message, error.hint, place)]
    except (PostgresError, StorageError) as error:
        return [Finding(check, "problem", error.message, error.hint, place)]


def some(names: Sequence[object]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(str(name) for name in names[:_SHOWN]) + more


def size(count: int) -> str:
    """Bytes as people read them."""
    number, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f} {units[0]}" if units[0] == "bytes" else f"{number:.1f} {units[0]}"


def judge_clock(whose: str, difference: float, place: str | None = None) -> Finding:
    """A clock that is `difference` seconds ahead of this machine's. Leases last 60 s and are judged by clocks."""
    ahead = f"{whose} is {abs(difference):.1f} s {'ahead of' if difference > 0 else 'behind'} this machine's"
    hint = "set both clocks by NTP (timedatectl set-ntp true): leases and the times of backups rest on them"
    if abs(difference) > 30:
        return Finding("clock", "problem", ahead, hint, place)
    if abs(difference) > 5:
        return Finding("clock", "warning", ahead, hint, place)
    return Finding("clock", "ok", f"{whose} agrees with this machine's", place=place)
