"""How backups and their objects are named. The layout itself is described in FORMAT.md.

Every name is built from components of `A-Z a-z 0-9 . _ - ~ =`: any store and any file system takes them.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote, unquote

from storage.errors import Corrupt, StorageError

REPOSITORY = "repository.json"
MANIFESTS = "manifests/"
BACKUPS = "backups/"
ARCHIVES = "archives/"
LEASES = "leases/"
KEPT = "keep/"
VERIFICATIONS = "verifications/"
TRAIL = "trail/"
DRILLS = "drills/"
ERASURES = "erasures/"
MADE = "as-of/"  # beside a repository, never in one: temporary objects of a backup as of a moment

TableList = Literal["keys", "removed", "added"]

LABEL_BYTES = 90  # what remains of a 255-byte file name beside the other fields

_ID = re.compile(r"(?P<stamp>\d{8}T\d{6}\.\d{3}Z)-(?P<kind>full|incremental|archive)-[0-9a-f]{6}")


def escape(text: str) -> str:
    """Turn any text into one component, reversibly: bytes outside the safe set become `=XX` (hex of UTF-8)."""
    escaped = quote(text, safe="").replace("~", "%7E").replace("%", "=")
    return escaped.replace(".", "=2E") if escaped in {".", ".."} else escaped


def unescape(component: str) -> str:
    """The text that `escape` was given."""
    return unquote(component.replace("=", "%"), errors="strict")


def new_backup_id(kind: str, moment: datetime) -> str:
    """An id that sorts by moment (UTC, milliseconds) and that nobody else makes at the same one."""
    return f"{_stamp(moment)}-{kind}-{secrets.token_hex(3)}"


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).strftime('%Y%m%dT%H%M%S.%f')[:-3]}Z"


def is_backup_id(text: str) -> bool:
    """Whether the text has the form of a backup id."""
    try:
        id_moment(text)
    except Corrupt:
        return False
    return True


def id_kind(backup_id: str) -> str:
    """The kind that an id carries."""
    return _match(backup_id)["kind"]


def id_moment(backup_id: str) -> datetime:
    """The moment that an id carries: when the backup's snapshot was taken, in whole milliseconds."""
    try:
        return datetime.fromisoformat(_match(backup_id)["stamp"])
    except ValueError as error:
        raise _no_id(backup_id) from error


def _match(backup_id: str) -> re.Match[str]:
    match = _ID.fullmatch(backup_id)
    if match is None:
        raise _no_id(backup_id)
    return match


def _no_id(text: str) -> Corrupt:
    return Corrupt(f"{text!r} is not a backup id", "list the backups with: rowvault list")


def backup_prefix(backup_id: str) -> str:
    """Where a backup's objects lie, by the kind that its id says; ends in `/`."""
    return f"{ARCHIVES if id_kind(backup_id) == 'archive' else BACKUPS}{backup_id}/"


def is_of_a_backup(name: str) -> bool:
    """Whether an object is one of a backup's own, not its manifest nor one of the smaller ones."""
    return name.startswith((BACKUPS, ARCHIVES))


def revision_prefix(backup_id: str, revision: int) -> str:
    """Where objects lie that a later revision of a backup wrote anew; ends in `/`."""
    return f"{backup_prefix(backup_id)}r{revision}/"


def revised_object(name: str, backup_id: str, revision: int, piece: int) -> str:
    """The name, without `.age`, of a piece of an object that a later revision writes anew; one may become several."""
    rest = _REVISED.sub("", name.removeprefix(backup_prefix(backup_id))).removesuffix(".age")
    return f"{revision_prefix(backup_id, revision)}{_PIECE.sub(f'{piece:03d}', rest)}"


_REVISED = re.compile(r"^r\d+/")
_PIECE = re.compile(r"\d{3,}(?=\.[a-z]+\.zst$)")


def new_erasure_id(moment: datetime) -> str:
    """An id for an erasure; they sort by moment (UTC, milliseconds)."""
    return f"{_stamp(moment)}-erasure-{secrets.token_hex(3)}"


def is_erasure_id(text: str) -> bool:
    """Whether the text has the form of an erasure's id."""
    return re.fullmatch(r"\d{8}T\d{6}\.\d{3}Z-erasure-[0-9a-f]{6}", text) is not None


def is_of_an_archive(name: str) -> bool:
    """Whether an object is one of an archive's, its manifest included."""
    if name.startswith(MANIFESTS):
        backup_id = name.removeprefix(MANIFESTS).partition("~")[0]
        return is_backup_id(backup_id) and id_kind(backup_id) == "archive"
    return name.startswith(ARCHIVES)


def data_object(backup_id: str, schema: str, table: str, part: int, piece: int) -> str:
    """One object of a table's data. Pieces of parts, joined in the order of their names, are the table."""
    return f"{_table_folder(backup_id, 'data', schema, table)}/{part:05d}-{piece:03d}.copy.zst"


def list_object(backup_id: str, what: TableList, schema: str, table: str, piece: int) -> str:
    """One object of a table's sorted keys, of the keys that went, or of the rows that came."""
    return f"{_table_folder(backup_id, what, schema, table)}/{piece:03d}.copy.zst"


def _table_folder(backup_id: str, what: str, schema: str, table: str) -> str:
    return f"{backup_prefix(backup_id)}{what}/{escape(schema)}/{escape(table)}"


def log_object(backup_id: str, piece: int) -> str:
    """One object of a window of the change log."""
    return f"{log_prefix(backup_id)}{piece:03d}.pgcopy.zst"


def log_prefix(backup_id: str) -> str:
    """Where a backup's window of the change log lies; ends in `/`."""
    return f"{backup_prefix(backup_id)}changes/"


@dataclass(frozen=True, slots=True)
class ManifestName:
    """What a manifest's name says, so that ten thousand backups are listed without reading one.

    Of several manifests of one backup, that of the highest revision counts.
    """

    id: str
    base: str | None
    rows: int
    bytes_stored: int
    label: str
    revision: int = 0

    def __str__(self) -> str:
        base, revised = self.base or "-", f"~r{self.revision}" if self.revision else ""
        return f"{MANIFESTS}{self.id}~{base}~{self.rows}~{self.bytes_stored}~{escape(self.label)}{revised}.json"

    @classmethod
    def parse(cls, name: str) -> "ManifestName":
        """Read a name back; raises `Corrupt` for one that is no manifest's."""
        fields = name.removeprefix(MANIFESTS).removesuffix(".json").split("~")
        try:
            backup_id, base, rows, stored, label, *revised = fields
            revision = int(revised[0].removeprefix("r")) if revised else 0
            parsed = cls(backup_id, None if base == "-" else base, int(rows), int(stored), unescape(label), revision)
        except ValueError as error:
            raise Corrupt(f"{name!r} is not the name of a manifest", "move it out of manifests/") from error
        if not is_backup_id(backup_id) or str(parsed) != name:
            raise Corrupt(f"{name!r} is not the name of a manifest", "move it out of manifests/")
        return parsed


def is_manifest_name(name: str) -> bool:
    """Whether an object's name is a manifest's."""
    try:
        ManifestName.parse(name)
    except Corrupt:
        return False
    return True


class BadLabel(StorageError):
    """A label does not fit into the manifest's name, or a reason not into a file."""


def check_label(label: str) -> str:
    """Return the label, or raise `BadLabel`."""
    try:
        length = len(escape(label))
    except UnicodeEncodeError as error:
        raise BadLabel("the label is not UTF-8", "write it in UTF-8") from error
    if length > LABEL_BYTES:
        raise BadLabel(
            f"the label takes {length} bytes as a name, {LABEL_BYTES} is the most",
            "shorten it, and put the details into --reason",
        )
    return label


def check_reason(reason: str) -> str:
    """Return the reason, or raise `BadLabel`: told before a backup is taken, not when its manifest is to be written."""
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise BadLabel("the reason is not UTF-8", "write it in UTF-8") from error
    return reason
