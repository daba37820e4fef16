"""How a job tells how far it is. Whoever calls a job may pass a callable that takes these."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """So much of so much is done (0 of 0 where there is no measure), and on which backup, table and part.

    In bytes; if `counted`, in backups, tables or the like.
    """

    phase: str
    done: int = 0
    total: int = 0
    backup: str | None = None
    table: str | None = None
    part: int | None = None
    counted: bool = False


OnProgress = Callable[[Progress], None]


def no_progress(_progress: Progress) -> None:
    """For callers who do not want to know."""
