"""A TCP proxy that plants network faults between a client and a real server, switchable while connections are open.

async with FaultProxy("127.0.0.1", port) as proxy:
    connect_to(proxy.port)
    proxy.stall()
    ...
    await proxy.heal()
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

READ_BYTES = 64 * 1024
LATE_SECONDS = 0.1
"""How much a throttled direction makes up for, when the machine was busy elsewhere."""


class FaultProxy:
    """Listens on a port of its own and passes bytes on to the target. Faults hold for all connections, until `heal`."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = 0
        self.connections = 0
        """How many connections were accepted, in all."""
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_left: int | None = None
        self._replies_lost = False
        self._rate: float | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def heal(self) -> None:
        """Pass everything on again; what was stalled arrives after all."""
        self._bytes_left, self._rate, self._replies_lost = None, None, False
        self._flowing.set()
        if self._server is None:
            await self._listen()

    async def refuse(self) -> None:
        """Reset open connections and refuse new ones, as a host does whose server is down."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        await asyncio.gather(*self._links, return_exceptions=True)

    def reset(self) -> None:
        """Reset the connections that are open now; new ones are served."""
        for link, writer in self._links.items():
            _reset(writer)
            link.cancel()

    def stall(self) -> None:
        """Keep connections open, and take new ones, but let no byte through."""
        self._flowing.clear()

    def cut(self, after: int = 0) -> None:
        """Reset every connection as soon as so many more bytes have passed, in both directions together."""
        self._bytes_left = after

    def lose_replies(self) -> None:
        """Pass requests on, and reset the connection when the server answers."""
        self._replies_lost = True

    def throttle(self, bytes_per_second: float) -> None:
        """Let bytes trickle, in each direction of each connection."""
        self._rate = bytes_per_second

    async def _listen(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The kernel's usual buffers would swallow megabytes before a sender feels a fault.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
        listening.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._accept, sock=listening)
        self.port = listening.getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self.connections += 1
        self._links[link] = writer
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.CancelledError):
            # The connection is over, which is all that a fault means here; asyncio would log a cancelled handler.
            _reset(writer)
        finally:
            del self._links[link]
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pump(reader, target_writer, replies=False))
                directions.create_task(self._pump(target_reader, writer, replies=True))
        except* OSError as group:
            raise ConnectionResetError("a direction broke") from group
        finally:
            target_writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        now = asyncio.get_running_loop().time
        due = now()
        while data := await source.read(READ_BYTES):
            await self._flowing.wait()
            if self._rate is not None:
                due = max(due, now() - LATE_SECONDS) + len(data) / self._rate
                await asyncio.sleep(due - now())
            data = self._let_through(data, replies=replies)
            sink.write(data)
            await sink.drain()
            if self._bytes_left == 0:
                raise ConnectionResetError("cut")
        with suppress(OSError):
            sink.write_eof()

    def _let_through(self, data: bytes, *, replies: bool) -> bytes:
        if replies and self._replies_lost:
            raise ConnectionResetError("the reply is lost")
        if self._bytes_left is None:
            return data
        data = data[: self._bytes_left]
        self._bytes_left -= len(data)
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, not FIN: what a crashed peer or a firewall does."""
    peer = writer.get_extra_info("socket")
    if peer is not None and not writer.is_closing():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
