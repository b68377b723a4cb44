"""observe() on frameworks: which layers each gives. Each runs in a process of its own."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

WEB = """
def answered(port):
    import urllib.request
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read()

async def ask(port):
    import asyncio
    for _ in range(3):
        assert await asyncio.to_thread(answered, port) == b"hello"
"""

PROGRAMS = {
    "aiohttp": WEB
    + """
from aiohttp import web
import asyncio
async def main():
    async def hello(request):
        return web.Response(text="hello")
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await ask(runner.addresses[0][1])
    await runner.cleanup()
with epolllab.observe() as seen:
    asyncio.run(main())
""",
    "uvicorn": WEB
    + """
import asyncio, uvicorn
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
async def main():
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    await ask(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    await serving
with epolllab.observe() as seen:
    asyncio.run(main())
""",
    "websockets": """
import asyncio
async def main():
    import websockets
    async def echo(ws):
        async for message in ws:
            await ws.send(message)
    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}") as ws:
            for _ in range(3):
                await ws.send("hello")
                assert await ws.recv() == "hello"
with epolllab.observe() as seen:
    asyncio.run(main())
""",
    "tornado": WEB
    + """
import asyncio
from tornado import web
class Hello(web.RequestHandler):
    def get(self):
        self.write("hello")
async def main():
    server = web.Application([("/", Hello)]).listen(0, "127.0.0.1")
    await ask(next(iter(server._sockets.values())).getsockname()[1])
    server.stop()
with epolllab.observe() as seen:
    asyncio.run(main())
""",
    "trio": """
with epolllab.observe() as seen:
    import functools, trio
    async def main():
        async def echo(stream):
            async for data in stream:
                await stream.send_all(data)
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
            [listener] = await nursery.start(serve)
            port = listener.socket.getsockname()[1]
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            for _ in range(3):
                await stream.send_all(b"hello")
                assert await stream.receive_some(5) == b"hello"
            await stream.aclose()
            nursery.cancel_scope.cancel()
    trio.run(main)
""",
    "twisted": """
with epolllab.observe() as seen:
    from twisted.internet import epollreactor
    epollreactor.install()
    from twisted.internet import endpoints, protocol, reactor
    class Echo(protocol.Protocol):
        def dataReceived(self, data):
            self.transport.write(data)
    class Client(protocol.Protocol):
        def connectionMade(self):
            self.transport.write(b"hello")
        def dataReceived(self, data):
            assert data == b"hello"
            reactor.stop()
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
    where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    where.connect(protocol.Factory.forProtocol(Client))
    reactor.run()
""",
}

REPORT = """
import json
r = seen.recording()
table = r.connections()
print(json.dumps({"counts": r.counts(), "notes": seen.notes, "moved": int(table.n_bytes_in.sum()),
                  "connections": len(table), "callbacks": r.callbacks().name.tolist()}))
"""


def observed(program: str) -> Mapping[str, object]:
    code = "import epolllab\n" + program + REPORT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_layers_of_a_framework(name):
    """Waits, sockets and registrations in each; callbacks where asyncio runs them."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    found = observed(PROGRAMS[name])
    assert found["notes"] == []
    counts = found["counts"]
    assert counts["wait"] >= 3
    assert counts["ready"] >= 3
    assert counts["register"] >= 2
    assert counts["accept"] >= 1
    assert counts["recv"] >= 3 or name == "twisted"
    assert found["connections"] >= 1
    assert found["moved"] >= 15 or name == "twisted"
    assert ("callback" in counts) == (name not in ("trio", "twisted"))
