"""COPY text as CSV with a header, as `COPY … (FORMAT csv, HEADER)` reads it: RFC 4180; NULL is nothing, unquoted."""

from collections.abc import Sequence

# Whatever is not NULL is quoted, so that what is in it need not be looked at. A zero byte cannot be in COPY text.
_BACKSLASH = b"\0"
_ESCAPED = ((b"\\n", b"\n"), (b"\\t", b"\t"), (b"\\r", b"\r"), (b"\\b", b"\b"), (b"\\f", b"\f"), (b"\\v", b"\v"))


class CsvRows:
    """Implements `jobs.exporting.files.Formatter`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def begin(self) -> bytes:
        """The header."""
        return ",".join('"' + name.replace('"', '""') + '"' for name in self._names).encode() + b"\n"

    def rows(self, lines: bytes) -> bytes:
        """Whole lines of COPY text."""
        if not self._names:
            return lines
        escapes = b"\\" in lines
        if escapes:
            lines = lines.replace(b"\\\\", _BACKSLASH)
        lines = lines.replace(b'"', b'""').replace(b"\t", b'","').replace(b"\n", b'"\n"')
        lines = b'"' + lines[:-1]
        return _unescaped(lines) if escapes else lines

    def end(self) -> bytes:
        """Nothing."""
        return b""


def _unescaped(quoted: bytes) -> bytes:
    quoted = quoted.replace(b'"\\N"', b"")
    for escape, byte in _ESCAPED if b"\\" in quoted else ():
        quoted = quoted.replace(escape, byte)
    return quoted.replace(_BACKSLASH, b"\\")
