import asyncio
import os
import pty
import sys
from collections.abc import Iterator

import pytest

from daemon.cli.shared import confirmed


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of the terminal that is stdin."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


@pytest.mark.parametrize(("typed", "answer"), [("y", True), ("Yes", True), ("n", False), ("", False), ("yep", False)])
async def test_only_a_yes_is_a_yes(terminal: int, typed: str, answer: bool) -> None:
    os.write(terminal, typed.encode() + b"\n")
    assert await confirmed("Restore now?", as_json=False) is answer


async def test_the_end_of_input_is_a_no(terminal: int) -> None:
    os.write(terminal, b"\x04")
    assert await confirmed("Restore now?", as_json=False) is False


async def test_while_a_question_is_open_everything_else_goes_on(terminal: int) -> None:
    question = asyncio.create_task(confirmed("Restore now?", as_json=False))
    for _ in range(3):
        await asyncio.sleep(0)  # were the loop to wait for an answer, it would never come here to give one
    assert not question.done()
    os.write(terminal, b"y\n")
    assert await question
