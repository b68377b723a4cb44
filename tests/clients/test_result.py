"""A run says which of its responses were no success."""

import pytest

import epolllab


def served(statuses):
    """A run of one request per status, each answered with that status, in turn."""
    left = list(statuses)
    with epolllab.start_server(
        protocol="http", handler=lambda request: epolllab.Response(b"x", status=left.pop(0))
    ) as server:
        return epolllab.run_clients(
            server, connections=1, requests=len(statuses), keep_alive=True, progress=False
        )


@pytest.mark.parametrize(
    ("statuses", "notes"),
    [
        ([200, 201, 204], []),
        ([500] * 4, ["4 of 4 responses had status 500"]),
        (
            [200, 503, 404, 200, 503],
            ["1 of 5 responses had status 404", "2 of 5 responses had status 503"],
        ),
        ([301], ["1 of 1 responses had status 301"]),
    ],
)
def test_statuses_other_than_success_are_noted(statuses, notes):
    """In notes, repr and card; the summary counts each status except 200."""
    run = served(statuses)
    assert [note for note in run.notes if "status" in note] == notes
    assert all(note in repr(run) and note in run._repr_html_() for note in notes)
    sums = run.summary()
    for status in set(statuses) - {200}:
        assert sums[f"status {status}"] == statuses.count(status)


def test_a_handler_that_fails_is_seen_on_both_sides():
    """Its clients' run has the status, and the server's card the fault and its traceback."""
    with epolllab.start_server(protocol="http", handler=lambda request: 1 / 0) as server:
        run = epolllab.run_clients(server, connections=2, requests=6, progress=False)
        server.settle()
        assert "6 of 6 responses had status 500" in repr(run)
        assert "6 faults" in repr(server)
        assert "ZeroDivisionError" in server._repr_html_()
        assert "6; see metadata" in server.recording()._repr_html_()
