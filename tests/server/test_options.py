"""What a server can be told: every mistake is named before anything starts."""

import dataclasses
import inspect
import json
from typing import Any

import pytest

from epolllab import Session, start_server
from epolllab.checks import check_choice, check_int
from epolllab.kernel.pollers import POLLERS
from epolllab.server import Echo
from epolllab.server.options import LIFECYCLES, TRIGGERS, ServerOptions
from tests.conftest import held

WHOLE = {
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
"""Options that are whole numbers, with their bounds."""

OPTIONAL = ("send_buffer", "recv_buffer", "max_connections", "idle_timeout")


def refused(message: str, error: type[Exception] = ValueError, **wishes: Any) -> None:
    """Hold that start_server refuses, says so, and has opened nothing."""
    before = held()
    with pytest.raises(error, match=message):
        start_server(**wishes)
    assert held() == before


# ---- one by one -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("poller", "epol", "epoll"),
        ("poller", "selct", "select"),
        ("poller", "EPOLL", None),
        ("poller", "kqueue", None),
        ("trigger", "levl", "level"),
        ("trigger", "edge-triggered", None),
        ("lifecycle", "eagre", "eager"),
        ("lifecycle", "how-to", "howto"),
        ("lifecycle", "one-shot", "oneshot"),
        ("lifecycle", None, None),
        ("trigger", 1, None),
    ],
)
def test_a_wrong_name_is_met_with_the_right_ones(
    name: str, value: object, near: str | None
) -> None:
    """The names there are come in the message, the nearest one first of all if there is one."""
    allowed = {"poller": POLLERS, "trigger": TRIGGERS, "lifecycle": LIFECYCLES}[name]
    message = f"^{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}"
    refused(message + (f"; did you mean '{near}'" if near else "$"), **{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_have_bounds(name: str) -> None:
    """The least and the greatest are taken; one beyond is refused with the bound."""
    least, most = WHOLE[name]
    assert getattr(ServerOptions(**{name: least}), name) == least
    bound = f"at least {least}" if most is None else f"at least {least} and at most {most:,}"
    refused(f"^{name} must be {bound}, not {least - 1}$", **{name: least - 1})
    if most is not None:
        assert getattr(ServerOptions(**{name: most}), name) == most
        refused(f"^{name} must be {bound}, not {most + 1}$", **{name: most + 1})


@pytest.mark.parametrize("value", ["8080", 1.0, True, b"1", [1]], ids=repr)
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number_is_refused(name: str, value: object) -> None:
    """A text, a float and a truth value are no numbers of anything."""
    message = f"^{name} must be an integer, not "
    refused(message, TypeError, **{name: value})


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - set(OPTIONAL)))
def test_none_is_no_number_where_there_is_a_default(name: str) -> None:
    """None means "as the kernel has it" only where that is an option."""
    refused(f"^{name} must be an integer, not None$", TypeError, **{name: None})


@pytest.mark.parametrize("name", OPTIONAL)
def test_none_leaves_it_out(name: str) -> None:
    """What need not be said may be None, and is None by default."""
    assert getattr(ServerOptions(**{name: None}), name) is None
    assert getattr(ServerOptions(), name) is None


@pytest.mark.parametrize("value", [0, -1, -0.5, 0.0, float("nan"), float("inf"), 1_000_001])
def test_a_timeout_has_bounds(value: float) -> None:
    """No time, less than none, no number, and more than epoll_wait can sleep are refused."""
    refused(
        f"^idle_timeout is in seconds, above 0 and at most 1,000,000, not {value!r}$",
        idle_timeout=value,
    )
    assert ServerOptions(idle_timeout=1_000_000).idle_timeout == 1_000_000


@pytest.mark.parametrize("value", ["1", b"1", [1], True], ids=repr)
def test_a_timeout_is_a_number(value: object) -> None:
    """A text is not taken for seconds, and the message names the option."""
    refused("idle_timeout is in seconds", TypeError, idle_timeout=value)


@pytest.mark.parametrize("value", [1, 0, "no", None], ids=repr)
@pytest.mark.parametrize("name", ["nodelay", "cork", "record", "process"])
def test_a_switch_is_true_or_false(name: str, value: object) -> None:
    """What is neither, such as the text "no", would silently mean True."""
    refused(f"^{name} must be True or False, not {value!r}$", TypeError, **{name: value})


def test_drain_is_three_valued() -> None:
    """None lets the trigger decide; anything but True and False is refused."""
    assert not ServerOptions(drain=None).drains
    assert ServerOptions(trigger="edge").drains
    assert ServerOptions(drain=True).drains
    assert not ServerOptions(trigger="edge", drain=False).drains
    refused("^drain is True, False or None, not 'yes'$", TypeError, drain="yes")


@pytest.mark.parametrize("value", [None, 127, b"127.0.0.1", ("127.0.0.1", 80)], ids=repr)
def test_a_host_is_a_text(value: object) -> None:
    """An address comes as host and port; a pair of both is refused."""
    refused("^host is a name or an address, such as '127.0.0.1', not ", TypeError, host=value)


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"protocol": "htpp"}, ValueError, "protocol is one of .*did you mean 'http'"),
        ({"protocol": 3}, TypeError, "3 is not callable"),
        ({"protocol": dict}, TypeError, "must return an epolllab.Session"),
        ({"handler": repr}, ValueError, 'handler= belongs to protocol="http"'),
        ({"protocol": "http", "handler": 3}, TypeError, "a function of a request, not 3"),
    ],
)
def test_a_protocol_is_tried_beforehand(
    wishes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What makes no sessions is found before a socket is opened."""
    refused(message, error, **wishes)


def test_a_session_that_cannot_be_made_says_why() -> None:
    """The error of the user's own class comes through as it is."""

    class Needs(Session):
        def __init__(self, missing: object) -> None:
            pass

    refused("missing 1 required positional argument: 'missing'", TypeError, protocol=Needs)


@pytest.mark.parametrize(
    "wishes", [{"Poller": "epoll"}, {"life_cycle": "eager"}, {"timeout": 1}], ids=repr
)
def test_an_unknown_option_is_refused(wishes: dict[str, Any]) -> None:
    """A misspelled option is Python's own error, and nothing starts."""
    refused("unexpected keyword argument", TypeError, **wishes)


# ---- together ---------------------------------------------------------------------------


def makes_sense(poller: str, trigger: str, lifecycle: str) -> str | None:
    """Why a combination has no meaning; None for those that have one."""
    if trigger == "edge" and poller != "epoll":
        return f"{poller} is level-triggered only.*Use poller="
    if lifecycle == "oneshot" and poller != "epoll":
        return rf"EPOLLONESHOT\) is epoll's own; {poller} has none"
    if lifecycle == "once" and trigger != "edge":
        return "would spin.*Use .*trigger="
    return None


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("poller", POLLERS)
def test_what_has_no_meaning_is_refused_with_the_reason(
    poller: str, trigger: str, lifecycle: str
) -> None:
    """Of the 24 combinations eleven are taken; the others say why not and what to use."""
    wishes = {"poller": poller, "trigger": trigger, "lifecycle": lifecycle}
    reason = makes_sense(**wishes)
    if reason is None:
        ServerOptions(**wishes)
    else:
        refused(reason, **wishes)


def test_eleven_combinations_have_a_meaning() -> None:
    """There are seven for epoll, poll and select two each."""
    taken = [
        (poller, trigger, lifecycle)
        for poller in POLLERS
        for trigger in TRIGGERS
        for lifecycle in LIFECYCLES
        if makes_sense(poller, trigger, lifecycle) is None
    ]
    assert {poller: sum(p == poller for p, *_ in taken) for poller in POLLERS} == {
        "epoll": 7, "poll": 2, "select": 2,
    }  # fmt: skip


# ---- the value --------------------------------------------------------------------------


def test_start_server_takes_what_the_options_hold() -> None:
    """Every option is an argument of start_server, with the same default, keyword-only but two."""
    arguments = inspect.signature(start_server).parameters
    fields = {field.name: field.default for field in dataclasses.fields(ServerOptions)}
    assert {name: argument.default for name, argument in arguments.items()} == fields
    positional = [n for n, a in arguments.items() if a.kind is a.POSITIONAL_OR_KEYWORD]
    assert positional == ["host", "port"]


def test_options_are_for_good() -> None:
    """A running server's options cannot be changed under it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerOptions().port = 1  # type: ignore[misc]


def test_what_a_recording_keeps_of_them() -> None:
    """Names of functions rather than functions, what drain came to, and all of it JSON."""

    def handler(request: object) -> str:
        return ""

    described = ServerOptions(protocol="http", handler=handler, trigger="edge").described()
    assert json.loads(json.dumps(described)) == described
    assert described.keys() == {field.name for field in dataclasses.fields(ServerOptions)}
    assert described["drain"] is True
    assert described["protocol"] == "http"
    assert described["handler"].endswith("handler")
    assert ServerOptions(protocol=Echo).described()["protocol"] == "Echo"
    assert ServerOptions(protocol=lambda: Echo()).described()["protocol"].endswith("<lambda>")


# ---- the checks themselves --------------------------------------------------------------


def test_one_of_takes_what_is_there() -> None:
    """The allowed pass; a value that cannot be compared is refused like any other."""
    check_choice("x", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^x must be one of 'a', 'b', not \[\]$"):
        check_choice("x", [], ("a", "b"))


@pytest.mark.parametrize(("value", "least", "most"), [(0, 0, None), (5, 1, 5), (-3, -3, -3)])
def test_whole_takes_its_bounds(value: int, least: int, most: int | None) -> None:
    """Both bounds belong to what is allowed."""
    check_int("x", value, least, most)


@pytest.mark.parametrize("value", ["drained", 0, -1, True, 1.5])
def test_accept_is_a_mode_or_a_number(value: object) -> None:
    """Until EAGAIN, as many as are queued, or at most a number."""
    with pytest.raises((ValueError, TypeError), match="^accept "):
        ServerOptions(accept=value)
    for good in ("drain", "ask", 1, 100):
        assert ServerOptions(accept=good).accept_mode == good
    assert ServerOptions().accept_mode == "drain"
    assert ServerOptions(lifecycle="howto").accept_mode == 1
    assert ServerOptions(lifecycle="howto", trigger="edge").accept_mode == "drain"
