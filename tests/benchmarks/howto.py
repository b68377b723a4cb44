"""The how-to's own server, as an arm of the benchmark.

The level-triggered example of Scot Doyle, "How To Use Linux epoll with Python", with its
faults: it ignores an end of file, keeps every request, and prints. Three changes make it
measurable: it listens on a free loopback port, which it prints first; its backlog is
longer; and it survives a client that leaves before the shutdown.
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
# The how-to has listen(1), which with 50 clients would measure the kernel's retries.
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
                # Added here: if the client has left, ENOTCONN ends the how-to's server.
                with contextlib.suppress(OSError):
                    connections[fileno].shutdown(socket.SHUT_RDWR)
        elif event & select.EPOLLHUP:
            epoll.unregister(fileno)
            connections[fileno].close()
            del connections[fileno]
