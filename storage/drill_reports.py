"""Reports of recovery drills, kept in the repository: `drills/STAMP~ID~STATE.json`. Nothing sweeps them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from storage.backends.protocol import Backend
from storage.errors import Corrupt
from storage.names import DRILLS, is_backup_id
from storage.objects import get, put


@dataclass(frozen=True, order=True, slots=True)
class DrillRecord:
    """One drill as the listing shows it: when it began (UTC, whole milliseconds), of which backup, `success` or not."""

    at: datetime
    backup: str
    state: str

    @property
    def object_name(self) -> str:
        """The name of its report."""
        stamp = self.at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        return f"{DRILLS}{stamp}Z~{self.backup}~{self.state}.json"


async def keep_report(backend: Backend, record: DrillRecord, report: Mapping[str, Any]) -> None:
    """Store a drill's report for good."""
    await put(backend, record.object_name, json.dumps(report, ensure_ascii=False, indent=1).encode())


async def newest_record(backend: Backend) -> DrillRecord | None:
    """The newest drill whose report is there, by names alone."""
    records = [record async for stored in backend.list(DRILLS) if (record := _parse(stored.name)) is not None]
    return max(records, default=None)


async def read_scenarios(backend: Backend, record: DrillRecord) -> list[tuple[str, float, float]]:
    """Of a drill's scenarios their names, the seconds they took and may take; raises `NotFound` or `Corrupt`."""
    try:
        report = json.loads(await get(backend, record.object_name))
        return [
            (str(one["name"]), float(one["seconds"]), float(one["objective_seconds"])) for one in report["scenarios"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{record.object_name} cannot be read: {error!r}", "look at the storage") from error


def _parse(name: str) -> DrillRecord | None:
    """None for a name that is no report's."""
    fields = name.removeprefix(DRILLS).removesuffix(".json").split("~")
    try:
        stamp, backup, state = fields
        at = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return DrillRecord(at, backup, state) if is_backup_id(backup) and at.tzinfo else None
