"""The hello protocol on asyncio or uvloop, as an arm of the benchmark.

The argument is the name of the event loop; the port is printed.
"""

import asyncio
import sys

from epolllab.server.protocols import Hello


class HelloProtocol(asyncio.Protocol):
    """The how-to's response with asyncio's callbacks, its fastest interface."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.session = Hello()

    def data_received(self, data: bytes) -> None:
        for piece in self.session.receive(data):
            self.transport.write(piece)  # type: ignore[attr-defined]
        if self.session.closing:
            self.transport.close()


async def serve() -> None:
    """Serve until the process is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(HelloProtocol, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(serve())
else:
    asyncio.run(serve())
