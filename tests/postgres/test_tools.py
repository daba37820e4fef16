"""PostgreSQL's own programs: which are found, how they are run, and what their complaints come to."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.postgres.connection import Source
from jobs.postgres.errors import (
    ConnectionLost,
    Contended,
    MissingPrivilege,
    PostgresError,
    ToolMissing,
    ToolTrouble,
    Unreachable,
)
from jobs.postgres.tools import find_tools, run_tool, stream_output, tool_environment
from tests.round_trip import back_up
from tests.servers import Database
from tests.sessions import until

PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore")


def program(path: Path, script: str) -> Path:
    """A program that is a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def installed(folder: Path, version: str) -> Path:
    for name in PROGRAMS:
        program(folder / name, f'echo "{name} (PostgreSQL) {version}"')
    return folder


def test_the_newest_at_hand_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{installed(tmp_path, '99.1 (Debian 99.1-1)')}:{os.environ['PATH']}")
    tools = find_tools(18, None)
    assert (tools.folder, tools.version, tools.major) == (tmp_path, "99.1", 99)


def test_debians_script_on_the_path_is_passed_over_for_the_programs_that_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = program(tmp_path / "pg_wrapper", 'echo "pg_dump (PostgreSQL) 99.1"')
    on_path = tmp_path / "bin"
    on_path.mkdir()
    for name in PROGRAMS:
        (on_path / name).symlink_to(script)
    monkeypatch.setenv("PATH", f"{on_path}:{os.environ['PATH']}")
    assert find_tools(14, None).folder != on_path


def test_pg_bin_alone_counts_where_it_is_set(tmp_path: Path) -> None:
    assert find_tools(14, installed(tmp_path, "14.3")).version == "14.3"


@pytest.mark.parametrize("version", ["18beta2", "18devel", "18.0"])
def test_versions_are_read_as_they_are_written(tmp_path: Path, version: str) -> None:
    assert find_tools(18, installed(tmp_path, version)).major == 18


def test_another_version_in_the_same_place_is_noticed(tmp_path: Path) -> None:
    assert find_tools(14, installed(tmp_path, "14.3")).version == "14.3"
    program(tmp_path / "new", "echo 'pg_dump (PostgreSQL) 14.4'").rename(tmp_path / "pg_dump")
    assert find_tools(14, tmp_path).version == "14.4"


def test_older_than_the_server_is_refused_with_both_versions(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match=r"server is PostgreSQL 18, the newest pg_dump at hand 17\.4") as caught:
        find_tools(18, installed(tmp_path, "17.4"))
    assert "PostgreSQL 18 or newer" in caught.value.hint


def test_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="not found"):
        find_tools(15, tmp_path)


@pytest.mark.parametrize("missing", PROGRAMS)
def test_an_incomplete_folder_does_not_count(tmp_path: Path, missing: str) -> None:
    (installed(tmp_path, "18.0") / missing).unlink()
    with pytest.raises(ToolMissing):
        find_tools(15, tmp_path)


def test_a_program_that_does_not_run_does_not_count(tmp_path: Path) -> None:
    program(installed(tmp_path, "18.0") / "pg_dump", "exit 127")
    with pytest.raises(ToolMissing):
        find_tools(15, tmp_path)


def test_child_processes_get_neither_our_settings_nor_somebodys_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPASSWORD", "PGOPTIONS", "ROWVAULT_DATABASE_URL", "ROWVAULT_S3__SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "theirs")
    with tool_environment(Source("postgresql://u:p@h/d")) as environment:
        assert "theirs" not in environment.values()
        assert environment["PGAPPNAME"] == "rowvault: schema"


async def test_what_a_program_prints_is_returned(tmp_path: Path) -> None:
    assert await run_tool(program(tmp_path / "p", 'printf "%s" "$1"; echo note >&2'), ["said"], {}) == b"said"


@pytest.mark.parametrize(
    ("complaint", "kind", "said"),
    [
        ("pg_dump: error: query failed: ERROR:  permission denied for table t", MissingPrivilege, "table t"),
        (
            "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\n"
            "pg_dump: detail: Query was: LOCK TABLE public.a, public.b IN ACCESS SHARE MODE",
            Contended,
            r"LOCK TABLE public\.a, public\.b",
        ),
        (
            'pg_dump: error: connection to server at "h" (::1), port 5432 failed: FATAL:  too many connections',
            Unreachable,
            "too many",
        ),
        ("pg_dump: error: query failed: server closed the connection unexpectedly", ConnectionLost, "closed"),
        (
            "pg_dump: error: query failed: could not receive data from server: Connection reset by peer",
            ConnectionLost,
            "reset",
        ),
        (
            'pg_dump: error: connection to server at "h", port 1 failed: server closed the connection unexpectedly',
            Unreachable,
            "failed",
        ),
        (
            "pg_dump: error: query failed: FATAL:  terminating connection due to administrator command",
            ConnectionLost,
            "administrator",
        ),
        ("pg_restore: error: could not execute query: ERROR:  it is broken\nCommand was: x", ToolTrouble, "broken"),
        ("something else", ToolTrouble, "something else"),
        ("", ToolTrouble, "failed"),
    ],
)
async def test_a_complaint_comes_to(tmp_path: Path, complaint: str, kind: type[PostgresError], said: str) -> None:
    path = program(tmp_path / "p", f"cat >&2 <<'END'\n{complaint}\nEND\nexit 1")
    with pytest.raises(PostgresError, match=said) as caught:
        await run_tool(path, [], {"PATH": os.environ["PATH"]})
    assert type(caught.value) is kind


HARMLESS = (
    'pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"'
)


@pytest.mark.parametrize("more", ["", "pg_restore: error: could not execute query: ERROR:  real"])
async def test_what_newer_programs_say_to_older_servers_is_no_trouble_by_itself(tmp_path: Path, more: str) -> None:
    path = program(tmp_path / "p", f"cat >&2 <<'END'\n{HARMLESS}\n{more}\nEND\necho done; exit 1")
    running = run_tool(path, [], {"PATH": os.environ["PATH"]})
    if not more:
        assert await running == b"done\n"
        return
    with pytest.raises(ToolTrouble, match="real"):
        await running


async def test_a_program_that_is_given_up_ends_with_all_it_started(tmp_path: Path) -> None:
    """As pg_restore, which works with processes of its own, and tells them when it is asked to end."""
    path = program(tmp_path / "p", f"trap 'kill $!; exit 1' TERM; sleep 100 & echo $! > {tmp_path}/child; echo; wait")

    async def use() -> None:
        async for _ in stream_output(path, [], {"PATH": os.environ["PATH"]}):
            pass

    task = asyncio.create_task(use())
    child = await written(tmp_path / "child")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: has_ended(child))


async def test_a_program_that_does_not_end_when_asked_is_killed_with_all_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jobs.postgres.tools._STOP_SECONDS", 0.2)
    path = program(tmp_path / "p", f"trap '' TERM; sleep 100 & echo $! > {tmp_path}/child; echo; wait")

    async def use() -> None:
        async for _ in stream_output(path, [], {"PATH": os.environ["PATH"]}):
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    child = await written(tmp_path / "child")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: has_ended(child))


async def written(file: Path) -> int:
    async def there() -> str:
        return await asyncio.to_thread(lambda: file.read_text().strip() if file.exists() else "")

    await until(there)
    return int(await there())


async def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its new parent has not yet looked at."""
    status = Path(f"/proc/{pid}/stat")
    return await asyncio.to_thread(lambda: not status.exists() or status.read_text().split()[2] == "Z")


async def test_a_backup_that_has_nowhere_for_temporary_files_says_what_to_do(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose file system is read-only."""
    await database.execute("CREATE TABLE items (id int)")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(JobError, match="the schema could not be dumped into a temporary file") as refused:
        await back_up(database)
    assert "TMPDIR" in refused.value.hint
