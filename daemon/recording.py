"""Remembers every job in the audit trail and the verification log, the same for the daemon and for commands."""

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import JsonValue

from daemon.logs import explain
from daemon.outcomes import USAGE, Stopped, exit_code, outcome_of
from jobs.postgres.connection import Source
from jobs.postgres.errors import Held, Rejected, TransactionPooling, Unreachable
from jobs.postgres.verification_log import LogRow
from jobs.remember import Account, remember
from storage.age import NoIdentity
from storage.repository import OtherSource, Repository
from storage.trail import Event

R = TypeVar("R")
STOPPED_SECONDS = 2.0  # of the grace that a cancelled job has to clean up

_NOTHING_BEGAN = (Held, OtherSource)
_NO_LOG = (Unreachable, Rejected, TransactionPooling)  # it was told already that the database cannot be reached


def person() -> str:
    """Who gave a command: user@host. A user without a name, as containers have, by number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Recorder:
    """Carries jobs out and remembers what they came to. What cannot be written is told by `warn`, and fails no job.

    `log` is the database that keeps the verification log; None for none.
    """

    def __init__(
        self, repositories: Sequence[Repository], log: Source | None, who: str, warn: Callable[[str], object]
    ) -> None:
        self._repositories = repositories
        self._log = log
        self._who = who
        self._warn = warn

    def without_log(self) -> "Recorder":
        """The same, but for what ends the verification log itself."""
        return Recorder(self._repositories, None, self._who, self._warn)

    async def carry_out(
        self,
        what: str,
        work: Awaitable[R],
        account_of: Callable[[R], Account | None],
        details: dict[str, JsonValue] | None = None,
        backup: str | None = None,
    ) -> R:
        """Do the work; remember what it came to, or how it failed. Raises what the work raises.

        `details` say what was asked for, `backup` of which backup, if it was there already. No account: there was
        nothing to do, and nothing is remembered.
        """
        began = datetime.now(UTC)
        try:
            result = await work
        except BaseException as error:
            if not isinstance(error, _NOTHING_BEGAN) and (exit_code(error) != USAGE or isinstance(error, NoIdentity)):
                await self._remember_failure(what, error, began, backup, details or {})
            raise
        if (account := account_of(result)) is not None:
            await self._remember(what, account, details or {}, self._log)
        return result

    @asynccontextmanager
    async def planning(self, what: str, details: dict[str, JsonValue], *, dry_run: bool = False) -> AsyncIterator[None]:
        """Find out in the block what will be done, or in a dry run would be. What is refused then was never begun, and
        is not remembered, but for an identity that is not there: that is a warning, as it is of what was begun.
        """
        began = datetime.now(UTC)
        try:
            yield
        except NoIdentity as error:
            if not dry_run:
                await self._remember_failure(what, error, began, None, details)
            raise

    async def _remember_failure(
        self, what: str, error: BaseException, began: datetime, backup: str | None, details: dict[str, JsonValue]
    ) -> None:
        stopped = not isinstance(error, Exception)
        message, _ = explain(Stopped() if stopped else error)
        now = datetime.now(UTC)
        outcome = outcome_of(error)
        status = "warning" if outcome == "warning" else "failed"
        rows = (LogRow(began, None, None, status, None, None, None, now, message),) if what == "backup" else ()
        account = Account(outcome, backup, {"error": type(error).__name__}, rows)
        try:
            async with asyncio.timeout(STOPPED_SECONDS if stopped else None):
                await self._remember(what, account, details, None if isinstance(error, _NO_LOG) else self._log)
        except TimeoutError:
            self._warn("the audit trail could not be written in the time left")

    async def _remember(self, what: str, account: Account, details: dict[str, JsonValue], log: Source | None) -> None:
        at = datetime.now(UTC)
        event = Event(at, self._who, what, account.outcome, account.backup, details | account.details)
        try:
            warnings = await remember(self._repositories, log, event, account.rows)
        except Exception as error:  # noqa: BLE001 - a job that is done does not fail because its record did
            warnings = [f"the audit trail could not be written: {explain(error)[0]}"]
        for warning in warnings:
            self._warn(warning)
