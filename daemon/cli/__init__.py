"""The `rowvault` command: one thin function a command. Exit codes and JSON keys are a contract with scripts."""

import sys
from functools import partial

from daemon.cli import process, backups, recovery, places, exports, erasing  # isort: skip - the order of --help
from daemon.cli.shared import cli, flowing
from daemon.command import guarded
from daemon.outcomes import DONE

__all__ = ["backups", "cli", "erasing", "exports", "main", "places", "process", "recovery"]

for _command in cli.registered_commands:
    _command.help = flowing(_command.callback)


def main() -> None:
    """The entry point."""
    arguments = sys.argv[1:] or ["--help"]
    command = partial(cli, arguments, prog_name="rowvault", standalone_mode=False)
    sys.exit(guarded(lambda: command() or DONE, "--json" in arguments))
