"""What people are told, wherever in the code it stands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from daemon.settings.environment import PREFIX
from daemon.settings.load import describe_settings
from tests.programs import ROOT

SETTINGS = "|".join(sorted((one.name.removeprefix(PREFIX) for one in describe_settings()), key=len, reverse=True))
# What is all of a text is a key, not a message. ALL TABLES is SQL.
BARE = re.compile(rf"(?<![A-Z_-])(?<!ALL )(?:{SETTINGS})(?![A-Z_])")


def texts(node: ast.AST) -> Iterator[str]:
    """Every text in the code, the gaps of f-strings taken for the prefix."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(one.value) if isinstance(one, ast.Constant) else PREFIX for one in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isupper():
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def bare_names(path: Path) -> list[str]:
    return [text for text in texts(ast.parse(path.read_text("utf-8"))) if BARE.search(text)]


def test_a_setting_is_always_named_in_full() -> None:
    files = [path for package in ("daemon", "jobs", "storage") for path in sorted((ROOT / package).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): names for path in files if (names := bare_names(path))}
    assert found == {}
