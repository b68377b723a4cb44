"""``epolllab run``: the load generator in a terminal."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import epolllab
from epolllab import Response
from epolllab.__main__ import main
from epolllab.clients import command
from epolllab.server import Request
from tests.wire import until


def respond(request: Request) -> Response:
    """The status that the path asks for, and what was sent."""
    status = int(request.path[1:]) if request.path[1:].isdecimal() else 200
    return Response(f"{request.method} {request.path} ".encode() + request.body, status)


@pytest.fixture
def server() -> Iterator[epolllab.Server]:
    """A server of HTTP."""
    with epolllab.start_server(protocol="http", handler=respond) as running:
        yield running


def output(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What --json printed."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_summary_and_a_histogram(
    server: epolllab.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}a?b"
    assert main(["run", url, "--requests", "60", "--connections", "3", "--keep-alive"]) == 0
    printed, errors = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].startswith(f"run against {server.url[:-1]}, 60 requests on 3 connections (keep")
    assert ["requests", "60"] in [line.split() for line in lines]
    bars = lines[lines.index("latency") + 1 :]
    counts = [int(re.findall(r"  (\d+)(?=  #|$)", bar)[0]) for bar in bars]
    assert sum(counts) == 60
    longest = max(bar.count("#") for bar in bars)
    assert longest == 40
    assert bars[counts.index(max(counts))].count("#") == longest
    assert errors == ""
    table = server.settle().requests()
    assert (len(table), set(table["target"]), table["conn"].nunique()) == (60, {"/a"}, 3)


def test_json(server: epolllab.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers, and null where there is none."""
    assert main(["run", server.url, "--requests", "20", "--connections", "2", "--json"]) == 0
    found = output(capsys)
    assert found["url"] == server.url
    assert (found["summary"]["requests"], found["summary"]["p99_us"]) == (20, None)
    assert found["summary"]["p50_us"] > 0
    assert sum(bar["requests"] for bar in found["histogram"]) == 20
    bars = found["histogram"]
    assert bars[0]["from_us"] <= found["summary"]["p50_us"] <= bars[-1]["to_us"]
    assert found["options"]["connections"] == 2
    assert (found["errors"], found["notes"], found["interrupted"]) == ({}, [], False)


@pytest.mark.parametrize(("status", "expected"), [(204, 0), (302, 0), (404, 1), (503, 1)])
def test_the_exit_status_counts_responses_that_are_errors(
    status: int, expected: int, server: epolllab.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}{status}"
    assert main(["run", url, "--requests", "4", "--connections", "1", "--json"]) == expected
    assert output(capsys)["summary"][f"status {status}"] == 4


def test_requests_that_fail(capsys: pytest.CaptureFixture[str]) -> None:
    with epolllab.start_server() as server:
        url = server.url
    assert main(["run", url, "--requests", "3", "--connections", "1"]) == 1
    printed = capsys.readouterr().out
    assert "note: 3 failed: ECONNREFUSED" in printed
    assert "latency" not in printed.splitlines()


def test_data_is_posted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: epolllab.Server
) -> None:
    """As text or from a file."""
    bodies = []

    def seen(*args: Any, **options: Any) -> epolllab.Run:
        bodies.append(options["payload"])
        return epolllab.run_clients(*args, **options)

    monkeypatch.setattr("epolllab.clients.command.run_clients", seen)
    file = tmp_path / "body"
    file.write_bytes(b"\0\xff")
    for data in ("text \N{SNOWMAN}", f"@{file}"):
        arguments = ["--requests", "1", "--connections", "1", "--data", data]
        assert main(["run", server.url, *arguments]) == 0
    assert bodies == ["text \N{SNOWMAN}".encode(), b"\0\xff"]
    assert server.settle().requests()["n_bytes_in"].min() > len(b"POST / HTTP/1.1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["https://127.0.0.1/"], "URL must begin with http://, not 'https://127.0.0.1/': .* TLS"),
        (["HTTPS://127.0.0.1/"], "URL must begin with http://"),
        (["ftp://127.0.0.1/"], "URL must be such as http://"),
        (["127.0.0.1:80"], "URL must be such as http://"),
        (["http:///a"], "URL must be such as http://"),
        (["http://anna:secret@127.0.0.1/"], "URL must have no user name"),
        (["http://127.0.0.1:x/"], "target .*port"),
        (["http://127.0.0.1:1/", "--connections", "0"], "connections must be"),
        (["http://127.0.0.1:1/", "--rate", "nan"], "rate must be"),
        (["http://127.0.0.1:1/", "--timeout", "-1"], "timeout must be"),
        (["http://127.0.0.1:1/", "--requests", "1", "--duration", "1"], "requests=1 and duration"),
        (["http://127.0.0.1:1/", "--processes", "9", "--connections", "2"], "processes=9 is more"),
        (["http://127.0.0.1:1/", "--data", "@/nonexistent"], r".*No such file.*'/nonexistent'"),
    ],
)
def test_what_cannot_be_run(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is sent; the name comes first, and a password is not repeated."""
    assert main(["run", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    (line,) = printed.err.splitlines()
    assert re.match(f"epolllab run: {message}", line), line
    assert "secret" not in line


def test_an_option_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "http://127.0.0.1:1/", "--requests", "many"])
    assert ended.value.code == 2
    assert "argument --requests: invalid int value: 'many'" in capsys.readouterr().err


def test_another_machine_is_allowed_with_a_warning(
    server: epolllab.Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests stay on the loopback, which is taken for another machine here."""
    monkeypatch.setattr("epolllab.kernel.addresses.is_loopback", lambda _: False)
    assert main(["run", server.url, "--requests", "2", "--connections", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["summary"]["succeeded"] == 2
    assert "is not this machine's loopback: put load only on servers" in printed.err
    assert f"{server.address[0]}:{server.port}" in printed.err


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_ctrl_c_shows_what_was_measured(as_json: bool, server: epolllab.Server) -> None:
    run = [sys.executable, "-m", "epolllab", "run", server.url, "--duration", "60"]
    with subprocess.Popen(
        [*run, "--connections", "1", *(["--json"] if as_json else [])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until(lambda: server.stats()["requests"] > 10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err == ""
    if as_json:
        found = json.loads(out)
        assert found["interrupted"]
        assert found["summary"]["succeeded"] > 10
    else:
        assert "note: interrupted after" in out
        assert "latency" in out.splitlines()


# ---- the histogram ----------------------------------------------------------------------


def bars_of(*values: float) -> list[tuple[float, float, int]]:
    return command.histogram(np.array(values, dtype=float))


def test_bars_have_round_edges_and_include_the_lower_one() -> None:
    assert bars_of(1.5, 1.6, 2.0, 5.5) == [(1.5, 2, 2), (2, 3, 1), (3, 5, 0), (5, 7, 1)]
    assert bars_of(1_000) == [(1_000, 1_500, 1)]
    assert bars_of(999.9) == [(700, 1_000, 1)]
    assert bars_of(0.02) == [(0.02, 0.03, 1)]


def test_a_wide_range_has_fewer_bars() -> None:
    edges = [low for low, _, _ in bars_of(10, 400)]
    assert edges == [10, 15, 20, 30, 50, 70, 100, 150, 200, 300]
    edges = [low for low, _, _ in bars_of(10, 6_000)]
    assert edges == [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000]
    wide = bars_of(1, 1e9)
    assert [low for low, _, _ in wide] == [10.0**power for power in range(10)]
    assert (wide[0][2], wide[-1][2]) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_every_value_is_in_a_bar(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(5, seed, size=1_000)
    bars = command.histogram(values)
    assert sum(n for _, _, n in bars) == 1_000
    assert bars[0][0] <= values.min()
    assert bars[-1][1] > values.max()
    assert all(a[1] == b[0] for a, b in pairwise(bars))


def test_no_values_make_no_bars() -> None:
    assert bars_of() == bars_of(0.0) == []
