"""What the commands have in common: the program they belong to, their options, and how they say what they did."""

import asyncio
import inspect
import re
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from daemon.app import App
from daemon.output.console import err, out, print_error, print_json, warn
from daemon.recording import Recorder, person

cli = typer.Typer(
    name="rowvault",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Backs up PostgreSQL tables, proves every backup by reading it back, and brings it back.",
    epilog="Settings come from the environment and a .env file, as ROWVAULT_DATABASE_URL and others: see `rowvault"
    " settings`. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 a difference was found, 4 not found,"
    " 5 refused for safety.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Backup = Annotated[str, typer.Argument(metavar="BACKUP", help="A backup's id, or: latest.")]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="Bind the repository to this database, which took the place of another.")
]


def flowing(command: Callable[..., object] | None) -> str:
    """A command's docstring as its help: paragraphs as wide as the terminal, indented lines as they are."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(re.sub(r"\n(?! )", " ", paragraph) for paragraph in paragraphs)


def recorder(app: App) -> Recorder:
    """What writes the trail and the log for a command that a person gave."""
    return app.recorder(person(), warn)


def say(as_json: bool, document: object, text: str) -> None:
    """A result: one JSON document for scripts, a sentence for people."""
    if as_json:
        print_json(document)
    else:
        out.print(text)


async def confirmed(question: str, as_json: bool) -> bool:
    """Ask on the terminal; without one, say that --yes is needed. Whoever takes an hour to answer keeps the leases."""
    if as_json or not sys.stdin.isatty():
        error = {"message": "this needs a yes, and there is no terminal to ask on", "hint": "say --yes"}
        print_json({"error": error}) if as_json else print_error(error)
        return False
    err.print(f"{question} [y/N]: ", end="")
    if (await _typed()).strip().lower() in {"y", "yes"}:
        return True
    err.print("nothing was done")
    return False


async def _typed() -> str:
    """A line, once it is typed: a terminal gives whole lines, and the loop goes on until there is one."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sys.stdin)
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        err.print()
    return line
