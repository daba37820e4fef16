"""What an error means for whoever called: exit codes, messages, how a run is counted."""

import asyncio

import pytest
from typer import BadParameter
from typer.exceptions import TyperException

from daemon.cli import cli
from daemon.endpoints import EndpointsError
from daemon.outcomes import (
    DIFFERENCE,
    DONE,
    FAILED,
    NOT_FOUND,
    REFUSED,
    USAGE,
    Stopped,
    TimeLimit,
    UsageError,
    describe,
    exit_code,
    outcome_of,
)
from daemon.settings.errors import SettingsError
from jobs.errors import Difference, JobError, NotThere, UnsafeTarget
from jobs.postgres.errors import (
    ConnectionLost,
    Contended,
    Held,
    MissingPrivilege,
    NoSuchTable,
    Rejected,
    ToolMissing,
    TransactionPooling,
    Unreachable,
)
from jobs.postgres.identifiers import BadName
from storage.errors import Corrupt, NotFound, OutOfSpace, Refused, Unavailable
from storage.names import BadLabel
from storage.repository import OtherSource


def test_the_codes_are_the_contract() -> None:
    assert (DONE, FAILED, USAGE, DIFFERENCE, NOT_FOUND, REFUSED) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError(["ROWVAULT_X: is not a setting"]), USAGE),
        (BadName("a.b.c", ""), USAGE),
        (BadLabel("too long", ""), USAGE),
        (UsageError("name one BACKUP"), USAGE),
        (BadParameter("no"), USAGE),
        (EndpointsError("in use", ""), USAGE),
        (OtherSource("another database's"), REFUSED),
        (UnsafeTarget("not empty"), REFUSED),
        (TransactionPooling("a pooler"), REFUSED),
        (Held("another job"), REFUSED),
        (ToolMissing("no pg_dump"), REFUSED),
        (NotFound("no backup"), NOT_FOUND),
        (NotThere("no backup"), NOT_FOUND),
        (NoSuchTable("nothing matches"), NOT_FOUND),
        (Difference("differs", "", ()), DIFFERENCE),
        (Corrupt("altered"), DIFFERENCE),
        (Unavailable("no answer"), FAILED),
        (Refused("no"), FAILED),
        (OutOfSpace("full"), FAILED),
        (Unreachable("no answer"), FAILED),
        (Rejected("password"), FAILED),
        (MissingPrivilege("SELECT"), FAILED),
        (Contended("gave way"), FAILED),
        (ConnectionLost("gone"), FAILED),
        (JobError("failed"), FAILED),
        (TimeLimit("daily-full", 5), FAILED),
        (Stopped(), FAILED),
        (ZeroDivisionError("a bug"), FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_a_run_that_was_refused_is_counted_apart_from_one_that_failed() -> None:
    assert outcome_of(Held("another job")) == "refused"
    assert outcome_of(Unreachable("no answer")) == "failed"
    assert outcome_of(NoSuchTable("nothing matches")) == "failed"


def test_an_error_is_described_by_what_it_says_and_what_to_do() -> None:
    assert describe(Held("another job is running", "wait")) == {"message": "another job is running", "hint": "wait"}


def test_an_error_of_no_kind_of_ours_is_named_for_its_type() -> None:
    assert describe(ZeroDivisionError("division by zero"))["message"] == "ZeroDivisionError: division by zero"


def test_being_cancelled_is_being_stopped() -> None:
    assert describe(asyncio.CancelledError())["message"] == "stopped before it was done"


def test_a_usage_error_points_to_the_help() -> None:
    assert describe(BadParameter("no such thing"))["hint"] == "see rowvault --help"


def test_what_a_command_does_not_understand_points_to_its_own_help() -> None:
    with pytest.raises(TyperException) as caught:
        cli(["backup", "foo"], prog_name="rowvault", standalone_mode=False)
    assert describe(caught.value) == {
        "message": "Invalid value for 'kind': 'foo' is not one of 'full', 'incremental', 'archive'.",
        "hint": "see rowvault backup --help",
    }


def test_a_time_limit_names_the_job_the_seconds_and_the_setting() -> None:
    described = describe(TimeLimit("daily-full", 90.0))
    assert described["message"] == "daily-full was ended after 90 s, its time limit"
    assert "JOB_TIME_LIMIT" in described["hint"]


def test_a_time_limit_does_not_deny_a_backup_that_was_committed_before_it_was_verified() -> None:
    assert "what was committed by then stays" in describe(TimeLimit("daily-full", 90.0))["hint"]


def test_no_description_shows_a_password() -> None:
    assert "hunter2" not in str(describe(ValueError("cannot use postgresql://app:hunter2@db:5432/app")))
