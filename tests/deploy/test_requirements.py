"""The pinned requirements: complete, hashed, and the same wherever they are installed from."""

import re
import tomllib

import pytest

from tests.programs import ROOT

FILES = ("requirements.txt", "requirements-dev.txt")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)((?: ;.*)?) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def pins(file: str) -> dict[str, str]:
    return {name: version for name, version, _, _ in PIN.findall((ROOT / file).read_text())}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!;\[]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


@pytest.mark.parametrize("file", FILES)
def test_they_name_no_address(file: str) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", (ROOT / file).read_text())


@pytest.mark.parametrize("file", FILES)
def test_every_line_is_a_pin_with_hashes(file: str) -> None:
    text = (ROOT / file).read_text()
    rest = [line for line in PIN.sub("", text).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert rest == []


def test_they_pin_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert names(project["dependencies"]) <= pins("requirements.txt").keys()
    assert names([*extras["embedded"], *extras["dev"]]) <= pins("requirements-dev.txt").keys()


def test_tests_run_on_the_versions_that_are_deployed() -> None:
    assert pins("requirements.txt").items() <= pins("requirements-dev.txt").items()
