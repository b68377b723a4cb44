"""uvicorn with a small ASGI application, as an arm of the benchmark; the port is printed.

With the argument ``observed``, epolllab.observe() records it.
"""

import asyncio
import sys
from contextlib import nullcontext
from typing import Any

import uvicorn

import epolllab

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Greet."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def serve() -> None:
    """Serve until the process is killed."""
    config = uvicorn.Config(application, port=0, lifespan="off", access_log=False, loop="asyncio")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


with epolllab.observe() if sys.argv[1:] == ["observed"] else nullcontext():
    asyncio.run(serve())
