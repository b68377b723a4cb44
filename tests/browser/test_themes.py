"""Charts in JupyterLab's themes, and their text alternatives as the page has them."""

import base64
import io
from pathlib import Path

import matplotlib.image
import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from epolllab.plots import style
from tests.browser.lab import DARK, LIGHT, NOTEBOOK, Lab, expect
from tests.notebooks.tools import METADATA

CHART = """
from epolllab import plots
recording = epolllab.Recording.load(epolllab.reference("one-request-eager"))
plots.timeline(recording);
"""
SENTENCE = "System calls of the event loop: 10 events of the loop and 1 connection in 167 µs"


def ground(source: str) -> str:
    """The colour of a PNG's first pixel, from the address of an image."""
    data = base64.b64decode(source.partition("base64,")[2])
    pixel = matplotlib.image.imread(io.BytesIO(data))[2, 2, :3]
    return "#" + "".join(f"{round(255 * float(part)):02X}" for part in np.asarray(pixel))


@pytest.mark.parametrize(("name", "theme"), [(DARK, style.DARK), (LIGHT, style.LIGHT)])
def test_a_chart_has_the_theme_of_the_page(
    scratch: Lab, screenshots: Path, name: str, theme: style.Theme
) -> None:
    """Without a widget, too: from JupyterLab's settings; and it has a text for its image."""
    scratch.set_theme(name)
    try:
        scratch.show(f"import epolllab{CHART}")
        image = scratch.page.locator(f"{NOTEBOOK} .jp-OutputArea-output img")
        expect(image).to_have_count(1)
        assert (image.get_attribute("alt") or "").startswith(SENTENCE)
        found = ground(image.get_attribute("src") or "")
        assert np.abs(255 * (np.array(to_rgb(found)) - to_rgb(theme.paper))).max() <= 1
        scratch.screenshot(screenshots / f"chart-{theme.name}.png")
    finally:
        scratch.set_theme(LIGHT)


def test_a_stored_chart_has_its_text_in_a_notebook_that_is_not_trusted(
    scratch: Lab, tmp_path: Path
) -> None:
    """The image is shown, and its text with it, before anything is run."""
    scratch.show(f"import epolllab{CHART}")
    scratch.page.evaluate("lab.save()")
    saved = nbformat.read(scratch.folder / "notebooks" / "scratch.ipynb", as_version=4)
    # Another notebook's code, which this JupyterLab has not signed.
    cell = nbformat.v4.new_code_cell("1 + 1", outputs=saved.cells[0].outputs)
    other = nbformat.v4.new_notebook(cells=[cell], metadata=METADATA)
    nbformat.write(other, scratch.folder / "notebooks" / "stored.ipynb")
    scratch.open("stored.ipynb")
    image = scratch.page.locator(f"{NOTEBOOK} .jp-OutputArea-output img")
    expect(image).to_have_count(1)
    assert (image.get_attribute("alt") or "").startswith(SENTENCE)
    assert image.evaluate("image => image.complete && image.naturalWidth") > 300
