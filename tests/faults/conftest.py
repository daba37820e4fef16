"""What tests of faults share: a source that nobody changes, large enough to be caught in the middle of its backup."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.conftest import Bucket
from tests.faults.gate import Gate
from tests.faults.places import Objects, looking_into
from tests.proxy import FaultProxy
from tests.servers import DEFAULT_MAJOR, Database, Servers

# Some 20 MB of COPY text that compress to more than one block of a multipart upload.
BULKY = """
    CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, note text NOT NULL);
    INSERT INTO orders SELECT n, n % 1000, md5(n::text) || md5((-n)::text) FROM generate_series(1, 270000) AS n;
    CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(0, 999) AS n;
    CREATE TABLE nothing_yet (id int);
"""


@pytest.fixture(scope="session")
async def bulky(servers: Servers) -> AsyncIterator[Database]:
    """A database of some 30 MB; tests back it up and change nothing."""
    server = await servers.get(DEFAULT_MAJOR)
    made = await server.create("bulky")
    await made.execute(BULKY)
    yield made
    await server.drop(made)


@pytest.fixture
async def objects(bucket: Bucket) -> AsyncIterator[Objects]:
    """What the bucket holds."""
    async with looking_into(bucket) as found:
        yield found


@pytest.fixture
async def proxy(bucket: Bucket) -> AsyncIterator[FaultProxy]:
    """Between us and the S3 server: whatever a network does."""
    target = urlsplit(bucket.endpoint_url)
    async with FaultProxy(str(target.hostname), target.port or 80) as running:
        yield running


@pytest.fixture
async def gate(bucket: Bucket) -> AsyncIterator[Gate]:
    """Between us and the S3 server: holds a request, or its reply, for as long as wished."""
    async with Gate(bucket.endpoint_url) as running:
        yield running
