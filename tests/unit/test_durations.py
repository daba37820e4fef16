"""Durations and sizes as people write them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.settings.durations import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604800), (" 5 s ", 5)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "0s", "-1s", "1.5h", "1h30m", "2w", "5S", "٣s", "9999999d"])
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 30m, 2h or 7d"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=999_999))
def test_a_written_duration_reads_back_the_same(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert parse_duration(format_duration(duration)) == duration


def test_a_duration_is_written_in_its_largest_exact_unit() -> None:
    assert [format_duration(timedelta(seconds=s)) for s in (0, 90, 3600, 86400)] == ["0s", "90s", "1h", "1d"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("500kB", 500_000), ("50MB", 50_000_000), ("8MiB", 8 * 2**20), ("1 gb", 10**9)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "50", "MB", "0MB", "-1MB", "1.5GB", "50Mb/s"])
def test_any_other_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 500kB"):
        parse_size(text)
