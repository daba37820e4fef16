"""Which columns of a table are exported, and what is put in the place of their values."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jobs.errors import BadExport
from jobs.exporting.copy_lines import columns_of, lines_of
from jobs.exporting.types import TEXT, ColumnType, read_type
from jobs.postgres.copy_text import escaped, unescaped_bytes
from jobs.postgres.identifiers import TableName, parse_column_of, split_assignment
from jobs.scope import chosen_tables
from storage.manifest import Manifest, Table

NULL = b"\\N"
LEAST_KEY = 16  # bytes; a shorter key could be found by trying
Lines = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Mask:
    """What stands for a column's values: a keyed hash of each, nothing, or one text for all.

    The same value has the same hash in every table, so that rows still find each other. NULL has none.
    """

    kind: Literal["hash", "null", "fixed"]
    text: str = field(default="", repr=False)


def parse_mask(text: str) -> tuple[str, Mask]:
    """Column and mask of `TABLE.COL=hash`, `=null` or `=fixed:TEXT`. Raises `BadName`, `BadExport`."""
    column, kind = split_assignment(text)
    if kind.startswith("fixed:"):
        return column, Mask("fixed", kind.removeprefix("fixed:"))
    if kind == "hash":
        return column, Mask("hash")
    if kind == "null":
        return column, Mask("null")
    raise BadExport(f"{column} cannot be masked as said", "write TABLE.COL=hash, =null or =fixed:TEXT")


@dataclass(frozen=True, slots=True)
class ExportedColumn:
    """A column as it is exported; `position` is where it stands in the data."""

    name: str
    type: ColumnType
    position: int
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class ExportedTable:
    """A table, the columns of it that are exported, those left out by wish, and those that are in no backup."""

    table: Table
    columns: tuple[ExportedColumn, ...]
    omitted: tuple[str, ...]
    generated: tuple[str, ...]
    width: int

    @property
    def name(self) -> TableName:
        """Its name."""
        return TableName(self.table.schema_name, self.table.name)

    @property
    def masked(self) -> dict[str, str]:
        """The masked columns, and how."""
        return {column.name: column.mask.kind for column in self.columns if column.mask}


def exported_tables(
    manifest: Manifest,
    tables: Sequence[Table],
    omit: Sequence[str],
    masks: Sequence[tuple[str, Mask]],
    vectors: frozenset[str],
) -> tuple[ExportedTable, ...]:
    """Each table with what becomes of its columns; `omit` and `masks` name them as TABLE.COL, of whichever table.

    Raises `NotThere` for a table that is not in the backup, `BadExport` for a column, `BadName`.
    """
    left_out: dict[int, dict[str, None]] = {}
    for text in omit:
        for oid, column in _meant(manifest, text):
            left_out.setdefault(oid, {})[column] = None
    replaced: dict[int, dict[str, Mask]] = {}
    for text, mask in masks:
        for oid, column in _meant(manifest, text):
            if column in replaced.get(oid, {}) or column in left_out.get(oid, {}):
                raise BadExport(f"{text} is named twice", "say --omit or --mask once for each column")
            replaced.setdefault(oid, {})[column] = mask
    return tuple(_exported(one, left_out.get(one.oid, {}), replaced.get(one.oid, {}), vectors) for one in tables)


def _meant(manifest: Manifest, text: str) -> list[tuple[int, str]]:
    """The column that a person means, in the table or in each partition of it."""
    table, column = parse_column_of(text)
    found = chosen_tables(manifest, [table])
    for one in found:
        known = {other.name: other.generated for other in one.columns}
        if column not in known:
            raise BadExport(
                f"{one.schema_name}.{one.name} has no column {column}", f"it has: {', '.join(known) or 'no column'}"
            )
        if known[column]:
            raise BadExport(
                f"{one.schema_name}.{one.name}: column {column} is generated, and no backup holds it",
                "name the columns that it is made of",
            )
    return [(one.oid, column) for one in found]


def _exported(
    table: Table, left_out: Mapping[str, None], masks: Mapping[str, Mask], vectors: frozenset[str]
) -> ExportedTable:
    stored = [column for column in table.columns if not column.generated]
    columns = []
    for position, column in enumerate(stored):
        mask = masks.get(column.name)
        text = mask is not None and mask.kind != "null"
        if column.name not in left_out:
            kind = TEXT if text else read_type(column.type, vectors)
            columns.append(ExportedColumn(column.name, kind, position, mask))
    generated = tuple(column.name for column in table.columns if column.generated)
    return ExportedTable(table, tuple(columns), tuple(left_out), generated, len(stored))


def reshaping(exported: ExportedTable, key: bytes) -> Lines | None:
    """What makes the exported columns of whole lines of a table; None where they stay as they are."""
    if not exported.omitted and not exported.masked:
        return None
    kinds = {column.name: column.type for column in exported.table.columns}
    makers = [
        (column.position, _maker(column.mask, key, padded=kinds[column.name].startswith("character(")))
        for column in exported.columns
    ]

    def reshape(lines: bytes) -> bytes:
        fields = columns_of(lines, exported.width)
        rows = lines.count(b"\n")
        return lines_of([make(fields[position]) for position, make in makers], rows)

    return reshape


def _maker(mask: Mask | None, key: bytes, *, padded: bool) -> Callable[[list[bytes]], list[bytes]]:
    if mask is None:
        return lambda values: values
    if mask.kind == "hash":
        return lambda values: [value if value == NULL else hashed(value, key, padded=padded) for value in values]
    fixed = NULL if mask.kind == "null" else escaped(mask.text)
    return lambda values: [fixed] * len(values)


def hashed(field: bytes, key: bytes, *, padded: bool = False) -> bytes:
    """HMAC-SHA256, in hex, of the text that PostgreSQL writes of a value; what only pads it does not count."""
    value = unescaped_bytes(field) if b"\\" in field else field
    return hmac.digest(key, value.rstrip(b" ") if padded else value, "sha256").hex().encode()
