"""The README says what is true."""

import re
from pathlib import Path

from daemon.cli import cli
from daemon.settings.load import describe_settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_is_the_settings() -> None:
    rows = [
        f"| `{one.name}` | {f'`{one.default}`' if one.default else ''} | {one.meaning} |" for one in describe_settings()
    ]

    table = re.search(r"<!-- settings:.*?-->\n(.*?)<!-- end of settings -->", README, re.DOTALL)

    assert table is not None
    assert table[1].splitlines()[2:] == rows


def test_every_command_it_names_exists() -> None:
    named = set(
        re.findall(
            r"`(?:rowvault )?(\w+)(?: \[?BACKUP\]?)?(?: --to DSN)?`", README.split("| command |")[1].split("\n\n")[0]
        )
    )
    named |= set(re.findall(r"^rowvault (\w+)", README, re.MULTILINE))

    known = {command.name or command.callback.__name__ for command in cli.registered_commands if command.callback}

    assert named
    assert named <= known
