"""Ten thousand backups: how long it takes to list them, and to let the oldest day of them go."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.backends.protocol import Backend
from storage.manifest_file import dump_manifest
from storage.names import VERIFICATIONS, backup_prefix
from storage.repository import Repository
from tests.manifests import SYSTEM, made_up_full, made_up_window

DAYS, A_DAY = 400, 86_400
EPOCH = 1_700_000_000  # as of which made-up backups count their seconds
AT_ONCE = 16


@dataclass(frozen=True)
class Took:
    """Seconds of whole commands, and how many copies went."""

    list: float
    prune: float
    removed: int


async def fill(backend: Backend) -> None:
    """A full backup a day and an incremental one an hour, up to now: 10,000 in all, each with its record."""
    await Repository("bench", backend).bind(SYSTEM, "shop")
    newest = int((datetime.now(UTC) - timedelta(minutes=1)).timestamp()) - EPOCH
    turns = asyncio.Semaphore(AT_ONCE)

    async def day(number: int) -> None:
        at = newest - (DAYS - number) * A_DAY
        full = made_up_full(at, since=number * 100, lsn=number * 100 + 1)
        objects = dict(full.objects) | {str(full.manifest.name()): dump_manifest(full.manifest)}
        for hour in range(24):
            start, base = number * 100 + 4 * hour, full.manifest.id
            window = made_up_window(at + 3600 * (hour + 1) - 60, start, start + 4, base=base)
            objects[str(window.name())] = dump_manifest(window)
            if number == 0:  # the day that goes
                objects[f"{backup_prefix(window.id)}changes/000.pgcopy.zst"] = b"changes"
        records = {f"{VERIFICATIONS}{name.split('/')[1].split('~')[0]}~success.json": b"{}" for name in objects
                   if name.startswith("manifests/")}  # fmt: skip
        async with turns:
            await backend.store(objects | records)

    await asyncio.gather(*(day(number) for number in range(DAYS)))
    await backend.settle()


def timed(settings: dict[str, str], folder: Path) -> Took:
    """`rowvault list`, then `rowvault prune` under a policy by which one day goes."""
    policy = {"ROWVAULT_RETENTION__DAILY": str(DAYS - 1), "ROWVAULT_RETENTION__INCREMENTAL_DAYS": str(DAYS - 1)}
    listed, _ = _command(("list", "--json"), settings, folder)
    pruned, said = _command(("prune", "--json"), settings | policy, folder)
    return Took(listed, pruned, said.count('"removed"'))


def _command(arguments: tuple[str, ...], settings: dict[str, str], folder: Path) -> tuple[float, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROWVAULT_")}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        env=environment | settings | {"PYTHONPATH": str(Path.cwd())},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return time.monotonic() - began, done.stdout
