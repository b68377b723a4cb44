"""The frames of phenomena() and run_all() as pages."""

import pickle
import re
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from epolllab import experiments
from epolllab.experiments.catalogue.page import PhenomenaFrame
from epolllab.notebook import html


class Groups(HTMLParser):
    """Collects the groups of a page, the texts of their rows, and whether tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.groups: dict[str, list[str]] = {}
        self.open: dict[str, bool] = {}
        self.links: list[str] = []
        self.tags: list[str] = []
        self.family = ""
        self.feed(page)
        assert self.tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a group or a row."""
        self.tags.append(tag)
        given = dict(attrs)
        if tag == "details":
            self.family = given["data-family"] or ""
            self.groups[self.family] = []
            self.open[self.family] = "open" in given
        elif tag == "tr":
            self.groups[self.family].append("")
        elif tag == "a":
            self.links.append(given["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        """Tags are closed in the opposite order."""
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        """Add text to the row."""
        if "tr" in self.tags:
            self.groups[self.family][-1] += f"{data}\n"


def judged(*verdicts: str, **more: Any) -> PhenomenaFrame:
    """A frame as run_all() returns it, with these verdicts in two families."""
    rows = [
        {"name": f"p{n}", "family": "<first>" if n < 2 else "second", "claim": f"claim {n}",
         "expected": "1", "observed": "<2>", "verdict": verdict, "seconds": 0.5,
         "source": "epoll(7)", "reason": "because" if "not" in verdict else "", **more}
        for n, verdict in enumerate(verdicts)
    ]  # fmt: skip
    return PhenomenaFrame(rows)


def html_of(frame: Any) -> str:
    """What a notebook shows."""
    page: str = frame._repr_html_()
    return page


def test_the_catalogue_is_a_page_with_every_phenomenon_in_its_group() -> None:
    frame = experiments.phenomena()
    page = Groups(html_of(frame))
    assert list(page.groups) == list(frame["family"].unique())
    assert not any(page.open.values())
    for family, rows in page.groups.items():
        own = frame[frame["family"] == family]
        assert len(rows) == len(own)
        for text, (_, one) in zip(rows, own.iterrows(), strict=True):
            assert text.startswith(f"{one['name']}\n{one['claim']}\n")
            assert f"expected: {one['expected']}" in text
            assert one["notes"] in text
    assert "https://man7.org/linux/man-pages/man7/epoll.7.html" in page.links


def test_verdicts_are_marked_and_what_differs_is_open() -> None:
    """With what was expected and observed; of what holds, the claim is enough."""
    source = html_of(judged("holds", "differs", "holds", "not possible here"))
    page = Groups(source)
    assert page.open == {"<first>": True, "second": False}
    (holds, differs), (_, impossible) = page.groups.values()
    assert holds.split("\n")[:3] == ["✓\N{NO-BREAK SPACE}holds", "p0", "claim 0"]
    assert "observed" not in holds
    assert differs.startswith("✗\N{NO-BREAK SPACE}differs\n")
    assert "expected: 1\nobserved: <2>" in differs
    assert "because" in impossible
    title = "4 phenomena: ✓ holds: 2, ✗ differs: 1, \N{EN DASH} not possible here: 1; in 2.0 s"
    assert title in source
    assert "second: ✓ holds: 1, \N{EN DASH} not possible here: 1" in source


def test_a_run_is_a_page_with_its_circumstances() -> None:
    frame = experiments.run_all(progress=False, only=["coalescing", "level-repeats"])
    page = html_of(frame)
    assert "2 phenomena: ✓ holds: 2; in" in page
    assert "Linux" in re.sub("<[^>]*>", "", page.partition("</details>")[2])


def test_notes_of_an_interrupt_are_shown() -> None:
    frame = judged("holds")
    frame.attrs = {"notes": ["interrupted after 1 of 3 phenomena"]}
    assert "interrupted after 1 of 3 phenomena" in html_of(frame)


@pytest.mark.parametrize("make", [experiments.phenomena, lambda: judged("holds", "differs")])
def test_it_is_a_frame_and_what_is_derived_from_it_a_plain_one(make: Any) -> None:
    frame = make()
    assert isinstance(frame, pd.DataFrame)
    for derived in (frame[frame["name"] == "p0"], frame.copy(), frame.head(1), frame[["name"]]):
        assert type(derived) is pd.DataFrame
    again = pickle.loads(pickle.dumps(frame))
    assert html_of(again) == html_of(frame)


def test_a_frame_without_its_columns_is_shown_as_any_other() -> None:
    frame = judged("holds")
    del frame["claim"]
    assert "dataframe" in html_of(frame)


def test_no_phenomena_make_an_empty_page() -> None:
    frame = experiments.run_all(progress=False, only=[])
    assert Groups(html_of(frame)).groups == {}


@pytest.mark.parametrize(
    ("source", "links"),
    [
        ("epoll_ctl(2), EPERM; poll(2)", ["man2/epoll_ctl.2", "man2/poll.2"]),
        ("RFC 9293, 3.10.7", ["https://www.rfc-editor.org/rfc/rfc9293"]),
        ("tcp_poll() in net/ipv4/tcp.c", ["linux/blob/master/net/ipv4/tcp.c"]),
        ("scotdoyle.com/python-epoll-howto.html; listen(2)",
         ["http://scotdoyle.com/python-epoll-howto.html", "man2/listen.2"]),
        ("a closed end <b>, close()", []),
    ],
)  # fmt: skip
def test_sources_have_links(source: str, links: list[str]) -> None:
    linked = html.linked(source)
    found = re.findall("href='([^']*)'", linked)
    assert len(found) == len(links)
    assert all(part in address for part, address in zip(links, found, strict=True))
    assert "<b>" not in linked
