"""What jobs return: frozen records, of which others make metrics and logs, tables and JSON."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

State = Literal["success", "warning", "failed"]
PlaceState = Literal["committed", "pending", "failed", "unreachable"]
ProblemKind = Literal["missing", "size", "sha256_stored", "sha256_raw", "rows", "unreadable", "altered", "identity"]


@dataclass(frozen=True, slots=True)
class PlaceOutcome:
    """How one place took a backup; `error` says why it is not committed."""

    name: str
    state: PlaceState
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """What one table came to: rows by COPY's own count, bytes before and after compression."""

    schema: str
    name: str
    rows: int
    bytes_raw: int
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that verification found: where, what kind of fault, what was promised and what is there."""

    place: str
    object: str
    table: str | None
    kind: Literal["missing", "size", "sha256_stored", "sha256_raw", "rows", "unreadable", "altered", "identity"]
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What reading a backup back in every place came to; `pending` places are a warning, not a problem.

    `not_proved` says what could not be checked, which is a warning too.
    """

    id: str
    state: State
    problems: tuple[Problem, ...]
    places: tuple[PlaceOutcome, ...] = ()
    objects: int = 0
    bytes: int = 0
    not_proved: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not proved, as sentences beside others."""
        return tuple(f"not proved: {one}" for one in self.not_proved)


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What one backup came to. `duration_seconds` runs to the commit, `verify_seconds` is apart from it.

    `checksums` are those of `tables`, in their order.
    """

    id: str
    kind: str
    state: State
    created_at: datetime
    places: tuple[PlaceOutcome, ...]
    tables: tuple[TableOutcome, ...]
    duration_seconds: float
    verify_seconds: float
    verification: VerifyResult | None = None
    warnings: tuple[str, ...] = ()
    uncovered_tables: int = 0
    checksums: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableTouched:
    """What a restore did to one table that is in the target now: how, and to how many rows."""

    table: str
    how: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at after restoring, and what was found."""

    name: str
    state: Literal["ok", "failed"]
    message: str


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore put into the target, and what was found when looking after it.

    `warnings` name what could not be restored as it was, and why. `duration_seconds` runs until the rows are there for
    everybody, `check_seconds` is apart from it.
    """

    id: str
    target: str
    tables: tuple[TableOutcome, ...]
    touched: tuple[TableTouched, ...]
    duration_seconds: float
    warnings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    check_seconds: float = 0.0

    @property
    def as_it_should_be(self) -> bool:
        """Whether every check passed."""
        return all(check.state == "ok" for check in self.checks)


Scenario = Literal["one_row", "one_table", "everything", "complete_loss"]


@dataclass(frozen=True, slots=True)
class ScenarioOutcome:
    """How long it took to recover from one kind of loss, against how long it may take; `of` says what was recovered."""

    name: Scenario
    of: str
    seconds: float
    objective_seconds: float

    @property
    def kept(self) -> bool:
        """Whether the objective was kept."""
        return self.seconds <= self.objective_seconds


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What a drill came to: `id` is the backup's, `tables` are those that were proved equal to it, byte for byte.

    `state` is a warning where a place did not take the report, failed if a check did. `not_proved` says what the drill
    says nothing of.
    """

    id: str
    state: State
    started_at: datetime
    duration_seconds: float
    server: str
    tables: tuple[TableOutcome, ...]
    checks: tuple[Check, ...]
    scenarios: tuple[ScenarioOutcome, ...]
    not_proved: tuple[str, ...]
    places: tuple[PlaceOutcome, ...] = ()

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if check.state == "failed")
