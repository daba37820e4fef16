"""Serve the demo's tables from an embedded PostgreSQL 16, which the image's programs can read, until SIGTERM.

usage: demo_database.py FILE    writes its address to FILE once it can be used
"""

import asyncio
import signal
import sys
from pathlib import Path

import asyncpg

from jobs.postgres.embedded import EmbeddedServer, find_servers

MAJOR = 16
TABLES = Path(__file__).parents[1] / "daemon" / "demo_data.sql"


async def main(address: Path) -> None:
    """Start, fill, tell the address, and wait."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with EmbeddedServer(find_servers()[MAJOR], settings={"fsync": "off", "wal_level": "logical"}) as server:
        dsn = server.dsn().get_secret_value()
        connection = await asyncpg.connect(dsn)
        await connection.execute(TABLES.read_text())
        await connection.close()
        # Whole or not there at all, for somebody waits for it.
        unfinished = address.with_suffix(".unfinished")
        unfinished.write_text(dsn + "\n")
        unfinished.rename(address)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
