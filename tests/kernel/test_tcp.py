"""TCP_INFO, accept queues and readable bytes, compared with what was sent just before."""

import socket
import sys
from contextlib import ExitStack

import pytest

from epolllab import kernel
from epolllab.kernel import tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


def test_tcp_info_of_a_connection(connection):
    """State, sizes and byte counts of both ends agree with what was sent."""
    _, client, accepted = connection
    client.sendall(b"x" * 1000)
    assert accepted.recv(1000, socket.MSG_WAITALL | socket.MSG_PEEK) == b"x" * 1000
    sent, received = kernel.tcp_info(client), kernel.tcp_info(accepted)
    assert (sent.state, received.state) == ("ESTABLISHED", "ESTABLISHED")
    assert received.bytes_received == 1000
    assert sent.bytes_sent == 1000
    assert sent.snd_mss > 0
    assert sent.snd_cwnd > 0
    assert sent.rto_us >= 1000


def test_tcp_info_names_the_states(connection):
    """Half-closed ends are FIN_WAIT2 and CLOSE_WAIT, a listener LISTEN."""
    listener, client, accepted = connection
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    assert kernel.tcp_info(accepted).state == "CLOSE_WAIT"
    assert kernel.tcp_info(client).state in ("FIN_WAIT1", "FIN_WAIT2")  # the ACK may be late
    assert kernel.tcp_info(listener).state == "LISTEN"


def test_tcp_info_of_an_older_kernel_is_shorter():
    """Fields beyond what the kernel returned are None, the others are kept."""
    with socket.socket() as sock:
        whole = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    old = tcp._decode_tcp_info(whole[:104])
    assert (old.state, old.total_retrans) == ("CLOSE", 0)
    first_new = old._fields.index("bytes_acked")
    assert set(old[first_new:]) == {None}
    newer = tcp._decode_tcp_info(whole[:150])  # cut inside min_rtt
    assert (newer.segs_in, newer.notsent_bytes, newer.min_rtt_us) == (0, 0, None)
    with pytest.raises(OSError, match="40 bytes"):
        tcp._decode_tcp_info(whole[:40])


def test_tcp_info_fields_are_read_from_the_kernels_offsets():
    """Each field has its own offset in struct tcp_info (include/uapi/linux/tcp.h)."""
    offsets = {
        "retransmits": 2, "rto_us": 8, "snd_mss": 16, "unacked": 24, "sacked": 28, "lost": 32,
        "last_data_sent_ms": 44, "last_data_recv_ms": 52, "rtt_us": 68, "rttvar_us": 72,
        "snd_cwnd": 80, "total_retrans": 100, "bytes_acked": 120, "bytes_received": 128,
        "segs_out": 136, "segs_in": 140, "notsent_bytes": 144, "min_rtt_us": 148,
        "delivery_rate": 160, "busy_time_us": 168, "rwnd_limited_us": 176,
        "sndbuf_limited_us": 184, "delivered": 192, "bytes_sent": 200, "bytes_retrans": 208,
        "snd_wnd": 228,
    }  # fmt: skip
    data = bytearray(280)
    for number, offset in enumerate(offsets.values(), start=1):
        data[offset] = number
    if sys.byteorder == "big":
        pytest.skip("the expected bytes are little-endian")
    info = tcp._decode_tcp_info(bytes(data))._asdict()
    assert info.pop("state") == "state 0"
    assert info == {name: number for number, name in enumerate(offsets, start=1)}


def test_only_tcp_sockets_have_tcp_info(pair):
    """A Unix socket and a datagram socket are refused; a closed socket is EBADF."""
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for sock, kind in ((pair[0], "AF_UNIX SOCK_STREAM"), (datagrams, "SOCK_DGRAM")):
            with pytest.raises(ValueError, match=f"^sock .*{kind}"):
                kernel.tcp_info(sock)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.tcp_info(datagrams)


def test_listen_queue_counts_connections_not_yet_accepted():
    """The length grows with each complete connection and falls with each accept."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=7))
        assert kernel.listen_queue(listener) == (0, 7)
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        assert kernel.listen_queue(listener).length == 3
        stack.enter_context(listener.accept()[0])
        assert kernel.listen_queue(listener) == (2, 7)


def test_only_a_listener_has_an_accept_queue(connection):
    """The error has the socket's state."""
    with pytest.raises(ValueError, match=r"^sock\b.*ESTABLISHED"):
        kernel.listen_queue(connection[1])


def test_bytes_readable(pair, connection):
    """What one end sent and the other has not read; EINVAL for a listener."""
    left, right = pair
    left.send(b"12345")
    assert kernel.bytes_readable(right) == 5
    right.recv(2)
    assert kernel.bytes_readable(right.fileno()) == 3
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.bytes_readable(connection[0])
