"""How a job tells how far it is. Whoever calls a job may pass a callable that takes these."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """So much of so much is done, in bytes; `phase` in words, such as `copying public.orders`."""

    phase: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def no_progress(_progress: Progress) -> None:
    """For callers who do not want to know."""
