"""A real S3 server for tests: SeaweedFS on loopback, started and stopped by whoever needs one.

server = start_seaweed(folder)     # blocks until S3 answers
...
server.stop()
"""

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from daemon.demo_store import Store, remove_sockets, store_command

ACCESS_KEY = "rowvault-test"
SECRET_KEY = "rowvault-test-secret"
DOMAIN = "s3.test"
"""Where it looks for a bucket in the host name: `bucket.s3.test`."""
START_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class S3Server:
    """A running server: where it answers, and the keys of an identity that may do everything."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]
    store: Store

    def stop(self) -> None:
        """End the server; harmless when it is gone already."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        remove_sockets(self.store)

    def kill(self) -> None:
        """End the server at once, for one whose data nobody needs any more: to stop takes seconds."""
        self.process.kill()
        self.process.wait()
        remove_sockets(self.store)

    def freeze(self) -> None:
        """Stop answering without closing any connection, until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on answering."""
        self.process.send_signal(signal.SIGCONT)


def start_seaweed(folder: Path) -> S3Server:
    """Start SeaweedFS with its data and log in `folder`; returns once S3 answers."""
    folder.mkdir(parents=True, exist_ok=True)
    command, store = store_command(folder, ACCESS_KEY, SECRET_KEY)
    command.append(f"-s3.domainName={DOMAIN}")
    environment = os.environ | {"WEED_S3_SSE_KEY": "what it encrypts with, where it is asked to"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    server = S3Server(store.endpoint_url, ACCESS_KEY, SECRET_KEY, process, store)
    try:
        _wait_until(lambda: _answers(server, store.port), f"SeaweedFS did not start; see {folder / 'server.log'}")
    except BaseException:
        server.stop()
        raise
    return server


def _answers(server: S3Server, port: int) -> bool:
    if server.process.poll() is not None:
        raise RuntimeError(f"SeaweedFS ended with exit code {server.process.returncode}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wait_until(ready: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.1)
