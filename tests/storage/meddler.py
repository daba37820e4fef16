"""An HTTP server between an S3 client and a real S3 server: it does what the real one cannot be made to do.

Requests are passed on as they are, signatures included, unless the rule answers one or changes it.
"""

import io
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "expect", "date", "server")


@dataclass
class Request:
    """A request on its way; a rule may change it, or how much of the reply arrives (None: all of it)."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    reply_bytes: int | None = None
    reply_lost: bool = False


@dataclass(frozen=True)
class Reply:
    """What a rule answers in the server's place."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


Rule = Callable[[Request], Reply | None]


def error(status: int, code: str) -> Reply:
    """How S3 says no."""
    return Reply(status, f"<Error><Code>{code}</Code><Message>so it is</Message></Error>")


@dataclass
class Meddler:
    """Listens on a port of its own; `rule` is asked about every request, and may be changed at any time."""

    target: str
    tls: ssl.SSLContext | None = None
    rule: Rule = lambda _: None
    seen: list[Request] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Content-Type"])
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, incoming: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in incoming.headers.items() if name.lower() not in HOP_BY_HOP}
        url = incoming.rel_url
        request = Request(incoming.method, url.raw_path, url.raw_query_string, headers, await incoming.read())
        self.seen.append(request)
        if answer := self.rule(request):
            return web.Response(
                status=answer.status, text=answer.body, content_type="application/xml", headers=answer.headers
            )
        return await self._pass_on(incoming, request)

    async def _pass_on(self, incoming: web.Request, request: Request) -> web.StreamResponse:
        url = URL(f"{self.target}{request.path}?{request.query}".rstrip("?"), encoded=True)
        body = io.BytesIO(request.body)
        async with self._session.request(request.method, url, headers=request.headers, data=body) as reply:
            answer = await reply.read()
            headers = {name: value for name, value in reply.headers.items() if name.lower() not in HOP_BY_HOP}
            headers["Content-Length"] = reply.headers.get("Content-Length", str(len(answer)))
        outgoing = web.StreamResponse(status=reply.status, headers=headers)
        assert incoming.transport is not None
        if request.reply_lost:
            incoming.transport.abort()
            return outgoing
        await outgoing.prepare(incoming)
        await outgoing.write(answer[: request.reply_bytes])
        if request.reply_bytes is not None:
            incoming.transport.close()
        return outgoing
