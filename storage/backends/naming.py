"""Which names a backend takes: the alphabet is the protocol's, the check every backend's."""

import re

from storage.errors import Refused

_COMPONENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~=-]+"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_PREFIX = re.compile(rf"(?:{_COMPONENT}/)*[A-Za-z0-9._~=-]*")


def is_name(text: str) -> bool:
    """Whether an object can be called that; what else lies about in a folder or bucket is not ours."""
    return _NAME.fullmatch(text) is not None


def require_name(name: str) -> str:
    """The name itself. Raises `Refused` if no object can be called that, as with one that leaves the root."""
    if not is_name(name):
        raise Refused(f"{name!r} is not an object name", "Make names with storage.names.")
    return name


def require_prefix(prefix: str) -> str:
    """The prefix itself. Raises `Refused` if no object's name can start like that."""
    if _PREFIX.fullmatch(prefix) is None:
        raise Refused(f"{prefix!r} is not the start of an object name", "Make names with storage.names.")
    return prefix
