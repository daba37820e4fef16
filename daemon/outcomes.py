"""What an error means for whoever called: an exit code for scripts, a message and a hint for people."""

import asyncio
from typing import Literal

from typer.exceptions import TyperException

from daemon.logs import explain
from daemon.settings.errors import SettingsError
from jobs.errors import BadExport, Difference, NotThere, UnsafeTarget
from jobs.postgres.errors import Held, NoSuchTable, ToolMissing, TransactionPooling
from jobs.postgres.identifiers import BadName
from storage.age import BadKey, NoIdentity
from storage.errors import Corrupt, NotFound
from storage.names import BadLabel
from storage.repository import OtherSource

Outcome = Literal["success", "warning", "failed", "refused"]
"""How a run of a job is counted."""

DONE, FAILED, USAGE, DIFFERENCE, NOT_FOUND, REFUSED = range(6)


class UsageError(Exception):
    """The command line, or a setting, asks for something that cannot be."""

    def __init__(self, message: str, hint: str = "see rowvault --help") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


_CODES: tuple[tuple[int, tuple[type[BaseException], ...]], ...] = (
    (USAGE, (SettingsError, BadName, BadLabel, BadKey, NoIdentity, BadExport, UsageError, TyperException)),
    (REFUSED, (OtherSource, UnsafeTarget, TransactionPooling, Held, ToolMissing)),
    (NOT_FOUND, (NotFound, NotThere, NoSuchTable)),
    (DIFFERENCE, (Difference, Corrupt)),
)


class Stopped(Exception):
    """A signal ended the work."""

    def __init__(self) -> None:
        self.message = "stopped before it was done"
        self.hint = "what was begun is swept by the next run"
        super().__init__(self.message)


class TimeLimit(Exception):
    """A job ran longer than it may."""

    def __init__(self, job: str, seconds: float) -> None:
        self.message = f"{job} was ended after {seconds:.0f} s, its time limit"
        self.hint = "raise ROWVAULT_JOB_TIME_LIMIT, or find out what is slow; what was committed by then stays"
        super().__init__(self.message)


def exit_code(error: BaseException) -> int:
    """The exit code of DESIGN.md's contract: where several apply, 2, 5, 4, 3, 1 in this order."""
    return next((code for code, kinds in _CODES if isinstance(error, kinds)), FAILED)


def outcome_of(error: BaseException) -> Outcome:
    """How a run that ended so is counted.

    What needs an identity and has none is a warning: nothing is wrong with the backups, and nothing was achieved.
    """
    if isinstance(error, NoIdentity):
        return "warning"
    return "refused" if exit_code(error) == REFUSED else "failed"


def _command_of(error: TyperException) -> str:
    """The command whose line was not understood."""
    context = getattr(error, "ctx", None)
    return context.command_path if context else "rowvault"


def describe(error: BaseException) -> dict[str, str]:
    """The error as JSON shows it."""
    if isinstance(error, TyperException):
        message = " ".join(error.format_message().split()).replace("Value error, ", "")
        return {"message": message, "hint": f"see {_command_of(error)} --help"}
    if isinstance(error, asyncio.CancelledError):
        error = Stopped()
    message, hint = explain(error)
    return {"message": message, "hint": hint}
