"""What stands in a row that stays without what tells of whom it is: NULL where that may be, else something neutral."""

import re
from collections.abc import Collection
from typing import Literal

from jobs.erasing.foreign_keys import Declared
from jobs.erasing.marks import Substitute
from jobs.erasing.subject import Found
from jobs.errors import UnsafeTarget
from jobs.postgres.identifiers import readable

NULL = "\\N"

_NEUTRAL = {
    "text": "",
    "character varying": "",
    "character": "",
    "name": "",
    "smallint": "0",
    "integer": "0",
    "bigint": "0",
    "numeric": "0",
    "real": "0",
    "double precision": "0",
    "money": "$0.00",
    "boolean": "f",
    "date": "1970-01-01",
    "timestamp without time zone": "1970-01-01 00:00:00",
    "timestamp with time zone": "1970-01-01 00:00:00+00",
    "time without time zone": "00:00:00",
    "time with time zone": "00:00:00+00",
    "interval": "00:00:00",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "json": "{}",
    "jsonb": "{}",
    "bytea": "\\\\x",
    "inet": "::",
    "cidr": "::/128",
    "tsvector": "",
}
_UNIQUE: dict[str, Literal["text", "number", "uuid"]] = {
    "text": "text",
    "character varying": "text",
    "integer": "number",
    "bigint": "number",
    "numeric": "number",
    "uuid": "uuid",
}
_MADE_LENGTH = 27


def substitutes(found: Found, declaration: Declared, stays: Collection[str]) -> tuple[Substitute, ...]:
    """What stands for each column of a table's rows, but for those that stay: its keys, and what others point to.

    Raises `UnsafeTarget`, naming the column, where nothing neutral is known of its type, or a check may be against it.
    """
    made = []
    for column in found.types:
        if column not in stays:
            kinds = found.types_of(column)
            first, *others = {_substitute(found, declaration, column, kind) for kind in kinds}
            if others:
                raise _refused(found, column, f"its type was {kinds[0]}, and is {kinds[-1]}")
            made.append(first)
    return tuple(made)


def _substitute(found: Found, declaration: Declared, column: str, kind: str) -> Substitute:
    if column not in declaration.not_null:
        return Substitute(column, NULL)
    if declaration.checked(column):
        raise _refused(found, column, "a check is about it")
    base, limit = _parsed(kind)
    if column in declaration.unique:
        unique = _UNIQUE.get(base)
        if unique is None or (limit is not None and limit < _MADE_LENGTH):
            raise _refused(found, column, f"it is unique, and nothing can be made up for {kind}")
        return Substitute(column, "", unique)
    if kind.endswith("[]"):
        return Substitute(column, "{}")
    if base == "vector" and limit:
        return Substitute(column, f"[{','.join('0' * limit)}]")
    if base not in _NEUTRAL:
        raise _refused(found, column, f"nothing neutral is known for {kind}")
    return Substitute(column, _NEUTRAL[base])


def _parsed(kind: str) -> tuple[str, int | None]:
    """A type without its limits, and the first of these; its schema aside, where an extension has one."""
    match = re.fullmatch(
        r"(?:[^.(]+\.)?(?P<base>[^.(]+?)(?:\((?P<limit>\d+)[^)]*\))?(?P<rest> [a-z ]+)?(?:\[\])*", kind
    )
    if match is None:
        return kind, None
    return match["base"] + (match["rest"] or ""), int(match["limit"]) if match["limit"] else None


def _refused(found: Found, column: str, why: str) -> UnsafeTarget:
    return UnsafeTarget(
        f"--children anonymise: column {readable(column)} of {found.table} must hold something, and {why}",
        "choose --children cascade or null",
    )
