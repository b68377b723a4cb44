"""HTML attributes of a panel's elements: names, tooltips and live regions.

ipywidgets gives a slider no name that a screen reader could say, shows a tooltip on a label
only, and marks no live regions. A hidden widget in each panel sets these in the page.
"""

from pathlib import Path

import anywidget
from traitlets import Dict

__all__ = ["Attributes", "field"]

_FIELDS = {
    "Dropdown": "select",
    "BoundedIntText": "input",
    "Text": "input",
    "Checkbox": "input",
    "IntSlider": ".noUi-handle",
    "SelectionSlider": ".noUi-handle",
}
"""The element that has the keyboard, of each kind of input."""


class Attributes(anywidget.AnyWidget):
    """Set ``attributes``, which maps CSS selectors to attributes, in the surrounding panel."""

    _esm = Path(__file__).with_suffix(".js").read_text()
    attributes = Dict().tag(sync=True)


def field(selector: str, kind: str, name: str, hint: str) -> dict[str, dict[str, str]]:
    """Attributes that name an input of this widget class, with the tooltip wherever one points."""
    inner = _FIELDS.get(kind)
    if inner is None:  # a group of buttons
        return {selector: {"role": "group", "aria-label": name, "title": hint}}
    found = {selector: {"title": hint}, f"{selector} label": {"title": hint}}
    if kind.endswith("Slider"):
        # Its value can also be typed. A slider over a list announces positions, not values.
        found[f"{selector} .widget-readout"] = {
            "role": "textbox", "aria-label": f"{name}, typed", "aria-live": "polite",
        }  # fmt: skip
    found[f"{selector} {inner}"] = {"aria-label": name, "title": hint}
    return found
