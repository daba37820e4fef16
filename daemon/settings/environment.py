"""Where settings come from: environment variables, a `.env` file, and files named by `<NAME>_FILE`.

Gathers texts by name and refuses names it does not know, which pydantic-settings overlooks in the
environment. No problem reported here repeats a value.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream

PREFIX = "ROWVAULT_"
NESTED = "__"
_FILE = "_FILE"
# Kubernetes sets these in every pod beside a service called `rowvault`.
_KUBERNETES = re.compile(r"PORT$|PORT_|SERVICE_")


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found: texts by full name (empty ones too), and a line for each thing that is wrong."""

    values: Mapping[str, str]
    problems: tuple[str, ...]


class _GatherError(Exception):
    """One line that says what is wrong."""


def full_name(*path: str) -> str:
    """The name by which a setting is given: `ROWVAULT_S3__BUCKET` for `s3`, `bucket`."""
    return PREFIX + NESTED.join(path).upper()


def gather(names: Collection[str], environ: Mapping[str, str], dotenv: Path | None) -> Gathered:
    """Look for the settings called `names`; what the environment says stands above the `.env` file."""
    try:
        given = (_read_dotenv(dotenv) if dotenv else {}) | dict(environ)
    except _GatherError as problem:
        return Gathered({}, (str(problem),))
    problems = [line for name in _ours(given) if (line := _unknown(name, given[name], names))]
    values: dict[str, str] = {}
    for name in names:
        try:
            value = _value(name, given)
        except _GatherError as problem:
            problems.append(str(problem))
        else:
            values |= {} if value is None else {name: value}
    return Gathered(values, tuple(problems))


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(parse_stream(file))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _GatherError(f"{path}: cannot be read: {_reason(error)}") from None
    for line in lines:
        if line.error:
            number = line.original.line + line.original.string.count("\n", 0, 1)
            raise _GatherError(f"{path}: line {number} is not of the form NAME=value")
    return {line.key: line.value or "" for line in lines if line.key}


def _ours(given: Mapping[str, str]) -> list[str]:
    """The names that are meant for this program, also where their case is wrong."""
    return sorted(
        name for name in given if name.upper().startswith(PREFIX) and not _KUBERNETES.match(name.removeprefix(PREFIX))
    )


def _unknown(name: str, value: str, names: Collection[str]) -> str | None:
    """What is wrong with a name, or None if it is a setting's."""
    if name in names or (name.endswith(_FILE) and name.removesuffix(_FILE) in names):
        return None
    known = [*names, *(other + _FILE for other in names)]
    nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0)[0]
    return f"{name}: is not a setting; the nearest is {nearest}"


def _value(name: str, given: Mapping[str, str]) -> str | None:
    """A setting's text, from itself or from the file that `<NAME>_FILE` names; None if neither is given."""
    path = given.get(name + _FILE, "").strip()
    if not path:
        return given.get(name)
    if given.get(name, "").strip():
        raise _GatherError(f"{name}: is set twice, here and by {name}{_FILE}; remove one of them")
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise _GatherError(f"{name}{_FILE}: cannot read {path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return error.strerror or "I/O error" if isinstance(error, OSError) else "it is not UTF-8 text"
