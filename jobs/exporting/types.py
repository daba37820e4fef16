"""What the types of columns mean to other programs: read from how PostgreSQL writes a type."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from jobs.postgres.identifiers import quote
from storage.manifest import Manifest

INTEGERS = frozenset({"smallint", "integer", "bigint", "oid"})
FLOATS = frozenset({"real", "double precision"})
TEXTS = frozenset({"text", "character varying", "character"})
DOCUMENTS = frozenset({"json", "jsonb"})
VECTOR = "vector"

_TYPE = re.compile(
    r"(?P<base>.+?)(?:\((?P<modifiers>-?\d+(?:,-?\d+)*)\))?(?P<zone> with(?:out)? time zone)?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type's name, what stands in its brackets (length; precision and scale), and whether it is an array of it."""

    base: str
    modifiers: tuple[int, ...] = ()
    array: bool = False

    @property
    def element(self) -> "ColumnType":
        """The type of an array's elements."""
        return replace(self, array=False)


TEXT = ColumnType("text")


def read_type(text: str, vectors: Collection[str] = ()) -> ColumnType:
    """A type as `format_type` writes it. Those that `vectors` names are pgvector's; their name becomes `vector`."""
    array = text.endswith("[]")
    match = _TYPE.fullmatch(text.removesuffix("[]"))
    assert match is not None
    base = match["base"] + (match["zone"] or "")
    modifiers = tuple(int(number) for number in match["modifiers"].split(",")) if match["modifiers"] else ()
    return ColumnType(VECTOR if base in vectors else base, modifiers, array)


def vector_types(manifest: Manifest) -> frozenset[str]:
    """How the types of pgvector that are lists of numbers are written in this backup's columns."""
    schemas = [one.schema_name for one in manifest.dump.extensions if one.name == "vector"]
    written = [form for schema in schemas for form in (schema, quote(schema))]
    return frozenset(f"{schema}.{name}" for schema in written for name in ("vector", "halfvec"))
