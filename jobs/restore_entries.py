"""Which entries of a schema archive a restore carries out, and when. Pure functions over what `pg_restore --list` says.

An entry is `ID; CATALOG OID DESCRIPTION SCHEMA NAME OWNER`, names unquoted: what is sought is matched from the left.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from storage.manifest import ForeignKeyOutside


@dataclass(frozen=True, slots=True)
class Entries:
    """`making` is what makes objects, which can be dropped again on failure.

    `settling` changes what was there already (rights on schema `public`, rights of objects to come): it goes last.
    """

    making: tuple[str, ...]
    settling: tuple[str, ...]


def wanted_entries(
    listing: Sequence[str],
    schemas: Collection[str],
    existing_schemas: Collection[str],
    existing_extensions: Collection[str],
    left_out: Iterable[ForeignKeyOutside],
) -> Entries:
    """All entries but schemas and extensions that exist already, and foreign keys that are left out.

    `schemas` are all that the archive has.
    """
    unwanted = [_shown(f"FK CONSTRAINT {key.schema_name} {key.table} {key.name} ") for key in left_out]
    unwanted += [_shown(f"EXTENSION - {extension} ") for extension in existing_extensions]
    making, settling = [], []
    for entry in listing:
        text = entry.split(" ", 3)[3]
        if text.startswith("DEFAULT ACL ") or _is_of(
            text, ("ACL - SCHEMA", "COMMENT - SCHEMA"), schemas, existing_schemas
        ):
            settling.append(entry)
        elif not text.startswith(tuple(unwanted)) and not _is_of(text, ("SCHEMA -",), schemas, existing_schemas):
            making.append(entry)
    return Entries(tuple(making), tuple(settling))


def _is_of(text: str, beginnings: Iterable[str], schemas: Collection[str], existing: Collection[str]) -> bool:
    """Whether an entry is about a schema that exists: of names that begin alike the longest is meant."""
    for beginning in beginnings:
        named = [schema for schema in schemas if text.startswith(_shown(f"{beginning} {schema} "))]
        if named:
            return max(named, key=len) in existing
    return False


def _shown(text: str) -> str:
    """As pg_restore lists it: line breaks in names are spaces."""
    return text.replace("\n", " ").replace("\r", " ")
