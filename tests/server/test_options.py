"""The server's options: each invalid value is refused before anything starts."""

import dataclasses
import inspect
import json
from itertools import product
from typing import Any

import pytest

from epolllab import Session, start_server
from epolllab.kernel.pollers import POLLERS
from epolllab.server import Echo
from epolllab.server.options import CHECKS, LIFECYCLES, TRIGGERS, ServerOptions
from tests.conftest import held

INTEGERS = {
    "port": (0, 65_535),
    "recv_size": (1, 1 << 30),
    "max_events": (1, 65_534),
    "backlog": (0, None),
    "max_request_bytes": (1, None),
    "capacity": (1, None),
    "send_buffer": (1, None),
    "recv_buffer": (1, None),
    "max_connections": (1, None),
}
"""Options that are integers, with their bounds."""

OPTIONAL = (
    "send_buffer", "recv_buffer", "max_connections", "idle_timeout", "drain", "accept", "record_to",
)  # fmt: skip


def refused(error: type[Exception], match: str, **options: Any) -> None:
    """Check that start_server raises and has opened nothing."""
    before = held()
    with pytest.raises(error, match=match):
        start_server(**options)
    assert held() == before


# ---- one option -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("poller", "epol", "epoll"),
        ("poller", "selct", "select"),
        ("poller", "EPOLL", None),
        ("poller", "kqueue", None),
        ("trigger", "levl", "level"),
        ("trigger", "edge-triggered", None),
        ("trigger", 1, None),
        ("lifecycle", "eagre", "eager"),
        ("lifecycle", "how-to", "howto"),
        ("lifecycle", None, None),
        ("accept", "drained", "drain"),
        ("accept", 0, None),
        ("accept", -1, None),
    ],
)
def test_unknown_value(name: str, value: object, near: str | None) -> None:
    refused(ValueError, f"^{name}\\b.*" + (f"'{near}'\\?$" if near else ""), **{name: value})


@pytest.mark.parametrize("name", INTEGERS)
def test_bounds_of_integers(name: str) -> None:
    least, most = INTEGERS[name]
    assert getattr(ServerOptions(**{name: least}), name) == least
    refused(ValueError, f"^{name}\\b.*{least}", **{name: least - 1})
    if most is not None:
        assert getattr(ServerOptions(**{name: most}), name) == most
        refused(ValueError, f"^{name}\\b", **{name: most + 1})


@pytest.mark.parametrize("value", ["8080", 1.0, True, b"1", [1]], ids=repr)
@pytest.mark.parametrize("name", INTEGERS)
def test_not_an_integer(name: str, value: object) -> None:
    refused(TypeError, f"^{name}\\b", **{name: value})


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {*OPTIONAL, "request_timeout"}))
def test_none_where_there_is_a_default(name: str) -> None:
    refused((TypeError, ValueError), f"^{name}\\b", **{name: None})  # type: ignore[arg-type]


def test_none_where_it_is_the_default() -> None:
    assert ServerOptions(**dict.fromkeys(OPTIONAL)) == ServerOptions()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["idle_timeout", "request_timeout"])
@pytest.mark.parametrize("value", [0, -1, -0.5, 0.0, float("nan"), float("inf"), 1_000_001])
def test_bounds_of_timeouts(name: str, value: float) -> None:
    """They must be above 0 and no longer than epoll_wait can sleep; None switches them off."""
    refused(ValueError, f"^{name}", **{name: value})
    for accepted in (1_000_000, None):
        assert getattr(ServerOptions(**{name: accepted}), name) == accepted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *product(["idle_timeout", "request_timeout"], ["1", b"1", [1], True]),
        *product(["nodelay", "cork", "record", "process"], [1, 0, "no"]),
        ("drain", "yes"),
        *product(["host"], [127, b"127.0.0.1", ("127.0.0.1", 80)]),
        *product(["accept"], [True, 1.5]),
    ],
    ids=repr,
)
def test_wrong_type(name: str, value: object) -> None:
    """A string such as "no", which would count as true, is not taken for a bool."""
    refused(TypeError, f"^{name}\\b", **{name: value})


@pytest.mark.parametrize(
    ("options", "drains", "accept_mode"),
    [
        ({}, False, "drain"),
        ({"trigger": "edge"}, True, "drain"),
        ({"drain": True}, True, "drain"),
        ({"trigger": "edge", "drain": False}, False, "drain"),
        ({"lifecycle": "howto"}, False, 1),
        ({"lifecycle": "howto", "trigger": "edge"}, True, "drain"),
        *(({"accept": mode}, False, mode) for mode in ("drain", "ask", 1, 100)),
    ],
)
def test_drain_and_accept(options: dict[str, Any], drains: bool, accept_mode: str | int) -> None:
    """Edge reads until EAGAIN by default, and the how-to's server accepts one at a time."""
    assert ServerOptions(**options).drains is drains
    assert ServerOptions(**options).accept_mode == accept_mode


class Needs(Session):
    """A protocol that cannot be made without an argument."""

    def __init__(self, missing: object) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"protocol": "htp"}, ValueError, r"^protocol.*'http'\?$"),
        ({"protocol": 42}, TypeError, "^protocol.*42"),
        ({"protocol": dict}, TypeError, r"^protocol\(\).*\{\}"),
        ({"protocol": Needs}, TypeError, "'missing'"),
        ({"handler": repr}, ValueError, "^handler"),
        ({"protocol": Echo, "handler": repr}, ValueError, "^handler"),
        ({"protocol": "http", "handler": "text"}, TypeError, "^handler.*'text'"),
        *(({name: 1}, TypeError, name) for name in ("Poller", "life_cycle", "timeout")),
    ],
)
def test_invalid_protocols_and_unknown_options(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    refused(error, match, **options)


# ---- combinations -----------------------------------------------------------------------


def contradiction(poller: str, trigger: str, lifecycle: str) -> str | None:
    """The parameter that a combination's error names first; None for a valid one."""
    if trigger == "edge" and poller != "epoll":
        return "trigger"
    if (lifecycle == "oneshot" and poller != "epoll") or (lifecycle, trigger) == ("once", "level"):
        return "lifecycle"
    return None


@pytest.mark.parametrize(
    ("poller", "trigger", "lifecycle"), list(product(POLLERS, TRIGGERS, LIFECYCLES))
)
def test_combinations(poller: str, trigger: str, lifecycle: str) -> None:
    """Of the 24 combinations eleven are valid; the errors say what to use instead."""
    options: dict[str, Any] = {"poller": poller, "trigger": trigger, "lifecycle": lifecycle}
    name = contradiction(**options)
    if name is None:
        ServerOptions(**options)
    else:
        refused(ValueError, f'^{name}=.* needs .*="', **options)


def test_eleven_combinations_are_valid() -> None:
    valid = [way[0] for way in product(POLLERS, TRIGGERS, LIFECYCLES) if not contradiction(*way)]
    assert [valid.count(poller) for poller in POLLERS] == [7, 2, 2]


# ---- one definition ---------------------------------------------------------------------


def test_the_signature_agrees_with_the_dataclass() -> None:
    """Same names in the same order, same defaults, same types; all but two keyword-only."""
    parameters = inspect.signature(start_server).parameters
    fields = [
        (field.name, field.default, field.type) for field in dataclasses.fields(ServerOptions)
    ]
    assert [(n, p.default, p.annotation) for n, p in parameters.items()] == fields
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["host", "port"]


def test_every_option_is_documented_and_checked() -> None:
    """The session factory checks protocol and handler."""
    names = {field.name for field in dataclasses.fields(ServerOptions)}
    assert names == set(CHECKS) | {"protocol", "handler"}
    documented = inspect.getdoc(start_server) or ""
    assert not [name for name in names if f"{name} : " not in documented.replace(", ", " : ")]


def test_options_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerOptions().port = 1  # type: ignore[misc]


def test_metadata() -> None:
    def handler(request: object) -> str:
        return ""

    metadata = ServerOptions(protocol="http", handler=handler, trigger="edge").metadata()
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata.keys() == {field.name for field in dataclasses.fields(ServerOptions)}
    assert metadata["drain"] is True
    assert (metadata["accept"], metadata["protocol"]) == ("drain", "http")
    assert metadata["handler"].endswith("handler")
    assert ServerOptions(protocol=Echo).metadata()["protocol"] == "Echo"
    assert ServerOptions(protocol=lambda: Echo()).metadata()["protocol"].endswith("<lambda>")
