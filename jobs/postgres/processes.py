"""Programs of PostgreSQL as child processes: never as root, never outliving us, stopped by degrees."""

import asyncio
import contextlib
import os
import pwd
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
FAST_STOP_SECONDS = 20
IMMEDIATE_STOP_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group a program runs as."""

    uid: int
    gid: int


OURSELVES = Account(-1, -1)


def unprivileged() -> Account:
    """Whom to run what refuses root as: ourselves, unless that is root; then `nobody`, or `LookupError`."""
    if os.getuid() != 0:
        return OURSELVES
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


async def spawn(command: Sequence[str | Path], account: Account, output: int) -> asyncio.subprocess.Process:
    """Start a program, all it says going to `output`; it ends when the thread that started it does (Linux).

    It gets a session of its own, for a terminal's Ctrl-C must reach us, not it.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", CHILD, str(os.getpid()), str(account.uid), str(account.gid)),
        *(str(word) for word in command),
        cwd="/",
        # PostgreSQL's own variables (PGDATA, PGOPTIONS, …) are meant for somebody else's server.
        env={name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def run(command: Sequence[str | Path], account: Account) -> tuple[int, str]:
    """Run a program to its end; its exit code and all it said."""
    process = await spawn(command, account, asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
        code = await process.wait()
    finally:
        await kill(process)
    return code, output.decode(errors="replace")


async def shut_down(server: asyncio.subprocess.Process, *, immediate: bool) -> None:
    """Stop a server, asking ever less kindly: fast shutdown, immediate shutdown, SIGKILL.

    PostgreSQL, section "Shutting Down the Server".
    """
    requests = ((signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS))
    try:
        for request, patience in requests[immediate:]:
            server.send_signal(request)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait(), patience)
                return
    finally:
        await kill(server)


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process at once; does nothing if it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
