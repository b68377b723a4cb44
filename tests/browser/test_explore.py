"""Phenomena and scaling sliders in JupyterLab: chosen on the page, answered by the kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.lab import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def explorer(scratch: Lab) -> Iterator[Lab]:
    """A phenomenon on the page."""
    scratch.show("explorer = widgets.explore('edge-goes-silent')\nexplorer")
    yield scratch
    scratch.ask("explorer.close()")


@pytest.fixture
def sliders(scratch: Lab) -> Iterator[Lab]:
    """The recorded scaling map on the page."""
    scratch.show("sliders = widgets.scaling()\nsliders")
    yield scratch
    scratch.ask("sliders.close()")


def test_phenomenon_chosen_on_the_page_happens(explorer: Lab, screenshots: Path) -> None:
    """Choosing another runs it: its name and verdict are the kernel's, its picture is drawn."""
    from playwright.sync_api import expect

    panel = explorer.widget("explore")
    expect(panel.locator(".epl-outcome")).to_contain_text("edge-goes-silent")
    explorer.pictures("explore", screenshots)
    other = explorer.value(
        "next(o[1] for o in explorer._choice.options if o[1] != 'edge-goes-silent')"
    )
    picture = panel.locator("img.epl-light")
    before = picture.get_attribute("src")
    choice = panel.locator("select")
    choice.select_option(
        index=explorer.value(f"[o[1] for o in explorer._choice.options].index({other!r})")
    )
    card = panel.locator(".epl-outcome")
    expect(card).to_contain_text(other)
    expect(picture).not_to_have_attribute("src", before or "")
    assert explorer.value("explorer.outcome.name") == other
    expect(card).to_contain_text(explorer.value("str(explorer.outcome.verdict)"))
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500


def test_slider_moved_by_keyboard_reaches_the_kernel(sliders: Lab, screenshots: Path) -> None:
    """Arrows move the slider; the kernel has the new size, and the page its row of numbers."""
    from playwright.sync_api import expect

    panel = sliders.widget("scaling")
    sizes = sliders.value("sliders.curves.sizes")
    handle = panel.locator(".epl-n-fds .noUi-handle")
    handle.focus()
    handle.press("ArrowLeft")
    expect(panel.locator(".epl-table").first).to_contain_text(f"{sizes[-2]:,} watched")
    assert sliders.value("sliders.controls['n_fds'].value") == sizes[-2]
    sliders.pictures("scaling", screenshots)


def test_slider_moved_by_mouse_and_axes_changed(sliders: Lab, screenshots: Path) -> None:
    """A drag to the left end gives the fewest ready; linear axes draw the curves anew."""
    from playwright.sync_api import expect

    panel = sliders.widget("scaling")
    mouse = sliders.page.mouse
    target = panel.locator(".epl-ready .noUi-target").bounding_box()
    handle = panel.locator(".epl-ready .noUi-handle").bounding_box()
    assert target is not None
    assert handle is not None
    mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    mouse.down()
    mouse.move(target["x"] + target["width"], target["y"] + target["height"] / 2, steps=8)
    mouse.up()
    shares = sliders.value("sliders.curves.shares")
    expect(panel.locator(".epl-ready .widget-readout")).to_have_text(shares[-1])
    expect(panel.locator(".epl-table").first).to_contain_text(f"{shares[-1]} ready")
    drawn = panel.locator(".epl-chart svg").inner_html()
    panel.locator(".epl-axes button", has_text="linear").click()
    expect(panel.locator(".epl-chart svg")).not_to_have_text("1e")
    sliders.page.wait_for_function(
        "before => document.querySelector('.epl-chart svg').innerHTML !== before", arg=drawn
    )
    assert sliders.value("[sliders.controls[n].value for n in ('ready', 'axes')]") == [
        shares[-1],
        "linear",
    ]
    sliders.widget("scaling").screenshot(path=screenshots / "scaling-linear.png")
