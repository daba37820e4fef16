"""`rowvault demo`: everything on embedded parts, and nothing of it left behind."""

import json
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.daemons import processes_about, serving_command, until
from tests.programs import real_rowvault, rowvault

TABLES = {
    "AgentApproval",
    "AgentFeedback",
    "AgentQuery",
    "agent_approvals",
    "agent_memories",
    "agent_sdk_learning_data",
    "agent_sdk_notifications",
    "agent_states",
    "agent_training_archive",
    "data_quality_log",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a demo puts what is temporary; the embedded PostgreSQL must be able to enter it as another user."""
    with tempfile.TemporaryDirectory(prefix="rowvault-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def nothing_left(folder: Path) -> bool:
    """Whether no file is left, and no process that was told of one."""
    return not list(folder.iterdir()) and not processes_about(str(folder))


def sockets(ports: list[str]) -> list[Path]:
    """What the S3 server with these ports has where nobody asked it to."""
    return [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


async def test_once_runs_every_job_brings_two_rows_back_and_leaves_nothing(
    folder: Path,
) -> None:
    done: CompletedProcess[str] = await rowvault("demo", "--once", "--json", env={"TMPDIR": str(folder)})
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["equal"] is True
    assert {table["name"]: table["equal"] for table in document["tables"]} == dict.fromkeys(TABLES, True)
    assert document["backup"]["state"] == "success"
    assert document["backup"]["problems"] == []
    places = {place["name"]: place["state"] for place in document["backup"]["places"]}
    assert places == {"local": "committed", "s3": "committed"}
    assert sum(table["rows"] for table in document["backup"]["tables"]) > 300_000
    assert {table["name"]: table["rows"] for table in document["restore"]["tables"]} == {
        table["name"]: table["rows"] for table in document["backup"]["tables"]
    }
    assert (document["archive"]["kind"], document["archive"]["state"]) == ("archive", "success")
    recovery = document["recovery"]
    assert (recovery["backup"]["kind"], recovery["backup"]["state"]) == ("incremental", "success")
    assert [(row["key"], [one["kind"] for one in row["versions"]], row["back"]) for row in recovery["rows"]] == [
        ({"agent_key": "agent-00042"}, ["first seen", "update"], True),
        ({"Id": "42"}, ["first seen", "delete"], True),
    ]
    assert all(row["versions"][0]["at"] < recovery["at"] < row["versions"][1]["at"] for row in recovery["rows"])
    assert (document["drill"]["state"], document["drill"]["id"]) == ("success", recovery["backup"]["id"])
    assert "random moment" in {check["name"] for check in document["drill"]["checks"]}
    assert {one["name"] for one in document["drill"]["scenarios"]} == {
        "one_row",
        "one_table",
        "everything",
        "complete_loss",
    }
    assert nothing_left(folder)


async def test_it_serves_as_the_daemon_until_ctrl_c_and_leaves_nothing(folder: Path) -> None:
    async with serving_command("demo", env={"TMPDIR": str(folder)}, real=True) as daemon:

        async def tables() -> set[str]:
            shown = [name for name in await daemon.metrics() if name.startswith("rowvault_table_backup_rows")]
            return {name.split("table=")[1] for name in shown}

        assert await until(tables) == TABLES
        assert (await daemon.get("/readyz"))[0] == 200
        code, health = await daemon.get("/healthz")
        assert code == 200
        assert "hourly-incremental" in health["jobs"]
        ports = re.findall(r"\bport(?:\.grpc)?=(\d+)", " ".join(processes_about(str(folder))))
        assert sockets(ports)
        code, _ = await daemon.terminate(signal.SIGINT)
        assert code == 0
    assert nothing_left(folder)
    assert not sockets(ports)


async def test_stopped_while_it_prepares_it_leaves_nothing_either(folder: Path) -> None:
    async def store_started() -> bool:
        return any("weed" in line for line in processes_about(str(folder)))

    async with real_rowvault("demo", env={"TMPDIR": str(folder)}) as process:
        await until(store_started)
        process.terminate()
        _, said = await process.communicate()
    assert process.returncode == 1
    assert "error: stopped before it was done" in said.decode()
    assert b"Traceback" not in said
    assert nothing_left(folder)
