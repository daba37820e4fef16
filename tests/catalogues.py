"""Catalogues as retention sees them, made up: no objects, only names."""

from datetime import datetime

from storage.names import id_moment, new_backup_id
from storage.retention import Held


def full(at: datetime, *, good: bool = True, kept: bool = False) -> Held:
    """A full backup of that moment."""
    return _held("full", at, None, good, kept)


def archive(at: datetime, *, good: bool = True, kept: bool = False) -> Held:
    """An archive of that moment."""
    return _held("archive", at, None, good, kept)


def incremental(at: datetime, base: str, *, good: bool = True, kept: bool = False) -> Held:
    """An incremental backup of that moment."""
    return _held("incremental", at, base, good, kept)


def _held(kind: str, at: datetime, base: str | None, good: bool, kept: bool) -> Held:
    backup_id = new_backup_id(kind, at)
    return Held(backup_id, id_moment(backup_id), kind, base, kept, good)
