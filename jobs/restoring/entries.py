"""Which entries of a schema archive a restore carries out, and when. Pure functions over what `pg_restore --list` says.

Names in entries are unquoted: what is sought is matched from the left.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from jobs.postgres.ddl import ArchiveEntry
from jobs.postgres.identifiers import TableName
from storage.manifest import ForeignKeyOutside


@dataclass(frozen=True, slots=True)
class Entries:
    """`making` is what makes objects, which can be dropped again on failure; `rights` are GRANTs on them.

    `settling` changes what was there already (rights on schema `public`, rights of objects to come): it goes last.
    """

    making: tuple[ArchiveEntry, ...]
    rights: tuple[ArchiveEntry, ...]
    settling: tuple[ArchiveEntry, ...]


def wanted_entries(
    listing: Sequence[ArchiveEntry],
    schemas: Collection[str],
    existing_schemas: Collection[str],
    existing_extensions: Collection[str],
    left_out: Iterable[ForeignKeyOutside],
) -> Entries:
    """All entries but the database, schemas and extensions that exist already, and foreign keys that are left out.

    `schemas` are all that the archive has.
    """
    unwanted = ["DATABASE "]
    unwanted += [_shown(f"FK CONSTRAINT {key.schema_name} {key.table} {key.name} ") for key in left_out]
    unwanted += [_shown(f"EXTENSION - {extension} ") for extension in existing_extensions]
    making, rights, settling = [], [], []
    for entry in listing:
        text = entry.text
        if text.startswith("DEFAULT ACL ") or _is_of(
            text, ("ACL - SCHEMA", "COMMENT - SCHEMA"), schemas, existing_schemas
        ):
            settling.append(entry)
        elif text.startswith("ACL "):
            rights.append(entry)
        elif not text.startswith(tuple(unwanted)) and not _is_of(text, ("SCHEMA -",), schemas, existing_schemas):
            making.append(entry)
    return Entries(tuple(making), tuple(rights), tuple(settling))


def for_tables(
    missing: Sequence[ArchiveEntry], tables: Collection[TableName], roles: Collection[str]
) -> tuple[ArchiveEntry, ...]:
    """Of the entries that the target lacks, those that tables need and those that belong to them.

    What belongs to a table refers to it: its indexes, policies and comments, a view of it, a foreign key of another
    table that points to it. A table that is not asked for comes only if one that is needs it.
    """
    by_number = {entry.number: entry for entry in missing}
    tables_of_all = {entry.number for entry in missing if makes_table(entry)}
    leans_on = {number: _reach(number, by_number) & tables_of_all for number in by_number}
    wanted = {listed_as("TABLE", table) for table in tables}
    found = {entry.number for entry in missing if without_owner(entry.text, roles) in wanted}
    size = 0
    while size < len(found):
        size = len(found)
        for number in tuple(found):
            found |= _reach(number, by_number)
        found |= {entry.number for entry in missing if entry.needs & found and leans_on[entry.number] <= found}
    return tuple(entry for entry in missing if entry.number in found)


def listed_as(kind: str, name: TableName) -> str:
    """The text of an entry that makes an object of that kind, up to its owner."""
    return _shown(f"{kind} {name.schema} {name.name}")


def makes_table(entry: ArchiveEntry) -> bool:
    """Whether it makes something that has rows of its own, or partitions with rows."""
    return entry.text.startswith(("TABLE ", "FOREIGN TABLE ")) and not entry.text.startswith("TABLE ATTACH ")


def _reach(number: int, by_number: dict[int, ArchiveEntry]) -> set[int]:
    """The entry and all that it needs, through all levels, as far as it is among these."""
    reached: set[int] = set()
    waiting = [number]
    while waiting:
        one = waiting.pop()
        if one in by_number and one not in reached:
            reached.add(one)
            waiting += by_number[one].needs
    return reached


def absent(
    making: Sequence[ArchiveEntry], there: Sequence[ArchiveEntry], roles: Collection[str]
) -> tuple[ArchiveEntry, ...]:
    """The entries whose objects another database, whose own archive lists what is `there`, does not have."""
    names = {without_owner(entry.text, roles) for entry in there}
    return tuple(entry for entry in making if without_owner(entry.text, roles) not in names)


def without_owner(text: str, roles: Collection[str]) -> str:
    """An entry's text up to its owner."""
    return text.removesuffix(owner_of(text, roles)).rstrip(" ")


def owner_of(text: str, roles: Collection[str]) -> str:
    """An entry's owner, which is the longest role's name that it ends with; empty for what has none."""
    return max((role for role in roles if text.endswith(f" {role}")), key=len, default="")


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
