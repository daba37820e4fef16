"""Every backend, bare and wrapped in `Retrying`, for the one suite that all of them pass."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import cast

import pytest

from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Backend
from storage.backends.retrying import Patience, Retrying
from storage.backends.s3 import S3Backend, S3Options
from storage.backends.s3_client import S3Client
from tests.seaweed import S3Server
from tests.storage.meddler import Meddler

BUCKET = "storage-tests"
BARE = ("memory", "local", "s3")
BACKENDS = (*BARE, *(f"retrying-{name}" for name in BARE))

OpenS3 = Callable[[S3Options], Awaitable[S3Backend]]

_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
async def shared_client(s3_server: S3Server) -> AsyncIterator[S3Client]:
    """One client and one bucket for all storage tests: both take their time to make."""
    options = S3Options(
        BUCKET,
        endpoint_url=s3_server.endpoint_url,
        region="us-east-1",
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        addressing_style="path",
        connect_seconds=5,
        silence_seconds=20,
    )
    client = await S3Client.open(options)
    await client.call("make the bucket", "create_bucket")
    await client.call("find room for it", "put_object", [b"first"], Key="first")
    yield client
    await client.close()


@pytest.fixture
def s3_options(shared_client: S3Client) -> S3Options:
    """The bucket, under a prefix that no other test has."""
    return replace(shared_client.options, prefix=prefix())


def prefix() -> str:
    """One that no other test has."""
    return f"test-{next(_prefixes)}"


@pytest.fixture
def s3(shared_client: S3Client, s3_options: S3Options) -> S3Backend:
    """An empty S3 backend, bare."""
    return under_prefix(shared_client, s3_options)


@pytest.fixture(scope="session")
async def shared_meddler(shared_client: S3Client) -> AsyncIterator[tuple[Meddler, S3Client]]:
    """The session's meddler, and a client whose requests go through it."""
    async with Meddler(str(shared_client.options.endpoint_url)) as running:
        client = await S3Client.open(replace(shared_client.options, endpoint_url=running.url))
        yield running, client
        await client.close()


@pytest.fixture
def meddler(shared_meddler: tuple[Meddler, S3Client]) -> Meddler:
    """Between the client and the server; passes everything on until it is given a rule."""
    running, _ = shared_meddler
    running.rule = lambda _: None
    running.seen.clear()
    return running


@pytest.fixture
def meddled(meddler: Meddler, shared_meddler: tuple[Meddler, S3Client], s3_options: S3Options) -> S3Backend:
    """The backend `s3`, empty, by requests that go through the meddler."""
    return under_prefix(shared_meddler[1], replace(s3_options, endpoint_url=meddler.url))


def under_prefix(client: S3Client, options: S3Options) -> S3Backend:
    """A backend of other options that uses a client's connections."""
    return S3Backend(S3Client(options, client._client, AsyncExitStack()))


@pytest.fixture
async def open_s3() -> AsyncIterator[OpenS3]:
    """Opens S3 backends that are closed after the test."""
    opened: list[S3Backend] = []

    async def open_it(options: S3Options) -> S3Backend:
        opened.append(await S3Backend.open(options))
        return opened[-1]

    yield open_it
    for backend in opened:
        await backend.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn, empty; S3 is started only when its turn comes."""
    wrapping, _, kind = request.param.rpartition("-")
    bare = _bare(kind, request)
    return Retrying(bare, Patience(first_delay=0.01)) if wrapping else bare


@pytest.fixture(params=BARE)
def bare_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn, empty, without `Retrying`: for what takes long and is the same with it."""
    return _bare(request.param, request)


def _bare(kind: str, request: pytest.FixtureRequest) -> Backend:
    match kind:
        case "memory":
            return MemoryBackend()
        case "local":
            return LocalBackend(request.getfixturevalue("tmp_path") / "new" / "root")
        case _:
            return cast("S3Backend", request.getfixturevalue("s3"))
