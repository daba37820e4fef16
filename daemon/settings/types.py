"""Kinds of settings: each reads a person's text into a value, or says what would be right.

Every ValueError raised here reads on after the setting's name, and never repeats the text.
"""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, SecretStr

from daemon.cron import parse_cron
from daemon.settings.durations import parse_duration, parse_size
from daemon.settings.environment import full_name
from jobs.exporting.plan import Format
from storage.age import BadKey, Recipients

# A comma followed by an even number of double quotes lies outside them.
_COMMA = re.compile(r',(?=[^"]*(?:"[^"]*"[^"]*)*$)')


_ASLEEP = ("GLACIER", "DEEP_ARCHIVE")


def _patterns(text: str) -> tuple[str, ...]:
    if text.count('"') % 2:
        raise ValueError("has a double quote that is not closed")
    items = tuple(item.strip() for item in _COMMA.split(text))
    if not all(items):
        raise ValueError("has an empty pattern between commas")
    return items


def _database_url(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with postgresql:// or postgres://")
    try:
        url = urlsplit(text)
        # urllib cannot read the ports of several hosts, which libpq allows.
        usable = "," in url.netloc or url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "cannot be read: in its user and password, write @ : / ? # [ ] and % percent-encoded (@ is %40)"
        )
    return secret


def _endpoint_url(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be an address such as https://s3.example.org:9000")
    if url.username is not None or url.password is not None:
        raise ValueError(
            f"must not hold credentials: they go into {full_name('s3', 'access_key_id')}"
            f" and {full_name('s3', 'secret_access_key')}"
        )
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _recipients(text: str) -> Recipients:
    try:
        return Recipients.parse(text)
    except BadKey as error:
        raise ValueError(f"{error.message}: {error.hint}") from None


def _formats(text: str) -> tuple[str, ...]:
    found = _names(text.lower())
    if not set(found) <= set(get_args(Format)):
        raise ValueError(f"must be some of {', '.join(get_args(Format))}, comma-separated")
    return tuple(dict.fromkeys(found))


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        if name != "UTC":
            raise ValueError("must be a time zone this machine knows, such as UTC or Europe/Berlin") from None
    return name


def _schedule(text: str) -> str:
    if text.strip().lower() in ("", "off"):
        return ""
    parse_cron(text)
    return text.strip()


def _storage_class(text: str) -> str:
    if text in _ASLEEP:
        raise ValueError("must be a class that can be read at once, for backups are verified: such as GLACIER_IR")
    if not re.fullmatch(r"[A-Za-z0-9_]+", text):
        raise ValueError("must be the name of a storage class, such as STANDARD_IA")
    return text


def _quality_checks(text: str) -> tuple[str, ...]:
    return tuple(_json_list(text, str, "must be a JSON list of SQL statements"))


def _role_checks(text: str) -> tuple[tuple[str, str], ...]:
    wanted = 'must be a JSON list of {"role": …, "sql": …}'
    checks = _json_list(text, dict, wanted)
    if not all(check.keys() == {"role", "sql"} and all(isinstance(v, str) for v in check.values()) for check in checks):
        raise ValueError(wanted)
    return tuple((check["role"], check["sql"]) for check in checks)


def _json_list(text: str, kind: type, wanted: str) -> list[Any]:
    try:
        items = json.loads(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise ValueError(wanted)
    return items


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def whole(low: int, high: int) -> BeforeValidator:
    """Whole numbers within bounds, both included."""

    def parse(text: str) -> int:
        if not (text.strip().isdecimal() and len(text) < 10 and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return _from_text(parse)


AgeRecipients = Annotated[Recipients, _from_text(_recipients)]
Count = Annotated[int, whole(0, 100_000)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Duration = Annotated[timedelta, _from_text(parse_duration)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]
ExportFormats = Annotated[tuple[Format, ...], _from_text(_formats)]
Names = Annotated[tuple[str, ...], _from_text(_names)]
Patterns = Annotated[tuple[str, ...], _from_text(_patterns)]
Prefix = Annotated[str, AfterValidator(lambda text: text.strip("/"))]
QualityChecks = Annotated[tuple[str, ...], _from_text(_quality_checks)]
RoleChecks = Annotated[tuple[tuple[str, str], ...], _from_text(_role_checks)]
Schedule = Annotated[str, _from_text(_schedule)]
AS_SIZE = _from_text(parse_size)
Size = Annotated[int, AS_SIZE]
StorageClass = Annotated[str, AfterValidator(_storage_class)]
ZoneName = Annotated[str, AfterValidator(_zone)]
