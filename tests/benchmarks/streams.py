"""The same protocol on asyncio or uvloop, as an arm of the benchmark.

Run with the name of the event loop; prints the port it listens at.
"""

import asyncio
import sys

from epolllab.server.protocols import Hello


class HelloProtocol(asyncio.Protocol):
    """The how-to's answer with asyncio's callbacks, the fastest form asyncio has."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.session = Hello()

    def data_received(self, data: bytes) -> None:
        for answer in self.session.receive(data):
            self.transport.write(answer)  # type: ignore[attr-defined]
        if self.session.closing:
            self.transport.close()


async def serve() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(HelloProtocol, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(serve())
else:
    asyncio.run(serve())
