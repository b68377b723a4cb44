"""The target of run_clients(): names with several addresses, and the Host header."""

import socket

import pytest

import epolllab
from epolllab.clients.options import resolve_target

V4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
V6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))


@pytest.fixture(params=[(V6, V4), (V4, V6)], ids=["v6 first", "v4 first"])
def localhost(request, monkeypatch):
    """``localhost`` with both addresses, as most machines have it, in either order."""
    real = socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        if host != "localhost":
            return real(host, port, *args, **kwargs)
        return [
            (family, kind, proto, name, (ip, int(port or 0), *rest))
            for family, kind, proto, name, (ip, _, *rest) in request.param
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return request.param[0][4][0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_clients_find_the_family_that_the_server_listens_on(localhost, host):
    """No connection is wasted on looking for it."""
    with epolllab.start_server(host) as server:
        url = f"http://localhost:{server.port}/"
        run = epolllab.run_clients(url, connections=2, requests=10, progress=False)
        assert run.summary()["succeeded"] == 10
        assert server.settle().stats()["accepted"] == 10
    if host == "localhost":
        assert server.address[0] == localhost


def test_an_address_that_this_machine_does_not_have_is_passed_over(monkeypatch):
    """/etc/hosts may have ::1 where IPv6 is off."""
    absent = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [absent, V4])
    with pytest.warns(UserWarning, match="host="), epolllab.start_server("both.test") as server:
        assert server.address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        ("http://localhost:{port}/path?x=1", "localhost:{port}", "/path?x=1"),
        ("localhost:{port}", "localhost:{port}", "/"),
        ("http://127.0.0.1:{port}", "127.0.0.1:{port}", "/"),
        ("http://user@LOCALHOST:{port}/", "localhost:{port}", "/"),
    ],
)
def test_the_host_header_is_the_name_given(target, host, path):
    seen = []
    with epolllab.start_server(
        protocol="http", handler=lambda request: seen.append(request) or "x"
    ) as server:
        url = target.format(port=server.port)
        epolllab.run_clients(url, connections=1, requests=1, where="thread", progress=False)
    assert seen[0].headers["host"] == host.format(port=server.port)
    assert seen[0].path == path


@pytest.mark.parametrize("target", ["[::1]:{port}", "http://[::1]:{port}/", ("[::1]", "{port}")])
def test_ipv6_is_in_brackets(target):
    with epolllab.start_server("::1") as server:
        port = server.port
        given = target.format(port=port) if isinstance(target, str) else (target[0], port)
        found = resolve_target(given)
    assert found.address[:2] == ("::1", port)
    assert found.authority == f"[::1]:{port}"


def test_the_default_port_is_left_out():
    assert resolve_target("http://127.0.0.1/").authority == "127.0.0.1"
    assert resolve_target(("127.0.0.1", 80)).authority == "127.0.0.1"


@pytest.mark.parametrize("target", ["http://a..b:80/", "http://x\0y:80/", "::1", "http://:80/"])
def test_a_host_that_is_none_is_a_value_error(target):
    with pytest.raises(ValueError, match="target"):
        resolve_target(target)


def test_a_server_on_all_addresses_is_reached_over_loopback():
    assert resolve_target(("0.0.0.0", 9)).authority == "127.0.0.1:9"
