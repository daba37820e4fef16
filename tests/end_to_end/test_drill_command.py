"""`rowvault drill` and the job `monthly-drill`, as real processes: exit codes, what is swept, what the daemon shows."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import CreateDatabase
from tests.daemons import environment, processes_about, running_daemon, settings_for, until
from tests.keys import new_key
from tests.programs import real_rowvault, rowvault
from tests.servers import Database

SHOP = """
    CREATE TABLE customers (id int PRIMARY KEY, name text);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
"""
DRILL = "monthly-drill"
FAILING = {"QUALITY_CHECKS": '["SELECT count(*) > 1000 AS enough FROM customers"]'}


@pytest.fixture
async def shop(create_database: CreateDatabase) -> Database:
    return await create_database(key="drill-shop", build=SHOP)


@pytest.fixture
async def settings(shop: Database, tmp_path: Path) -> dict[str, str]:
    """A database and a folder that has one backup of it."""
    made = settings_for(shop, tmp_path / "backups")
    assert (await rowvault("backup", env=environment(made))).returncode == 0
    return made


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that the scratch server can enter as another user."""
    with tempfile.TemporaryDirectory(prefix="rowvault-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def drilled(settings: dict[str, str], *args: str, **env: str) -> CompletedProcess[str]:
    return await rowvault("drill", *args, env=environment(settings) | env)


def left_in(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.glob(pattern))


def on_server_of(shop: Database) -> dict[str, str]:
    return {"DRILL__DATABASE_URL": shop.server.maintenance.dsn}


async def test_it_prints_what_scripts_rely_on(settings: dict[str, str], temporary: Path) -> None:
    done = await drilled(settings, "--json", TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["state"] == "success"
    assert 0 < document["duration_seconds"] < 60
    assert [(table["name"], table["rows"]) for table in document["tables"]] == [("customers", 500)]
    assert {check["state"] for check in document["checks"]} == {"ok"}
    assert document["server"] == "PostgreSQL 18 beside this process"
    assert not left_in(temporary)


async def test_people_see_every_check_and_what_was_not_proved(settings: dict[str, str], shop: Database) -> None:
    done = await drilled(settings | on_server_of(shop))
    assert done.returncode == 0
    assert "1 tables equal, byte for byte" in done.stdout
    assert "objective of complete_loss" in done.stdout
    assert "drill: success in" in done.stdout


async def test_it_is_remembered_in_the_trail_and_in_the_verification_log(
    settings: dict[str, str], shop: Database
) -> None:
    assert (await drilled(settings | on_server_of(shop))).returncode == 0
    assert (await drilled(settings | on_server_of(shop) | FAILING)).returncode == 3
    entries = json.loads((await rowvault("trail", "--json", env=environment(settings))).stdout)["entries"]
    assert [one["outcome"] for one in entries if one["what"] == "drill"] == ["success", "failed"]
    rows = await shop.fetch(
        "SELECT table_name, verification_status, row_count FROM rowvault.backup_verification_log"
        " ORDER BY id DESC LIMIT 2"
    )
    assert rows == [(None, "failed", None), ("public.customers", "success", 500)]


async def test_a_failed_drill_is_exit_code_3_with_its_reason(settings: dict[str, str], shop: Database) -> None:
    done = await drilled(settings | on_server_of(shop) | FAILING, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["state"]) == (3, "failed")
    assert '"enough" is false' in document["error"]["message"]


async def test_a_promised_recovery_time_is_the_bound(settings: dict[str, str], shop: Database) -> None:
    done = await drilled(settings | on_server_of(shop) | {"OBJECTIVES__RTO": "45m"}, "--json")
    bounds = {one["name"]: one["objective_seconds"] for one in json.loads(done.stdout)["scenarios"]}
    assert bounds == {"one_row": 300, "one_table": 1800, "everything": 2700, "complete_loss": 2700}


async def test_without_a_backup_it_is_exit_code_4(shop: Database, tmp_path: Path) -> None:
    done = await drilled(settings_for(shop, tmp_path))
    assert done.returncode == 4
    assert "there is no backup yet" in done.stderr


async def test_without_the_source_it_drills_all_the_same(settings: dict[str, str], shop: Database) -> None:
    done = await drilled(
        {name: value for name, value in settings.items() if name != "DATABASE_URL"} | on_server_of(shop)
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        (
            "postgresql://drill:hunter2@127.0.0.1:1/x",
            1,
            "ROWVAULT_DRILL__DATABASE_URL: 127.0.0.1:1/x cannot be reached",
        ),
        ("http://drill:hunter2@127.0.0.1/x", 2, "ROWVAULT_DRILL__DATABASE_URL: must begin with postgresql://"),
    ],
)
async def test_a_wrong_address_is_told_with_its_setting(
    settings: dict[str, str], address: str, code: int, said: str
) -> None:
    done = await drilled(settings | {"DRILL__DATABASE_URL": address})
    assert done.returncode == code
    assert said in done.stderr
    assert "hunter2" not in done.stderr


async def test_a_refused_login_is_told_with_its_setting(settings: dict[str, str], shop: Database) -> None:
    done = await drilled(settings | {"DRILL__DATABASE_URL": shop.as_role("nobody", "hunter2")})
    assert done.returncode == 1
    assert "DRILL__DATABASE_URL: " in done.stderr
    assert "hunter2" not in done.stderr


async def test_what_a_killed_drill_left_is_swept_by_the_next(settings: dict[str, str], temporary: Path) -> None:
    async def server_runs() -> bool:
        return any("-D" in line and "postgres" in line for line in processes_about(str(temporary)))

    async def server_ended() -> bool:
        return not processes_about(str(temporary))

    env = environment(settings) | {"TMPDIR": str(temporary)}
    async with real_rowvault("drill", env=env) as process:
        await until(server_runs)
        process.kill()
        await process.wait()
    await until(server_ended)
    assert left_in(temporary, "rowvault-drill-*")
    assert (await drilled(settings, TMPDIR=str(temporary))).returncode == 0
    assert not left_in(temporary, "rowvault-drill-*")


async def test_stopped_it_cleans_up(settings: dict[str, str], temporary: Path) -> None:
    async def server_runs() -> bool:
        return any("-D" in line and "postgres" in line for line in processes_about(str(temporary)))

    env = environment(settings) | {"TMPDIR": str(temporary)}
    async with real_rowvault("drill", env=env) as process:
        await until(server_runs)
        process.terminate()
        _, said = await process.communicate()
    assert (process.returncode, b"Traceback" in said) == (1, False)
    assert not left_in(temporary)
    assert not processes_about(str(temporary))


def let_a_month_pass(folder: Path) -> None:
    """The repository was made long ago, and no drill was held since."""
    path = folder / "repository.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_at": "2025-01-01T00:00:00+00:00"}))


async def test_the_daemon_catches_up_on_a_drill_and_shows_it_also_after_a_restart(
    settings: dict[str, str], shop: Database, tmp_path: Path
) -> None:
    let_a_month_pass(tmp_path / "backups")
    for start in ("first", "second"):
        async with running_daemon(settings | on_server_of(shop)) as daemon:
            if start == "first":
                line = await daemon.logged("drill passed", "drill failed", "drill refused")
                assert (line["event"], line["job"], line["failures"]) == ("drill passed", DRILL, [])
            await daemon.metric_becomes("rowvault_drill_last_success", 1)
            await daemon.metric_becomes(f"rowvault_job_running_seconds job={DRILL}", 0)
            metrics = await daemon.metrics()
            assert 0 < metrics["rowvault_drill_duration_seconds scenario=one_row"] < 60
            assert metrics["rowvault_drill_objective_seconds scenario=complete_loss"] == 7200
            assert metrics[f"rowvault_job_last_success_timestamp_seconds job={DRILL}"] > 1.7e9
            _, document = await daemon.get("/healthz")
            assert document["jobs"][DRILL]["last_success"]
            assert bool(daemon.all_logged("drill begins")) is (start == "first")


async def test_a_failed_drill_is_shown_and_is_told_of(settings: dict[str, str], shop: Database, tmp_path: Path) -> None:
    let_a_month_pass(tmp_path / "backups")
    async with running_daemon(settings | on_server_of(shop) | FAILING) as daemon:
        line = await daemon.logged("drill failed", "drill passed")
        assert line["level"] == "error"
        assert line["failures"] == ['SELECT count(*) > 1000 AS enough FROM customers: "enough" is false']
        await daemon.metric_becomes(f"rowvault_job_runs_total job={DRILL} outcome=failed", 1)
        assert (await daemon.metrics())["rowvault_drill_last_success"] == 0
        _, document = await daemon.get("/healthz")
        assert document["jobs"][DRILL]["last_outcome"] == "failed"


async def test_a_drill_that_no_identity_opens_a_backup_for_is_a_warning_and_no_success(
    shop: Database, tmp_path: Path
) -> None:
    settings = settings_for(shop, tmp_path / "backups") | {"ENCRYPTION__RECIPIENTS": new_key().public}
    assert (await rowvault("backup", env=environment(settings))).returncode == 0
    let_a_month_pass(tmp_path / "backups")
    async with running_daemon(settings | on_server_of(shop)) as daemon:
        line = await daemon.logged("drill could not be done", "drill passed", "drill failed", "drill refused")
        assert (line["event"], line["level"]) == ("drill could not be done", "warning")
        assert "no identity was given" in str(line)
        await daemon.metric_becomes(f"rowvault_job_runs_total job={DRILL} outcome=warning", 1)
        metrics = await daemon.metrics()
        assert metrics["rowvault_drill_last_success"] == 0
        assert metrics[f"rowvault_job_last_success_timestamp_seconds job={DRILL}"] == 0
        _, document = await daemon.get("/healthz")
        assert (document["jobs"][DRILL]["last_outcome"], document["jobs"][DRILL]["last_success"]) == ("warning", None)


async def test_a_new_daemon_does_not_drill_before_its_time(settings: dict[str, str]) -> None:
    async with running_daemon(settings) as daemon:
        await daemon.logged("database and storage answer")
        assert "rowvault_drill_last_success" not in await daemon.metrics()
        assert (await daemon.terminate())[0] == 0
        await daemon.read_out()
        assert not daemon.all_logged("drill begins")
