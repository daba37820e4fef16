"""COPY text as JSON, an object for each row: an array of them, or a line each (https://jsonlines.org).

Numbers are numbers where every reader holds them exactly, that is, as a double does; else they are strings of the same
digits, and so are NaN and Infinity. Timestamps are ISO 8601, `json` and `jsonb` stay what they are, arrays and vectors
are arrays, and all else is the text that PostgreSQL writes. Values are made a column of a chunk at a time.
"""

import json
import re
from collections.abc import Callable, Sequence

from jobs.exporting.copy_lines import columns_of
from jobs.exporting.types import DOCUMENTS, FLOATS, INTEGERS, TEXTS, VECTOR, ColumnType
from jobs.postgres.copy_text import unescaped_bytes

Values = list[bytes]
NULL = b"\\N"
EXACT_DIGITS = 15  # a double holds any number of so many digits
EXACT_LENGTH = 100  # and of this order, far from where doubles end
EXACT_INTEGER = 2**53 - 1
_NO_DIGITS = frozenset({b"NaN", b"Infinity", b"-Infinity"})

_DECIMAL = frozenset({"numeric"}) | FLOATS | INTEGERS
_STAMPS = frozenset({"timestamp without time zone", "timestamp with time zone"})
_LISTED = _DECIMAL | TEXTS | DOCUMENTS | _STAMPS | {"boolean", "uuid", "date"}
# JSON writes bytes below the space by their numbers; the others of them COPY escapes just as JSON does.
_CONTROLS = {bytes((byte,)): b"\\u%04x" % byte for byte in range(1, 0x20) if bytes((byte,)) not in b"\b\t\n\v\f\r"}
_OTHERS = bytes(byte for byte in range(256) if bytes((byte,)) not in _CONTROLS)


class JsonRows:
    """Implements `jobs.exporting.files.Formatter`. `lines`: no array, a line for each row."""

    def __init__(self, names: Sequence[str], types: Sequence[ColumnType], *, lines: bool) -> None:
        keys = [json.dumps(name, ensure_ascii=False).encode().replace(b"%", b"%%") for name in names]
        self._row = b"{" + b",".join(key + b":%b" for key in keys) + b"}"
        self._encoders = [encoder_of(one) for one in types]
        self._lines = lines
        self._first = True

    def begin(self) -> bytes:
        """What stands before all rows."""
        return b"" if self._lines else b"["

    def rows(self, lines: bytes) -> bytes:
        """Whole lines of COPY text."""
        if self._encoders:
            columns = columns_of(lines, len(self._encoders))
            values = [encode(column) for encode, column in zip(self._encoders, columns, strict=True)]
            rows = [self._row % row for row in zip(*values, strict=True)]
        else:
            rows = [b"{}"] * lines.count(b"\n")
        text = (b"\n" if self._lines else b",\n").join(rows)
        if self._lines:
            return text + b"\n"
        before, self._first = b"\n" if self._first else b",\n", False
        return before + text

    def end(self) -> bytes:
        """What stands after all rows."""
        return b"" if self._lines else b"\n]\n"


def encoder_of(kind: ColumnType) -> Callable[[Values], Values]:
    """What makes JSON of a column's fields."""
    if kind.array:
        return _arrays(kind.element) if kind.base in _LISTED else texts
    if kind.base in INTEGERS:
        return _integers
    if kind.base in FLOATS:
        return _floats
    if kind.base in DOCUMENTS:
        return _documents
    if kind.base in _STAMPS:
        return _timestamps
    return {"numeric": _numerics, "boolean": _booleans, VECTOR: _documents}.get(kind.base, texts)


def texts(values: Values) -> Values:
    """Strings. What COPY escapes, JSON escapes likewise, but for the vertical tab."""
    text = b"\t".join(values)
    if b"\\" in text:
        text = text.replace(b"\\\\", b"\0").replace(b"\\v", b"\\u000b")
    text = text.replace(b'"', b'\\"')
    for byte in set(text.translate(None, _OTHERS)):
        text = text.replace(bytes((byte,)), _CONTROLS[bytes((byte,))])
    text = b'"' + text.replace(b"\t", b'"\t"') + b'"'
    return text.replace(b'"\\N"', b"null").replace(b"\0", b"\\\\").split(b"\t")


def _each(function: Callable[[bytes], bytes]) -> Callable[[Values], Values]:
    return lambda values: [b"null" if value == NULL else function(value) for value in values]


def _integers(values: Values) -> Values:
    if max(map(len, values)) > EXACT_DIGITS:
        return _each(_integer)(values)
    return b"\t".join(values).replace(NULL, b"null").split(b"\t")


def _integer(value: bytes) -> bytes:
    return value if abs(int(value)) <= EXACT_INTEGER else b'"%b"' % value


def _numerics(values: Values) -> Values:
    if max(map(len, values)) > EXACT_DIGITS or not _NO_DIGITS.isdisjoint(values):
        return _each(_numeric)(values)
    return b"\t".join(values).replace(NULL, b"null").split(b"\t")


def _numeric(value: bytes) -> bytes:
    exact = len(value.replace(b".", b"").lstrip(b"-0")) <= EXACT_DIGITS and len(value) <= EXACT_LENGTH
    return value if exact and value[-1:].isdigit() else b'"%b"' % value


def _floats(values: Values) -> Values:
    text = b"\t".join(values)
    if b"a" in text or b"I" in text:
        return _each(_float)(values)
    return text.replace(NULL, b"null").split(b"\t")


def _float(value: bytes) -> bytes:
    return value if value[-1:].isdigit() else b'"%b"' % value


def _booleans(values: Values) -> Values:
    text = b"\t".join(values)
    return text.replace(b"t", b"true").replace(b"f", b"false").replace(NULL, b"null").split(b"\t")


def _documents(values: Values) -> Values:
    """Line ends and tabs can only lie between what a document holds: they become spaces, and a row stays a line."""
    text = b"\t".join(values)
    if b"\\" in text:
        text = text.replace(b"\\\\", b"\0")
        for between in (b"\\n", b"\\r", b"\\t"):
            text = text.replace(between, b" ")
        text = text.replace(NULL, b"null").replace(b"\0", b"\\")
    return text.split(b"\t")


def _timestamps(values: Values) -> Values:
    text = b"\t".join(values)
    if b"B" in text or b"i" in text:  # before Christ, or infinity
        return _each(_timestamp)(values)
    return texts(text.replace(b" ", b"T").replace(b"+00", b"+00:00").split(b"\t"))


def _timestamp(value: bytes) -> bytes:
    if b"B" in value or b"i" in value:
        return b'"%b"' % value
    return b'"%b"' % value.replace(b" ", b"T").replace(b"+00", b"+00:00")


_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"|([{},])|([^{},"]+)', re.DOTALL)
_BRACKETS = {b"{": b"[", b"}": b"]", b",": b","}


def _arrays(kind: ColumnType) -> Callable[[Values], Values]:
    """An array whose bounds are not those that every array has at first stays text."""
    encode = _element_of(kind)

    def element(match: re.Match[bytes]) -> bytes:
        quoted, mark, bare = match.groups()
        if mark is not None:
            return _BRACKETS[mark]
        if bare is not None:
            return b"null" if bare == b"NULL" else encode(bare)
        return encode(re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL))

    def array(value: bytes) -> bytes:
        plain = unescaped_bytes(value)
        return _TOKEN.sub(element, plain) if plain.startswith(b"{") else _string(plain)

    return _each(array)


def _element_of(kind: ColumnType) -> Callable[[bytes], bytes]:
    """What makes JSON of one value that nothing is escaped in."""
    if kind.base in INTEGERS:
        return _integer
    if kind.base == "numeric":
        return _numeric
    if kind.base in FLOATS:
        return _float
    if kind.base == "boolean":
        return lambda value: b"true" if value == b"t" else b"false"
    if kind.base in _STAMPS:
        return _timestamp
    if kind.base in DOCUMENTS:
        return lambda value: value.replace(b"\n", b" ").replace(b"\r", b" ")
    return _string


def _string(value: bytes) -> bytes:
    return json.dumps(value.decode(), ensure_ascii=False).encode()
