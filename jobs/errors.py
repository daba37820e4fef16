"""What can go wrong in a job, beside what storage and the database raise themselves.

JobError
├── NotThere          a backup or an object of it that was asked for is nowhere
├── Difference        verification found that bytes are not what was backed up
├── UnsafeTarget      a restore is refused, since it would make things worse
├── Unexplained       what became of a table cannot be told from what was backed up before
├── NoPlace           no place took the backup
├── BadExport         an export was asked for that cannot be made
└── NotWritten        files of an export could not be written
"""

from jobs.results import Problem


class JobError(Exception):
    """A job failed; `message` says what and where, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotThere(JobError):
    """What was asked for is in no place."""


class Difference(JobError):
    """What was read back is not what was backed up."""

    def __init__(self, message: str, hint: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(message, hint)
        self.problems = problems


class UnsafeTarget(JobError):
    """The target of a restore holds something, or lacks something, so that restoring is refused."""


class Unexplained(JobError):
    """What became of a table cannot be told from what was backed up of it before."""


class NoPlace(JobError):
    """No place took the backup."""


class BadExport(JobError):
    """An export was asked for that cannot be made: a column that is not there, a mask that does not fit."""


class NotWritten(JobError):
    """The files of an export could not be written; nothing of it is left."""
