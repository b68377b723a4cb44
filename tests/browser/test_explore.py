"""The phenomenon explorer and the scaling sliders in JupyterLab."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.lab import Lab, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def explorer(scratch: Lab) -> Iterator[Lab]:
    """A phenomenon on the page."""
    scratch.show("explorer = widgets.explore('edge-goes-silent')\nexplorer")
    yield scratch
    scratch.run("explorer.close()")


@pytest.fixture
def sliders(scratch: Lab) -> Iterator[Lab]:
    """The reference crossover map on the page."""
    scratch.show("sliders = widgets.scaling()\nsliders")
    yield scratch
    scratch.run("sliders.close()")


def test_choosing_a_phenomenon_runs_it(explorer: Lab, screenshots: Path) -> None:
    """The page shows its name, its verdict and its chart."""
    panel = explorer.widget("explore")
    card, chart = panel.locator(".epl-outcome"), panel.locator(".epl-chart svg")
    expect(card).to_contain_text("edge-goes-silent")
    explorer.screenshots("explore", screenshots)
    names = explorer.value("[o[1] for o in explorer.controls['phenomenon'].options]")
    other = next(name for name in names if name != "edge-goes-silent")
    panel.locator("select").select_option(index=names.index(other))
    expect(card).to_contain_text(other)
    expect(chart).to_have_accessible_name(re.compile(rf"^{other} \(holds\): System calls of .*\d"))
    assert explorer.value("explorer.outcome.name") == other
    expect(card).to_contain_text(explorer.value("str(explorer.outcome.verdict)"))
    assert chart.bounding_box()["width"] > 500


def test_slider_works_by_keyboard(sliders: Lab, screenshots: Path) -> None:
    """An arrow key changes the size in the kernel and the table on the page."""
    panel = sliders.widget("scaling")
    sizes = sliders.value("sliders.curves.sizes")
    handle = panel.get_by_role("slider", name="watched", exact=True)
    handle.focus()
    handle.press("ArrowLeft")
    expect(panel.locator(".epl-table").first).to_contain_text(f"{sizes[-2]:,} watched")
    assert sliders.value("sliders.controls['n_fds'].value") == sizes[-2]
    sliders.screenshots("scaling", screenshots)


def test_slider_works_by_mouse_and_axes_change(sliders: Lab, screenshots: Path) -> None:
    """A drag to the right end selects the largest share; linear axes redraw the curves."""
    panel, mouse = sliders.widget("scaling"), sliders.page.mouse
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
    chart = panel.locator(".epl-chart svg")
    expect(chart).to_contain_text("epoll-level")
    before = chart.inner_html()
    panel.locator(".epl-axes button", has_text="linear").click()
    sliders.page.wait_for_function(
        "before => document.querySelector('.epl-chart svg').innerHTML !== before", arg=before
    )
    chosen = sliders.value("[sliders.controls[name].value for name in ('ready', 'axes')]")
    assert chosen == [shares[-1], "linear"]
    panel.screenshot(path=screenshots / "scaling-linear.png")
