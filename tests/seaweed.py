"""A real S3 server for tests: SeaweedFS on loopback, started and stopped by whoever needs one.

server = start_seaweed(folder)     # blocks until S3 answers
...
server.stop()
"""

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

ACCESS_KEY = "rowvault-test"
SECRET_KEY = "rowvault-test-secret"
START_SECONDS = 60.0
STOP_SECONDS = 10.0

_OPTIONS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-master.volumeSizeLimitMB=128",
    "-volume.max=100",
    "-volume.preStopSeconds=0",
    "-s3",
    "-s3.iam=false",
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
)


@dataclass(frozen=True)
class S3Server:
    """A running server: where it answers, and the keys of an identity that may do everything."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the server; harmless when it is gone already."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """Stop answering without closing any connection, until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on answering."""
        self.process.send_signal(signal.SIGCONT)


def start_seaweed(folder: Path) -> S3Server:
    """Start SeaweedFS with its data and log in `folder`; returns once S3 answers."""
    folder.mkdir(parents=True, exist_ok=True)
    master, volume, filer, s3 = _free_ports(4)
    command = [
        str(Path(sys.executable).parent / "weed"),
        f"-logdir={folder}",
        "server",
        f"-dir={folder}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-s3.port={s3}",
        f"-s3.config={_identities(folder)}",
        *_OPTIONS,
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    server = S3Server(f"http://127.0.0.1:{s3}", ACCESS_KEY, SECRET_KEY, process)
    try:
        _wait_until(lambda: _answers(server, s3), f"SeaweedFS did not start; see {folder / 'server.log'}")
    except BaseException:
        server.stop()
        raise
    return server


def _identities(folder: Path) -> Path:
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "tests", "credentials": credentials, "actions": ["Admin"]}
    path = folder / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}))
    return path


def _free_ports(count: int) -> list[int]:
    """Ports nobody uses now, nor the ones 10,000 above, where SeaweedFS puts gRPC."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


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
