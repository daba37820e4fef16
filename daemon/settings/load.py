"""Reads settings: `environment` gathers the values, pydantic checks them.

`load_settings` says what is wrong in its own words, for pydantic's errors print the values, passwords included.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from daemon.settings.durations import format_duration, format_size
from daemon.settings.environment import PREFIX, full_name, gather
from daemon.settings.errors import SettingsError
from daemon.settings.model import Settings
from daemon.settings.types import (
    AS_SIZE,
)
from storage.age import BadKey, Keyring


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting as people read about it: full name, default as written (empty: unset), meaning."""

    name: str
    default: str
    meaning: str


def read_keyring(path: Path | None, named_by: str) -> Keyring:
    """The identities in the file that a setting or an option names, none without one. Raises `SettingsError`."""
    if path is None:
        return Keyring()
    try:
        return Keyring.read(path)
    except BadKey as error:
        raise SettingsError([f"{named_by}: {path}: {error.message}: {error.hint}"]) from None
    except OSError as error:
        raise SettingsError([f"{named_by}: cannot read {path}: {error.strerror or 'I/O error'}"]) from None


def load_settings(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Settings:
    """Read settings from the environment (by default the process's own) and, after it, from a `.env` file.

    Raises `SettingsError` with every problem found: unknown names, unreadable files, unusable values.
    """
    names = {full_name(*path): path for path, _ in _walk(Settings)}
    gathered = gather(names, os.environ if environ is None else environ, dotenv)
    # An empty schedule disables its job; anything else that is empty is unset.
    values = {name: v for name, v in gathered.values.items() if v.strip() or names[name][0] == "schedule"}
    try:
        settings = Settings(**_nested(values, names))
    except ValidationError as error:
        raise SettingsError([*gathered.problems, *_lines(error)]) from None
    if gathered.problems:
        raise SettingsError(gathered.problems)
    return settings


def describe_settings() -> tuple[SettingDescription, ...]:
    """Every setting with its default and meaning, in the order to read them."""
    return tuple(
        SettingDescription(full_name(*path), _written(field), field.description or "")
        for path, field in _walk(Settings)
    )


def _walk(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, (*above, name))
        else:
            yield (*above, name), field


def _written(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, int) and AS_SIZE in field.metadata:
        return format_size(default)
    if isinstance(default, timedelta):
        return format_duration(default)
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else str(default)


def _nested(values: Mapping[str, str], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = names[name]
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def _lines(error: ValidationError) -> Iterator[str]:
    """One line for each problem, made anew: pydantic's own text repeats the values."""
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        # A group's own check names its settings itself.
        yield message if message.startswith(PREFIX) else f"{full_name(*map(str, problem['loc']))}: {message}"
