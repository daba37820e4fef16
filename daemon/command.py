"""How every command runs: on a loop of its own, ending with an exit code whatever happened."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import typer
import uvloop

from daemon.app import App, open_app
from daemon.logs import configure_logs
from daemon.outcomes import Stopped, describe, exit_code
from daemon.output.console import print_error, print_json
from daemon.settings.load import load_settings

Work = Callable[[App], Coroutine[Any, Any, int]]


def with_app(work: Work, *, as_json: bool) -> None:
    """Run a command's work on an application made of the settings, and exit with its code."""

    async def opened() -> int:
        loaded = load_settings()
        configure_logs("warning", loaded.log_format)
        async with open_app(loaded) as app:
            return await work(app)

    finish(opened, as_json=as_json)


def finish(work: Callable[[], Coroutine[Any, Any, int]], *, as_json: bool) -> None:
    """Run work to its end on a loop, and exit with the code it returns, or with its error's."""
    raise typer.Exit(guarded(lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_stoppable(work)), as_json))


async def _stoppable(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """SIGTERM cancels the work, as Ctrl-C does, so that it cleans up; a command may take the signal over."""
    task = asyncio.ensure_future(work())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def guarded(call: Callable[[], int], as_json: bool) -> int:
    """Whatever goes wrong becomes a message, a hint and an exit code; never a traceback."""
    try:
        return call()
    except (KeyboardInterrupt, asyncio.CancelledError):
        error: BaseException = Stopped()
    except typer.Exit as done:
        return done.exit_code
    except Exception as failure:  # noqa: BLE001 - the last frame before the user
        error = failure
    described = describe(error)
    if as_json:
        print_json({"error": described})
    else:
        print_error(described)
    return exit_code(error)
