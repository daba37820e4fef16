"""Health and metrics over HTTP, asked of a real server on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from daemon.endpoints import EndpointsError, make_endpoints, serving
from daemon.metrics import Metrics
from jobs.status import Facts, JobFacts, Status, judge

NOW = datetime(2025, 6, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Known:
    """A daemon's knowledge as a test wants it."""

    not_alive: tuple[str, ...] = ()
    not_ready: tuple[str, ...] = ()
    facts: Facts = field(
        default_factory=lambda: Facts(
            now=NOW,
            first_start=NOW - HOUR,
            recovery_point=NOW - HOUR,
            jobs={"daily-full": JobFacts(longest_gap=24 * HOUR)},
        )
    )

    def liveness(self) -> tuple[str, ...]:
        return self.not_alive

    def readiness(self) -> tuple[str, ...]:
        return self.not_ready

    def status(self) -> Status:
        return judge(self.facts)


def missed() -> Facts:
    return Facts(now=NOW, first_start=NOW - 3 * HOUR, rpo=HOUR)


@asynccontextmanager
async def client(known: Known) -> AsyncIterator[aiohttp.ClientSession]:
    app = make_endpoints(known, Metrics("1.2.3", ["daily-full"], ["local"], known.status))
    async with (
        serving(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics"])
async def test_all_is_well(path: str) -> None:
    async with client(Known()) as session, session.get(path) as response:
        assert response.status == 200


async def test_livez_fails_with_reasons_when_the_scheduler_stands_still() -> None:
    known = Known(not_alive=("the scheduler stands still",))
    async with client(known) as session, session.get("/livez") as response:
        assert response.status == 503
        assert await response.json() == {"status": "failing", "reasons": ["the scheduler stands still"]}


async def test_livez_does_not_fail_because_a_backup_did() -> None:
    known = Known(not_ready=("database: no answer",), facts=missed())
    async with client(known) as session, session.get("/livez") as response:
        assert response.status == 200


async def test_readyz_fails_with_reasons_while_a_part_does_not_answer() -> None:
    known = Known(not_ready=("database: no answer",))
    async with client(known) as session, session.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["reasons"] == ["database: no answer"]


async def test_healthz_shows_jobs_and_recovery_point() -> None:
    async with client(Known()) as session, session.get("/healthz") as response:
        assert response.content_type == "application/json"
        document = await response.json()
    assert document["status"] == "ok"
    assert document["jobs"]["daily-full"]["next_run"] is None
    assert document["recovery_point"] == {
        "at": "2025-06-10T11:00:00Z",
        "age_seconds": 3600.0,
        "objective_seconds": 90000.0,
    }


async def test_healthz_fails_once_an_objective_is_missed() -> None:
    async with client(Known(facts=missed())) as session, session.get("/healthz") as response:
        assert response.status == 503
        document = await response.json()
    assert document["status"] == "failing"
    assert document["reasons"] == [
        "there is no backup yet, 3 h 0 min after the first start; the objective allows 1 h 0 min"
    ]


async def test_metrics_are_the_exposition_of_prometheus() -> None:
    async with client(Known()) as session, session.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert 'rowvault_build_info{version="1.2.3"} 1.0' in await response.text()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics"])
async def test_head_is_answered_without_a_body(path: str) -> None:
    async with client(Known()) as session, session.head(path) as response:
        assert response.status == 200
        assert await response.read() == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_no_other_method_is_understood(method: str) -> None:
    async with client(Known()) as session, session.request(method, "/healthz") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", ["/", "/backup", "/livez/", "/metrics/../etc/passwd"])
async def test_nothing_else_is_there(path: str) -> None:
    async with client(Known()) as session, session.get(path) as response:
        assert response.status == 404
        assert await response.json() == {"error": "Not Found"}


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/nothing"])
async def test_every_answer_is_guarded_and_tells_no_versions(path: str) -> None:
    async with client(Known()) as session, session.get(path) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Server" not in response.headers


async def test_a_port_in_use_is_a_clear_error() -> None:
    known = Known()
    app = make_endpoints(known, Metrics("1.2.3", [], [], known.status))
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(EndpointsError) as caught:
            async with serving(app, "127.0.0.1", port):
                pass
    assert caught.value.message.startswith(f"cannot serve health and metrics on 127.0.0.1:{port}: ")
    assert "ROWVAULT_HTTP__PORT" in caught.value.hint


async def test_an_address_that_is_not_ours_is_a_clear_error() -> None:
    known = Known()
    app = make_endpoints(known, Metrics("1.2.3", [], [], known.status))
    with pytest.raises(EndpointsError, match=r"on no-such-host\.invalid:8080"):
        async with serving(app, "no-such-host.invalid", 8080):
            pass
