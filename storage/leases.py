"""Leases: how writers and readers say that a backup's objects are in use, so that nobody sweeps them.

A lease is an object under `leases/` with an expiry. It is renewed while its holder lives; one that has expired says
that its holder was killed.
"""

import asyncio
import json
import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from storage.backends.protocol import Backend
from storage.errors import NotFound, StorageError, Unavailable
from storage.names import LEASES
from storage.objects import get, put

LIFETIME = timedelta(seconds=60)
RENEW_EVERY = timedelta(seconds=20)


class LeaseLost(StorageError):
    """A lease could not be renewed in time: somebody may sweep what it protected."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a backup's objects in one place. Whoever takes it runs `keep` beside the work, then `release`."""

    backend: Backend
    name: str
    backup: str
    purpose: str

    @classmethod
    async def take(cls, backend: Backend, backup: str, purpose: str) -> "Lease":
        """Take a lease that lasts 60 s; several may be held on one backup."""
        lease = cls(backend, f"{LEASES}{backup}~{secrets.token_hex(4)}.json", backup, purpose)
        await lease._renew()
        return lease

    async def keep(self) -> NoReturn:
        """Renew until cancelled; raises `LeaseLost` once renewal has failed until the expiry."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(RENEW_EVERY.total_seconds())
            try:
                await self._renew()
                renewed = loop.time()
            except Unavailable as error:
                if loop.time() >= renewed + LIFETIME.total_seconds():
                    raise LeaseLost(
                        f"the lease on {self.backup} could not be renewed for {LIFETIME.seconds} s: {error}",
                        "the run is given up, since its objects are no longer protected; run it again",
                    ) from error

    async def release(self) -> None:
        """Say that the work is over. Where the store does not answer, the lease expires by itself."""
        await self.backend.delete([self.name])

    async def _renew(self) -> None:
        fields = {
            "backup": self.backup,
            "holder": f"{socket.gethostname()} pid {os.getpid()}",
            "purpose": self.purpose,
            "expires_at": (datetime.now(UTC) + LIFETIME).isoformat(),
        }
        await put(self.backend, self.name, json.dumps(fields).encode())


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease as a reader finds it. One that cannot be read is live for its lifetime after it was written."""

    name: str
    backup: str
    expires_at: datetime

    def live(self, now: datetime) -> bool:
        """Whether its holder may still count on it."""
        return self.expires_at > now


async def list_leases(backend: Backend) -> list[LeaseState]:
    """Every lease in the repository, live and expired."""
    found = []
    async for stored in backend.list(LEASES):
        backup = stored.name.removeprefix(LEASES).split("~")[0]
        try:
            expires = datetime.fromisoformat(json.loads(await get(backend, stored.name))["expires_at"])
        except NotFound:
            continue
        except (ValueError, KeyError):
            expires = stored.modified + LIFETIME
        found.append(LeaseState(stored.name, backup, expires))
    return found
