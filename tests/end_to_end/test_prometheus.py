"""A real Prometheus, configured as we advise, scrapes the daemon: what it then knows."""

import asyncio
import subprocess
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.conftest import StartPrometheus
from tests.daemons import RunningDaemon, running_daemon, settings_for, until
from tests.programs import ROOT
from tests.servers import DEFAULT_MAJOR, Servers, program

SCHEMA = """
    CREATE TABLE people AS SELECT n FROM generate_series(1, 300) n;
    CREATE TABLE "Odd ""name \\ ä" AS SELECT n FROM generate_series(1, 7) n;
"""
CONFIGURATION = (ROOT / "deploy" / "prometheus.yml").read_text()


@pytest.fixture(scope="module")
async def daemon(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningDaemon]:
    """A daemon after its first backup."""
    server = await servers.get(DEFAULT_MAJOR)
    database = await server.clone("odd_names", SCHEMA)
    async with running_daemon(settings_for(database, tmp_path_factory.mktemp("local"))) as running:
        await running.logged("backup committed")
        await running.run_ended()
        yield running
    await server.drop(database)


async def test_prometheus_knows_what_happened(daemon: RunningDaemon, start_prometheus: StartPrometheus) -> None:
    configuration = CONFIGURATION.replace("rowvault:8080", f"127.0.0.1:{daemon.port}").replace("15s", "1s")
    address = await start_prometheus(configuration)

    async def query(promql: str) -> dict[str, float]:
        """The values of an instant query, by the labels of ours."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{address}/api/v1/query", params={"query": promql}) as response,
        ):
            document = await response.json()
        assert document["status"] == "success", document
        return {_labels(found["metric"]): float(found["value"][1]) for found in document["data"]["result"]}

    assert await until(lambda: query('up{job="rowvault"} == 1'))
    assert await query("rowvault_table_backup_rows") == {
        "kind=full schema=public table=people": 300,
        'kind=full schema=public table=Odd "name \\ ä': 7,
    }
    runs = {
        f"job={job} outcome={outcome}": 0
        for job in ("daily-full", "monthly-drill")
        for outcome in ("success", "warning", "failed", "refused")
    }
    assert await query("rowvault_job_runs_total") == runs | {"job=daily-full outcome=success": 1}
    age = await query("time() - rowvault_job_last_success_timestamp_seconds")
    assert 0 <= age["job=daily-full"] < 120
    assert await query("rowvault_healthy") == {"": 1}
    assert await query("rowvault_objective_seconds") == {"objective=rpo": 25 * 3600}


def _labels(metric: dict[str, str]) -> str:
    left_out = {"__name__", "instance"} | ({"job"} if metric["job"] == "rowvault" else set())
    return " ".join(f"{name}={value}" for name, value in sorted(metric.items()) if name not in left_out)


async def test_promtool_finds_nothing_wrong_with_the_exposition(daemon: RunningDaemon) -> None:
    command = [program("promtool", "prometheus"), "check", "metrics"]
    exposition = await daemon.exposition()
    checked = await asyncio.to_thread(subprocess.run, command, input=exposition, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
