"""Health and metrics over HTTP: `/livez`, `/readyz`, `/healthz`, `/metrics`.

Every answer comes from what the process knows already; no request lists storage or asks the database. Only
GET and HEAD are understood: nothing here changes state, and nothing shows a secret or row data.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiohttp import hdrs, web

from daemon.metrics import Metrics
from daemon.outcomes import UsageError
from jobs.status import Status, as_document

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Scrapes and probes are short; at the end none is waited for longer than this.
_SHUTDOWN_SECONDS = 1.0


class Knowledge(Protocol):
    """What the process knows, from memory and at once."""

    def liveness(self) -> tuple[str, ...]:
        """Why the loop or the scheduler is not alive; empty if both are. A failed backup is no reason."""

    def readiness(self) -> tuple[str, ...]:
        """What of database and storage did not answer lately, and why; empty if ready."""

    def status(self) -> Status:
        """Whether the data is safe, judged now."""


class EndpointsError(UsageError):
    """The address to serve on cannot be had; `message` says which and why, `hint` what to do."""


def make_endpoints(knowledge: Knowledge, metrics: Metrics) -> web.Application:
    """The HTTP application that answers from `knowledge` and `metrics`."""

    async def livez(request: web.Request) -> web.Response:
        return _probe(knowledge.liveness())

    async def readyz(request: web.Request) -> web.Response:
        return _probe(knowledge.readiness())

    async def healthz(request: web.Request) -> web.Response:
        status = knowledge.status()
        return _json(as_document(status), ok=status.healthy)

    async def scrape(request: web.Request) -> web.Response:
        body, content_type = metrics.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    app = web.Application(middlewares=[_plain_errors])
    app.on_response_prepare.append(_set_headers)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", scrape)
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` during the block; yields the port, which 0 leaves open. Raises `EndpointsError`."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise EndpointsError(
                f"cannot serve health and metrics on {host}:{port}: {error.strerror or error}",
                "set ROWVAULT_HTTP__HOST and ROWVAULT_HTTP__PORT to an address of this machine that is free",
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _probe(reasons: tuple[str, ...]) -> web.Response:
    return _json({"status": "failing" if reasons else "ok", "reasons": list(reasons)}, ok=not reasons)


def _json(document: dict[str, Any], *, ok: bool) -> web.Response:
    return web.json_response(document, status=200 if ok else 503)


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer what does not exist, and methods that are not understood, in JSON like the rest."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        headers = {name: value for name, value in error.headers.items() if name == hdrs.ALLOW}
        return web.json_response({"error": error.reason}, status=error.status, headers=headers)


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    # Which versions serve is nobody's business.
    response.headers.popall(hdrs.SERVER, None)
