"""How a person names a moment."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from daemon.outcomes import UsageError
from daemon.points import read_point
from jobs.chains.points import At, AtLsn, BeforeXid, Point

EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T14:05:00Z", datetime(2026, 1, 31, 14, 5, tzinfo=UTC)),
        ("2026-01-31T14:05:00.123456+01:00", datetime(2026, 1, 31, 13, 5, 0, 123456, tzinfo=UTC)),
        (" 2026-01-31 14:05 ", datetime(2026, 1, 31, 12, 5, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 30, 22, tzinfo=UTC)),
    ],
)
def test_a_time_without_an_offset_is_meant_in_the_zone(text: str, time: datetime) -> None:
    assert read_point(text, None, None, EAST) == At(time)


@pytest.mark.parametrize(
    ("lsn", "xid", "point"),
    [
        ("16/B374D848", None, AtLsn(0x16B374D848)),
        ("0/0", None, AtLsn(0)),
        (None, "700", BeforeXid(700)),
        (None, str((3 << 32) + 5), BeforeXid((3 << 32) + 5)),
        (None, None, None),
    ],
)
def test_an_lsn_and_a_transaction_are_read_as_the_server_writes_them(
    lsn: str | None, xid: str | None, point: Point | None
) -> None:
    assert read_point(None, lsn, xid, UTC) == point


WRONG: list[tuple[str | None, str | None, str | None]] = [
    ("yesterday", None, None),
    ("2026-13-01", None, None),
    ("", None, None),
    (None, "12", None),
    (None, "x/y", None),
    (None, "-1/0", None),
    (None, "0/123456789", None),
    (None, "1/ 2", None),
    (None, None, "-1"),
    (None, None, "\u0663"),
    (None, None, ""),
    ("2026-01-01", "0/0", None),
    ("2026-01-01", None, "7"),
    (None, "0/0", "7"),
]


@pytest.mark.parametrize("given", WRONG, ids=str)
def test_what_names_no_moment_is_a_usage_error(given: tuple[str | None, str | None, str | None]) -> None:
    with pytest.raises(UsageError):
        read_point(*given, UTC)
