"""Runs commands of ours in processes forked from one that has imported them: to start Python anew takes longer than
most commands do.

The process that forks has neither threads nor a loop. What it forks is a process like any other, but that its command
line is not its own: a test of that, or of signals, starts a real one.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

REQUEST_BYTES = 1 << 20
PID_BYTES = 8


def run_forked(
    args: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: str, within: float
) -> CompletedProcess[str]:
    """Run one command in that folder to its end, with that environment and no other. Kills it if it takes longer."""
    request = json.dumps([args, environment, str(folder)]).encode()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        given.write(stdin.encode())
        given.seek(0)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                handed = [theirs.fileno(), given.fileno(), out.fileno(), error.fileno()]
                socket.send_fds(_forking_process(), [request], handed)
            pid = int.from_bytes(ours.recv(PID_BYTES, socket.MSG_WAITALL), "big")
            ours.settimeout(within)
            try:
                code = int(ours.recv(PID_BYTES))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
        return CompletedProcess(list(args), code, _text(out.fileno()), _text(error.fileno()))


def _text(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode()


@cache
def _forking_process() -> socket.socket:
    """The socket by which it is asked; it ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            pass_fds=[theirs.fileno()],
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # first of the two
    return ours


def _serve(requests: socket.socket) -> None:
    import daemon.cli  # noqa: F401 - what every command needs

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, handed, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            _supervise(request, handed)
        for file in handed:
            os.close(file)


def _supervise(request: bytes, handed: list[int]) -> NoReturn:
    """Run the command in a process of its own; say its number, and once it has ended its exit code."""
    answers, *streams = handed
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        _become_command(request, streams)
    os.write(answers, pid.to_bytes(PID_BYTES, "big"))
    _, status = os.waitpid(pid, 0)
    os.write(answers, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become_command(request: bytes, streams: list[int]) -> NoReturn:
    from daemon.cli import main

    arguments, environment, folder = json.loads(request)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["rowvault", *arguments]
    main()
    raise AssertionError("a command exits")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
