"""Logs: what a line holds, and what it never holds."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from daemon.logs import Format, configure_logs, explain, mask_secrets
from storage.errors import Unavailable


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Log:
    """Logs written as configured, read back."""

    def __init__(self, level: str = "info", form: Format | None = "json") -> None:
        self._stream = io.StringIO()
        configure_logs(level, form, self._stream)
        self.own = structlog.get_logger()

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def test_a_line_is_json_with_timestamp_level_and_event_first() -> None:
    log = Log()
    log.own.info("backup committed", rows=5)
    [line] = log.lines
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["rows"]) == ("info", "backup committed", 5)


def test_that_a_copy_was_given_up_is_not_said_by_asyncio() -> None:
    log = Log()
    asyncio_says = logging.getLogger("asyncio").error
    stumbled = AttributeError("'NoneType' object has no attribute 'cancelled'")
    asyncio_says("Fatal error on transport\nprotocol: <asyncpg.protocol.protocol.Protocol>", exc_info=stumbled)
    asyncio_says("Fatal error on transport\nprotocol: <asyncpg.protocol.protocol.Protocol>", exc_info=OSError("gone"))
    assert [line["error"] for line in log.lines] == ["OSError: gone"]


def test_what_is_bound_to_the_context_is_in_every_line_of_others_too() -> None:
    log = Log()
    with structlog.contextvars.bound_contextvars(job="daily-full", backup="b1", table="public.a", part=3):
        log.own.info("part copied")
        logging.getLogger("some.library").warning("slow %s", "answer")
    own, foreign = log.lines
    for line in (own, foreign):
        assert (line["job"], line["backup"], line["table"], line["part"]) == ("daily-full", "b1", "public.a", 3)
    assert (foreign["event"], foreign["logger"]) == ("slow answer", "some.library")


def test_lines_below_the_level_are_left_out() -> None:
    log = Log("warning")
    log.own.info("quiet")
    logging.getLogger("some.library").info("quiet")
    assert log.lines == []


def test_each_step_of_the_scheduler_library_is_left_out() -> None:
    log = Log()
    logging.getLogger("apscheduler.executors.default").info("Running job")
    logging.getLogger("apscheduler.scheduler").warning("odd")
    assert [line["event"] for line in log.lines] == ["odd"]


def test_warnings_become_lines() -> None:
    log = Log()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Capturing is switched off while warnings are caught; a library's warning comes without that.
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    [line] = log.lines
    assert "DeprecationWarning: old" in line["event"]


def test_console_lines_are_for_people() -> None:
    log = Log(form="console")
    log.own.info("backup committed", rows=5)
    assert "backup committed" in log.text
    assert "rows=5" in log.text
    assert "\x1b" not in log.text


def test_without_a_terminal_the_default_is_json() -> None:
    log = Log(form=None)
    log.own.info("hello")
    assert log.lines[0]["event"] == "hello"


def test_an_exception_becomes_error_and_hint_without_traceback() -> None:
    log = Log()
    log.own.error("copy failed", exc_info=Unavailable("the bucket did not answer", "look at the network"))
    [line] = log.lines
    assert (line["level"], line["error"], line["hint"]) == (
        "error",
        "the bucket did not answer",
        "look at the network",
    )
    assert "Traceback" not in log.text


def test_an_exception_in_a_library_log_loses_its_traceback_too() -> None:
    log = Log()
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=KeyError("x"))
    [line] = log.lines
    assert line["error"] == "KeyError: 'x'"
    assert "Traceback" not in log.text


def test_at_level_debug_the_traceback_shows_masked() -> None:
    log = Log("debug")
    try:
        int("postgresql://app:hunter2@db/app")
    except ValueError:
        log.own.exception("failed")
    [line] = log.lines
    assert "Traceback" in line["traceback"]
    assert "hunter2" not in log.text


def test_a_group_of_exceptions_says_what_each_says_once() -> None:
    one, other = Unavailable("no answer", "wait"), ValueError("bad")
    assert explain(ExceptionGroup("group", [one, ExceptionGroup("inner", [other, one])])) == (
        "no answer; ValueError: bad",
        "wait",
    )


def test_a_message_of_several_lines_is_told_on_one() -> None:
    assert explain(ValueError("one\n  two")) == ("ValueError: one two", "")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://app:hunter2@db/app", "postgresql://app:***@db/app"),
        ("to postgres://app:hun@ter2@db:5432/app failed", "to postgres://app:***@db:5432/app failed"),
        ("redis://:hunter2@cache", "redis://:***@cache"),
        ("host=db password=hunter2 user=app", "host=db password=*** user=app"),
        ("host=db password='hun ter2' user=app", "host=db password=*** user=app"),
        ("?sslpassword=hunter2&x=1", "?sslpassword=***&x=1"),
        ("aws_secret_access_key = hunter2", "aws_secret_access_key = ***"),
        ("{'secret_key': 'hunter2', 'n': 1}", "{'secret_key': ***, 'n': 1}"),
        ('{"X-Amz-Security-Token": "hunter2"}', '{"X-Amz-Security-Token": ***}'),
        ("Authorization: AWS4 Credential=hunter2/x, Signature=hunter2", "Authorization: ***"),
        ("https://b.example/k?X-Amz-Signature=hunter2&y=1", "https://b.example/k?X-Amz-Signature=***&y=1"),
        ('password authentication failed for user "app"', 'password authentication failed for user "app"'),
        ("GET http://127.0.0.1:8080/metrics", "GET http://127.0.0.1:8080/metrics"),
    ],
)
def test_secrets_inside_texts_are_masked_and_the_rest_stays(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_values_under_telltale_names_are_masked_at_any_depth() -> None:
    log = Log()
    log.own.info("odd", password="hunter2", given={"session_token": "hunter2", "list": [{"api_key": "hunter2"}]})
    assert "hunter2" not in log.text
    assert log.lines[0]["password"] == "***"


def test_values_that_json_does_not_know_are_written_as_text_and_masked() -> None:
    log = Log()
    log.own.info("odd", error=ValueError("password=hunter2"))
    assert log.lines[0]["error"] == "password=***"


@pytest.mark.timeout(10)
def test_masking_a_long_text_takes_no_time() -> None:
    mask_secrets("a-" * 100_000 + "://" * 1000 + "secret" * 10_000)
