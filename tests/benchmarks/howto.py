"""The how-to's own server, as an arm of the benchmark.

From Scot Doyle, "How To Use Linux epoll with Python", its level-triggered example,
faults included: it reads an end-of-file as nothing, keeps every request for ever, and
prints. Three things are changed, or it could not be measured: it listens on loopback
at a free port, which it prints first; its backlog is longer; and it outlives a client
that left before the shutdown.
"""

import contextlib
import select
import socket

EOL1 = b"\n\n"
EOL2 = b"\n\r\n"
response = b"HTTP/1.0 200 OK\r\nDate: Mon, 1 Jan 1996 01:01:01 GMT\r\n"
response += b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
response += b"Hello, world!"

serversocket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
serversocket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
serversocket.bind(("127.0.0.1", 0))
# The how-to has listen(1). With 50 clients that would measure the kernel's retries.
serversocket.listen(4096)
serversocket.setblocking(False)
print(serversocket.getsockname()[1], flush=True)

epoll = select.epoll()
epoll.register(serversocket.fileno(), select.EPOLLIN)

connections = {}
requests = {}
responses = {}
while True:
    events = epoll.poll(1)
    for fileno, event in events:
        if fileno == serversocket.fileno():
            connection, address = serversocket.accept()
            connection.setblocking(False)
            epoll.register(connection.fileno(), select.EPOLLIN)
            connections[connection.fileno()] = connection
            requests[connection.fileno()] = b""
            responses[connection.fileno()] = response
        elif event & select.EPOLLIN:
            requests[fileno] += connections[fileno].recv(1024)
            if EOL1 in requests[fileno] or EOL2 in requests[fileno]:
                epoll.modify(fileno, select.EPOLLOUT)
                print("-" * 40 + "\n" + requests[fileno].decode()[:-2])
        elif event & select.EPOLLOUT:
            byteswritten = connections[fileno].send(responses[fileno])
            responses[fileno] = responses[fileno][byteswritten:]
            if len(responses[fileno]) == 0:
                epoll.modify(fileno, 0)
                # Ours: a client gone by now ends the how-to's server (ENOTCONN).
                with contextlib.suppress(OSError):
                    connections[fileno].shutdown(socket.SHUT_RDWR)
        elif event & select.EPOLLHUP:
            epoll.unregister(fileno)
            connections[fileno].close()
            del connections[fileno]
