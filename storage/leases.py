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
CLOCKS_APART = timedelta(hours=1)
"""How far clocks may differ: what is dated further ahead is of a wrong one, and would be in the way for years."""


class LeaseLost(StorageError):
    """A lease could not be renewed in time: somebody may sweep what it protected."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a backup's objects in one place. Its holder runs `keep` beside the work, then `release`.

    `taken` is a moment by the loop's clock.
    """

    backend: Backend
    name: str
    backup: str
    purpose: str
    taken: float

    @classmethod
    async def take(cls, backend: Backend, backup: str, purpose: str) -> "Lease":
        """Take a lease that lasts 60 s; several may be held on one backup."""
        name = f"{LEASES}{backup}~{secrets.token_hex(4)}.json"
        lease = cls(backend, name, backup, purpose, asyncio.get_running_loop().time())
        await lease._renew()
        return lease

    async def keep(self) -> NoReturn:
        """Renew until cancelled; raises `LeaseLost` at the expiry if it could not be renewed until then."""
        renewed = self.taken
        while True:
            renewed = await self._renew_once(renewed + LIFETIME.total_seconds())

    async def _renew_once(self, expiry: float) -> float:
        """Renew when it is time; return when that was, by the loop's clock."""
        loop = asyncio.get_running_loop()
        trouble = "the store does not answer"
        try:
            async with asyncio.timeout_at(expiry):
                while True:
                    await asyncio.sleep(RENEW_EVERY.total_seconds())
                    began = loop.time()
                    try:
                        await self._renew()
                    except Unavailable as error:
                        trouble = error.message
                    else:
                        return began
        except TimeoutError as error:
            raise LeaseLost(
                f"the lease on {self.backup} could not be renewed for {LIFETIME.seconds} s: {trouble}",
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
    holder: str = ""

    def live(self, now: datetime) -> bool:
        """Whether its holder may still count on it."""
        return timedelta() < self.expires_at - now <= LIFETIME + CLOCKS_APART


async def list_leases(backend: Backend, on: str | None = None) -> list[LeaseState]:
    """Every lease in the repository, live and expired; or those on one thing."""
    found = []
    async for stored in backend.list(LEASES if on is None else f"{LEASES}{on}~"):
        backup = stored.name.removeprefix(LEASES).split("~")[0]
        try:
            expires, holder = _read(await get(backend, stored.name))
        except NotFound:
            continue
        found.append(LeaseState(stored.name, backup, expires or stored.modified + LIFETIME, holder))
    return found


def _read(data: bytes) -> tuple[datetime | None, str]:
    """The expiry that a lease states, and its holder and purpose; none if it cannot be read."""
    try:
        fields = json.loads(data)
        expires = datetime.fromisoformat(fields["expires_at"])
        holder = f"{fields.get('purpose')} on {fields.get('holder')}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, ""
    return expires if expires.tzinfo else None, holder
