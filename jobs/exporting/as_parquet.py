"""COPY text as Parquet, by pyarrow, a row group for each piece of text.

What a type of Parquet cannot hold (an infinite timestamp, a year before Christ, a numeric that is no number) is never
made another value: `Unfit` names the columns, and whoever writes the file begins it again with these as text.
"""

from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from jobs.exporting.files import Unfit
from jobs.exporting.types import FLOATS, VECTOR, ColumnType

BLOCK = 1024 * 1024
MOST_DIGITS = 38  # of a 128-bit decimal

_SIMPLE: Mapping[str, pa.DataType] = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "oid": pa.uint32(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "time without time zone": pa.time64("us"),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
_ITEMS = FLOATS | {"smallint", "integer", "bigint"}  # of arrays that become lists
_ESCAPED = (("\\b", "\b"), ("\\f", "\f"), ("\\n", "\n"), ("\\r", "\r"), ("\\t", "\t"), ("\\v", "\v"))


class ParquetRows:
    """Implements `jobs.exporting.files.Formatter`. Columns at the positions `as_text` are text."""

    def __init__(
        self,
        names: Sequence[str],
        types: Sequence[ColumnType],
        compression: str,
        as_text: frozenset[int] = frozenset(),
    ) -> None:
        self._columns = [_TEXT if position in as_text else column_of(kind) for position, kind in enumerate(types)]
        kept = [(name, column.type) for name, column in zip(names, self._columns, strict=True)]
        self._schema = pa.schema(kept)
        self._out = _Taken()
        self._writer = pq.ParquetWriter(self._out, self._schema, compression=compression)

    def begin(self) -> bytes:
        """The file's first bytes."""
        return self._out.take()

    def rows(self, lines: bytes) -> bytes:
        """Whole lines of COPY text, as a row group. Raises `Unfit`."""
        if self._columns:
            self._writer.write_table(self._table(lines))
        return self._out.take()

    def end(self) -> bytes:
        """The footer."""
        self._writer.close()
        return self._out.take()

    def _table(self, lines: bytes) -> pa.Table:
        types = [column.read_as for column in self._columns]
        try:
            found = _read(lines, types, BLOCK)
        except pa.ArrowInvalid:
            found = self._read_slowly(lines, types)
        made, unfit = [], []
        for position, column in enumerate(self._columns):
            try:
                made.append(column.finish(found.column(position)))
            except (pa.ArrowInvalid, ValueError):
                unfit.append(position)
        if unfit:
            raise Unfit(unfit)
        return pa.Table.from_arrays(made, schema=self._schema)

    def _read_slowly(self, lines: bytes, types: Sequence[pa.DataType]) -> pa.Table:
        """A line that is longer than a block, or a value that does not fit: which column it is in is tried out."""
        block = len(lines) + BLOCK
        unfit = [position for position in range(len(types)) if not _fits(lines, types, position, block)]
        if unfit:
            raise Unfit(unfit)
        return _read(lines, types, block)


def _fits(lines: bytes, types: Sequence[pa.DataType], position: int, block: int) -> bool:
    try:
        _read(lines, types, block, position)
    except pa.ArrowInvalid:
        return False
    return True


_HEAD = b"\n"  # a byte order mark at the very beginning would be taken for one, though it is a value's


def _read(lines: bytes, types: Sequence[pa.DataType], block: int, only: int | None = None) -> pa.Table:
    names = [str(position) for position in range(len(types))]
    return pcsv.read_csv(
        pa.py_buffer(_HEAD + lines),
        read_options=pcsv.ReadOptions(column_names=names, block_size=block, skip_rows=1),
        parse_options=pcsv.ParseOptions(
            delimiter="\t", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
        ),
        convert_options=pcsv.ConvertOptions(
            column_types=dict(zip(names, types, strict=True)),
            include_columns=[] if only is None else [str(only)],
            null_values=["\\N"],
            strings_can_be_null=True,
            true_values=["t"],
            false_values=["f"],
        ),
    )


class _Taken:
    """A file that is written to and taken from."""

    closed = False

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._length = 0

    def write(self, data: bytes) -> int:
        """Keep the bytes until they are taken."""
        self._blocks.append(bytes(data))
        self._length += len(data)
        return len(data)

    def tell(self) -> int:
        """How many bytes were written at all."""
        return self._length

    def take(self) -> bytes:
        """What was written since."""
        taken, self._blocks = b"".join(self._blocks), []
        return taken

    def writable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is not."""
        return False

    def seekable(self) -> bool:
        """It is not."""
        return False

    def flush(self) -> None:
        """There is nothing to."""

    def close(self) -> None:
        """Likewise."""


class _Column:
    """How a column is read out of COPY text, which type it is to have, and what makes that of what was read."""

    def __init__(
        self, type_: pa.DataType, read_as: pa.DataType, finish: Callable[[pa.ChunkedArray], pa.ChunkedArray]
    ) -> None:
        self.type = type_
        self.read_as = read_as
        self.finish = finish


def _as_read(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values


def _unescaped(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as it is, where COPY escaped any of it."""
    if not pc.any(pc.match_substring(values, "\\")).as_py():
        return values
    values = pc.replace_substring(values, "\\\\", "\0")
    for escape, character in _ESCAPED:
        values = pc.replace_substring(values, escape, character)
    return pc.replace_substring(values, "\0", "\\")


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes, of which COPY writes `\\\\x` and then their digits."""
    return pa.chunked_array([_from_hex(chunk) for chunk in values.chunks], pa.binary())


def _from_hex(values: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.divide(pc.subtract(pc.binary_length(values), len("\\\\x")), 2), 0)
    total = pc.cumulative_sum(pc.cast(lengths, pa.int64())).cast(pa.int32())
    ends = pa.concat_arrays([pa.array([0], pa.int32()), total])
    digits = _joined(pc.fill_null(values, b"")).replace(b"\\\\x", b"")
    made = pa.Array.from_buffers(pa.binary(), len(values), [None, ends.buffers()[1], pa.py_buffer(unhexlify(digits))])
    return pc.if_else(values.is_valid(), made, pa.scalar(None, pa.binary()))


def _joined(values: pa.Array) -> bytes:
    """All values of an array without NULLs, one after another, as they lie there."""
    _, offsets, data = values.buffers()
    ends = memoryview(offsets).cast("i")
    return bytes(memoryview(data)[ends[values.offset] : ends[values.offset + len(values)]]) if data else b""


def _identified(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """UUIDs."""
    kind = pa.uuid()
    return pa.chunked_array([kind.wrap_array(_uuids(chunk)) for chunk in values.chunks], kind)


def _uuids(values: pa.Array) -> pa.Array:
    digits = _joined(pc.fill_null(values, "0" * 32)).replace(b"-", b"")
    kind = pa.binary(16)
    made = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(unhexlify(digits))])
    return pc.if_else(values.is_valid(), made, pa.scalar(None, kind))


def _listed(item: pa.DataType, brackets: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of numbers. One in another, or with bounds of its own, is left as it is, and then is no number."""
    inner = pc.utf8_slice_codeunits(values, 1, -1)
    rest = pc.and_(pc.starts_with(values, brackets[0]), pc.ends_with(values, brackets[1]))
    if pc.all(rest).as_py() is False:  # None: all are NULL
        raise ValueError
    items = pc.if_else(pc.equal(inner, ""), pa.scalar([], pa.list_(pa.string())), pc.split_pattern(inner, ","))
    return pa.chunked_array([_items(chunk, item) for chunk in items.chunks], pa.list_(item))


def _items(lists: pa.ListArray, item: pa.DataType) -> pa.Array:
    flat = lists.values
    flat = pc.if_else(pc.equal(flat, "NULL"), pa.scalar(None, pa.string()), flat)
    return pa.ListArray.from_arrays(lists.offsets, pc.cast(flat, item), mask=lists.is_null())


_TEXT = _Column(pa.string(), pa.string(), _unescaped)


def column_of(kind: ColumnType) -> _Column:
    """How a column of that type goes into Parquet."""
    if kind.array:
        item = _SIMPLE.get(kind.base) if kind.base in _ITEMS else None
        return _Column(pa.list_(item), pa.string(), partial(_listed, item, "{}")) if item else _TEXT
    if kind.base == VECTOR:
        return _Column(pa.list_(pa.float32()), pa.string(), partial(_listed, pa.float32(), "[]"))
    if kind.base == "bytea":
        return _Column(pa.binary(), pa.binary(), _decoded)
    if kind.base == "uuid":
        return _Column(pa.uuid(), pa.string(), _identified)
    if kind.base == "numeric" and (exact := _decimal(kind.modifiers)) is not None:
        return _Column(exact, exact, _as_read)
    simple = _SIMPLE.get(kind.base)
    return _Column(simple, simple, _as_read) if simple is not None else _TEXT


def _decimal(modifiers: tuple[int, ...]) -> pa.DataType | None:
    if not modifiers:
        return None
    precision, scale = (*modifiers, 0)[:2]
    return pa.decimal128(precision, scale) if 0 <= scale <= precision <= MOST_DIGITS else None
