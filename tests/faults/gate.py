"""Stands between a client and an S3 server, and makes a moment last: it holds a request, or the reply to one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from yarl import URL

from tests.storage.meddler import Meddler, Request

Kind = Callable[[Request], bool]


def is_manifest(request: Request) -> bool:
    """Whether it writes a manifest."""
    return request.method == "PUT" and "/manifests/" in request.path


def is_part(request: Request) -> bool:
    """Whether it writes a part of a multipart upload."""
    return request.method == "PUT" and "partNumber=" in request.query


@dataclass
class Gate(Meddler):
    """Passes on everything but what it is to `hold`; `reached` is set once there is such a request."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _kind: Kind | None = None
    _after: bool = False
    _opened: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self, kind: Kind, *, after: bool = False) -> None:
        """Hold requests of this kind, so that the store never sees them; or, `after` it did, its replies."""
        self._kind, self._after = kind, after

    def open(self) -> None:
        """Hold nothing any more. What was held is lost, and its connection reset."""
        self._kind = None
        self._opened.set()

    async def __aexit__(self, *error: object) -> None:
        self.open()
        await super().__aexit__(*error)

    async def _pass_on(self, incoming: web.Request, request: Request) -> web.StreamResponse:
        if self._kind is None or not self._kind(request):
            return await super()._pass_on(incoming, request)
        if self._after:
            await self._deliver(request)
        self.reached.set()
        await self._opened.wait()
        if incoming.transport is not None:
            incoming.transport.abort()
        return web.Response()

    async def _deliver(self, request: Request) -> None:
        url = URL(f"{self.target}{request.path}?{request.query}".rstrip("?"), encoded=True)
        async with self._session.request(request.method, url, headers=request.headers, data=request.body) as reply:
            assert reply.status == 200
            await reply.read()
