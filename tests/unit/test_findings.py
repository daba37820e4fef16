"""How `doctor` judges what it measured."""

from datetime import UTC, datetime, timedelta

import pytest

from jobs.checks.database import judge_tls, judge_version
from jobs.checks.findings import judge_clock
from jobs.checks.places import clock_difference, judge_space
from jobs.postgres.checkup import SessionFacts, route_of
from jobs.postgres.connection import Source


@pytest.mark.parametrize(
    ("seconds", "state"), [(0.4, "ok"), (-4.9, "ok"), (5.1, "warning"), (-29, "warning"), (31, "problem")]
)
def test_clocks_may_differ_by_some_seconds(seconds: float, state: str) -> None:
    assert judge_clock("a clock", seconds).state == state


@pytest.mark.parametrize(("modified", "expected"), [(-1.0, 0), (0.5, 0), (1, 0), (11, 10), (-41, -40)])
def test_a_stores_clock_is_judged_by_what_it_says_of_an_object(modified: float, expected: float) -> None:
    began = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    ended = began + timedelta(seconds=1)
    assert clock_difference(began, ended, began + timedelta(seconds=modified)) == expected


@pytest.mark.parametrize(
    ("where", "tls", "state"),
    [
        ("127.0.0.1:5432/d", None, "ok"),
        ("[::1]/d", None, "ok"),
        ("/d?host=/run/postgresql", None, "ok"),
        ("%2Frun%2Fpostgresql/d", None, "ok"),
        ("db/d", None, "warning"),
        ("localhost.example.org/d", None, "warning"),
        ("127.0.0.1,db/d", None, "warning"),
        ("db/d", "TLSv1.3", "warning"),
        ("db/d?sslmode=require", "TLSv1.3", "warning"),
        ("db/d?sslmode=verify-full", "TLSv1.3", "ok"),
    ],
)
def test_a_connection_over_a_network_is_to_be_encrypted_and_verified(where: str, tls: str | None, state: str) -> None:
    facts = SessionFacts("r", superuser=False, standby=False, tls=tls, pooled=False)
    finding = judge_tls(route_of(Source(f"postgresql://u:p@{where}")), facts)
    assert finding.state == state
    assert state == "ok" or "sslmode=verify-full&sslrootcert=" in finding.hint


def test_behind_a_pooler_only_sslmode_proves_encryption() -> None:
    facts = SessionFacts("r", superuser=False, standby=False, tls="TLSv1.3", pooled=True)
    assert "may not be encrypted" in judge_tls(route_of(Source("postgresql://db/d")), facts).message
    assert judge_tls(route_of(Source("postgresql://db/d?sslmode=verify-full")), facts).state == "ok"


@pytest.mark.parametrize(("major", "state"), [(13, "problem"), (14, "ok"), (18, "ok"), (19, "warning")])
def test_servers_14_to_18_are_supported(major: int, state: str) -> None:
    assert judge_version(major).state == state


@pytest.mark.parametrize(
    ("free", "tables", "state"),
    [(2e9, 1e9, "ok"), (2e9, 3e9, "warning"), (2e9, 9e9, "problem"), (2e9, None, "ok"), (5e8, None, "warning")],
)
def test_one_more_backup_must_fit(free: float, tables: float | None, state: str) -> None:
    (finding,) = judge_space("local", int(free), int(tables) if tables else None)
    assert finding.state == state
