"""Logs: JSON lines on stderr, or coloured lines for a person; the libraries' own logs go the same way.

Every line has a timestamp (ISO 8601, UTC), a level, an event, and what `structlog.contextvars` has bound:
job, backup, table, part. An exception becomes `error` and `hint`; its traceback shows at level debug only.
Whatever looks like a secret is masked, in messages of others too.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["json", "console"]

MASK = "***"
# They tell each of their steps at info and debug; the runner tells the steps that matter.
_TALKATIVE = (
    "aiobotocore",
    "aiohttp",
    "apscheduler",
    "asyncio",
    "boto3",
    "botocore",
    "s3transfer",
    "urllib3",
)
_TELLTALE = r"(?:passw(?:or)?d|passphrase|secret|token|credential|signature|api_?key|access_?key)"
_SECRET_NAME = re.compile(_TELLTALE, re.IGNORECASE)
_VALUE = r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&,;'\"]+)"
# Repetitions are bounded, so that no text takes long.
_SECRETS = (
    # What stands before the last @ of an address is its user and password.
    re.compile(r"(://[^\s:/@]{0,200}:)\S{1,2000}(?=@)"),
    re.compile(r"(authorization[\"']?\s*[:=]\s*)[^\r\n]+", re.IGNORECASE),
    # name=value, as in a DSN or a query, and "name": "value", as in JSON or a Python dictionary.
    re.compile(rf"({_TELLTALE}[\w-]{{0,50}}(?:\s*=\s*|[\"']\s*:\s*)){_VALUE}", re.IGNORECASE),
)


def configure_logs(level: str = "info", form: Format | None = None, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's logs to `stream` (stderr), as `form` says.

    `level` is debug, info, warning or error. Without `form`: console on a terminal, else json.
    """
    stream = sys.stderr if stream is None else stream
    form = form or ("console" if stream.isatty() else "json")
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(form, stream),
            ],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_before_rendering()],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)
    logging.captureWarnings(capture=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.getLogger("asyncio").addFilter(_worth_saying)
    structlog.configure(
        processors=[*_before_rendering(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that asyncpg stumbled over the last bytes of a COPY that was given up: why it was is said by whoever did."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, AttributeError) and "asyncpg.protocol" in record.getMessage())


def mask_secrets(text: str) -> str:
    """The text without anything that looks like a password, a key or a token."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\1{MASK}", text)
    return text


def explain(error: BaseException) -> tuple[str, str]:
    """What an exception says, and what to do about it (empty where it does not say), on one line each.

    Of a group of exceptions, what each of them says.
    """
    parts = [_explain_one(inner) for inner in _inner(error)]
    messages = dict.fromkeys(message for message, _ in parts)
    hints = dict.fromkeys(hint for _, hint in parts if hint)
    return "; ".join(messages), "; ".join(hints)


def _inner(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _inner(inner)
    else:
        yield error


def _explain_one(error: BaseException) -> tuple[str, str]:
    if hasattr(error, "message") and hasattr(error, "hint"):
        return _one_line(str(error.message)), _one_line(error.hint or "")
    # The text of an exception we do not know may say little without its type.
    return _one_line(f"{type(error).__name__}: {error}").removesuffix(":"), ""


def _one_line(text: str) -> str:
    return mask_secrets(" ".join(text.split()))


def _before_rendering() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _say_error,
        _mask,
    ]


def _rendering(form: Format, stream: TextIO) -> list[Processor]:
    if form == "console":
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    return [_lead, structlog.processors.JSONRenderer()]


def _lead(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put first what every line has."""
    return {name: event.get(name) for name in ("timestamp", "level", "event")} | dict(event)


def _say_error(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replace an exception by what it says."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if not isinstance(error, BaseException):
        return event
    message, hint = explain(error)
    event.setdefault("error", message)
    if hint:
        event.setdefault("hint", hint)
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        event["traceback"] = "".join(traceback.format_exception(error))
    return event


def _mask(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: object, value: object) -> object:
    if isinstance(name, str) and _SECRET_NAME.search(name) and value is not None:
        return MASK
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {key: _masked(key, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(None, inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return mask_secrets(str(value))
