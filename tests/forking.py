"""Runs commands of ours in processes forked from one that has imported them: to start Python anew takes longer than
most commands do.

The process that forks has neither threads nor a loop. What it forks is a process like any other, but that its command
line is not its own: a test of that, or of signals, starts a real one.
"""

import asyncio
import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio import StreamReader, StreamReaderProtocol
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

REQUEST_BYTES = 1 << 20
PID_BYTES = 8


@dataclass(frozen=True)
class Forked:
    """A command that runs in a process of its own."""

    args: Sequence[str]
    pid: int
    _answer: socket.socket
    _out: int
    _error: int

    def ended(self, within: float) -> CompletedProcess[str]:
        """What it came to. Raises `TimeoutError` if it takes longer, in seconds."""
        self._answer.settimeout(within)
        code = int(self._answer.recv(PID_BYTES))
        return CompletedProcess(list(self.args), code, _text(self._out), _text(self._error))

    def kill(self) -> None:
        """End it at once, and wait until it has."""
        with suppress(ProcessLookupError):  # it has ended by itself just now
            os.kill(self.pid, signal.SIGKILL)
        self._answer.settimeout(None)
        self._answer.recv(PID_BYTES)


@contextmanager
def forked(args: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: str = "") -> Iterator[Forked]:
    """Start one command in that folder, with that environment and no other."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        given.write(stdin.encode())
        given.seek(0)
        pid, answer = _begin(args, environment, folder, (given.fileno(), out.fileno(), error.fileno()))
        with answer:
            yield Forked(args, pid, answer, out.fileno(), error.fileno())


def run_forked(
    args: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: str, within: float
) -> CompletedProcess[str]:
    """Run one command in that folder to its end, with that environment and no other. Kills it if it takes longer."""
    with forked(args, environment, folder, stdin) as command:
        try:
            return command.ended(within)
        except TimeoutError:
            command.kill()
            raise


class ForkedProcess:
    """A command that goes on, with the face of `asyncio.subprocess.Process`. Belongs to the running loop."""

    def __init__(self, pid: int, answer: socket.socket, stdout: StreamReader, stderr: StreamReader) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._end(answer))

    async def _end(self, answer: socket.socket) -> int:
        self.returncode = int(await asyncio.get_running_loop().sock_recv(answer, PID_BYTES))
        return self.returncode

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        """What it says until it ends, on stdout and on stderr."""
        output, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended by itself just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@asynccontextmanager
async def forked_process(
    args: Sequence[str], environment: Mapping[str, str], folder: Path
) -> AsyncIterator[ForkedProcess]:
    """A command that was started, its output in pipes; to be ended within the block."""
    (out, told), (error, complained) = os.pipe(), os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        begun = await asyncio.to_thread(_begin, args, environment, folder, (nothing, told, complained))
    finally:
        for file in (nothing, told, complained):
            os.close(file)
    pid, answer = begun
    with answer, ExitStack() as stack:
        answer.setblocking(False)
        yield ForkedProcess(pid, answer, await _reader(out, stack), await _reader(error, stack))


async def _reader(pipe: int, stack: ExitStack) -> StreamReader:
    reader = StreamReader()
    connecting = asyncio.get_running_loop().connect_read_pipe(
        lambda: StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
    )
    transport, _ = await connecting
    stack.callback(transport.close)
    return reader


def _begin(
    args: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[int]
) -> tuple[int, socket.socket]:
    """Have a command started with these for stdin, stdout and stderr: its number, and what will tell its exit code."""
    request = json.dumps([args, environment, str(folder)]).encode()
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(_forking_process(), [request], [theirs.fileno(), *streams])
    return int.from_bytes(ours.recv(PID_BYTES, socket.MSG_WAITALL), "big"), ours


def _text(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode()


@cache
def _forking_process() -> socket.socket:
    """The socket by which it is asked; it ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES)
    with theirs:
        process = subprocess.Popen(
            # Without -P, `storage` would be the folder of that name beside this file.
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            pass_fds=[theirs.fileno()],
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # first of the two
    return ours


def _serve(requests: socket.socket) -> None:
    asyncio.run(_know())
    gc.freeze()  # as `python -m daemon` does
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


async def _know() -> None:
    """Load what commands load, and look up what they look up, that none of them need do it again."""
    import daemon.cli  # noqa: F401
    from jobs.postgres.tools import find_tools
    from storage.backends.s3 import S3Backend
    from storage.backends.s3_options import S3Options

    find_tools(0, None)
    await (await S3Backend.open(S3Options("any", region="any", access_key_id="any", secret_access_key="any"))).close()


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
