"""The diagram of an epoll instance: its parts, and what stands out."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from epolllab import plots
from epolllab.plots import diagram, style


def highlighted(ax) -> int:
    """The number of boxes and arrows in the main colour."""
    shapes = [p for p in ax.patches if isinstance(p, FancyBboxPatch | FancyArrowPatch)]
    assert len(shapes) == len(diagram._BOXES) + len(diagram._ARROWS)
    return sum(to_hex(p.get_edgecolor()).upper() == style.LIGHT.main for p in shapes)


def test_the_steps_stand_in_the_order_of_an_event() -> None:
    text = plots.alt_text(plots.epoll_inside())
    steps = ["ep_insert", "wait queue", "ep_poll_callback", "wakes one", "ep_send_events", "level"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert "highlighted" not in text


def test_every_part_is_drawn() -> None:
    drawn = {*diagram._BOXES, *diagram._ARROWS}
    assert {element for part in diagram.PARTS.values() for element in part} == drawn


@pytest.mark.parametrize("part", diagram.PARTS)
def test_a_part_stands_out(part: str) -> None:
    ax = plots.epoll_inside(highlight=[part])
    assert highlighted(ax) == len(set(diagram.PARTS[part]))
    assert f"{part} highlighted" in plots.alt_text(ax)


def test_several_parts_and_none() -> None:
    both = {*diagram.PARTS["level"], *diagram.PARTS["send"]}
    assert highlighted(plots.epoll_inside(highlight=["level", "send"])) == len(both)
    assert highlighted(plots.epoll_inside()) == 0


@pytest.mark.parametrize("value", ["level", ["rbr"], ["level", "lists"]])
def test_an_unknown_part_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^highlight\b"):
        plots.epoll_inside(highlight=value)
