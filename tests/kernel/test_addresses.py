"""Host names: all addresses in order, the one that a server listens on, and the Host header."""

import socket

import pytest

from epolllab.kernel import addresses

LOCAL = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET, ("127.0.0.2", 0))]


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [
        ("localhost", 8000, "localhost:8000"),
        ("localhost", 80, "localhost"),
        ("::1", 8000, "[::1]:8000"),
        ("[::1]", 80, "[::1]"),
        ("127.0.0.1", 8080, "127.0.0.1:8080"),
        ("bücher.example", 81, "xn--bcher-kva.example:81"),
    ],
)
def test_an_authority_is_the_name_given(host, port, shown):
    """IPv6 in brackets, no port if it is HTTP's, names as IDNA."""
    assert addresses.authority(host, port) == shown


@pytest.mark.parametrize("host", ["a..b", "a\0b", "x" * 64 + ".example"])
def test_an_impossible_name_is_a_value_error(host):
    with pytest.raises(ValueError, match="host must be"):
        addresses.resolve("host", host, 80)


def test_an_unknown_name_is_an_os_error():
    with pytest.raises(OSError, match=r"host 'no\.such\.host\.invalid'"):
        addresses.resolve("host", "no.such.host.invalid", 80)


@pytest.mark.parametrize("host", ["127.9.9.9", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"])
def test_loopback(host):
    """An IPv4 address in the notation of IPv6 counts as that address."""
    assert addresses.is_loopback((host, 80)) == (host != "::ffff:10.0.0.1")


def test_brackets_are_taken_off_to_resolve():
    assert addresses.resolve("host", "[::1]", 80) == [(socket.AF_INET6, ("::1", 80, 0, 0))]


@pytest.mark.parametrize("place", [0, 1])
def test_the_address_with_a_listener_is_chosen(place):
    """The listener gets no connection from being looked for."""
    with socket.create_server(LOCAL[place][1]) as listener:
        port = listener.getsockname()[1]
        found = [(family, (host, port)) for family, (host, _) in LOCAL]
        assert addresses.choose_address(found) == found[place]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_first_address_is_chosen_without_a_listener():
    with socket.socket() as bound:
        bound.bind(("0.0.0.0", 0))  # so that no other process listens there
        port = bound.getsockname()[1]
        found = [(family, (host, port)) for family, (host, _) in LOCAL]
        assert addresses.choose_address(found) == found[0]


def test_a_listener_on_all_addresses_is_found():
    with socket.create_server(("0.0.0.0", 0)) as listener:
        found = [(socket.AF_INET6, ("::1", 1, 0, 0)), (socket.AF_INET, listener.getsockname())]
        found[1] = (socket.AF_INET, ("127.0.0.1", listener.getsockname()[1]))
        assert addresses.choose_address(found) == found[1]
