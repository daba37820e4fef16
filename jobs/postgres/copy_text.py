"""COPY's text format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS-TEXT"""

import re

ESCAPES = {
    ord(b"\\"): b"\\\\",
    ord(b"\b"): b"\\b",
    ord(b"\f"): b"\\f",
    ord(b"\n"): b"\\n",
    ord(b"\r"): b"\\r",
    ord(b"\t"): b"\\t",
    ord(b"\v"): b"\\v",
}


def escaped(text: str) -> bytes:
    """A value as COPY TO writes it, given the text that its type's output function makes."""
    return b"".join(ESCAPES.get(byte) or bytes((byte,)) for byte in text.encode())


_UNESCAPED = {escape[1:]: bytes((byte,)) for byte, escape in ESCAPES.items()}


def unescaped(field: bytes) -> str:
    """The value of a field that is not NULL; bytes that are no UTF-8 (a database may be SQL_ASCII) show as `\\x..`."""
    return unescaped_bytes(field).decode(errors="backslashreplace")


def unescaped_bytes(field: bytes) -> bytes:
    """The bytes of a field that is not NULL."""
    return re.sub(rb"\\(.)", lambda escape: _UNESCAPED[escape[1]], field, flags=re.DOTALL)
