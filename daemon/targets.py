"""How a person says which database to restore into, without the password standing in the process list."""

import os
from collections.abc import Callable
from pathlib import Path

from daemon.outcomes import UsageError
from jobs.postgres.connection import Source


def read_dsn(text: str, warn: Callable[[str], object]) -> str:
    """The DSN that `--to` means: itself, `env:NAME`, or `@FILE`. Raises `UsageError`, never showing it."""
    if text.startswith("env:"):
        dsn = os.environ.get(text.removeprefix("env:"), "")
        if not dsn:
            raise UsageError(f"--to {text}: that variable is not set")
    elif text.startswith("@"):
        try:
            dsn = Path(text[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--to {text}: the file cannot be read") from error
    else:
        dsn = text
        if _password(text):
            warn("a password on the command line shows in the process list: use --to env:NAME or --to @FILE")
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise UsageError("--to wants a DSN (postgresql://…), env:NAME or @FILE")
    return dsn


def _password(dsn: str) -> bool:
    try:
        return bool(Source(dsn).password)
    except ValueError:
        return False
