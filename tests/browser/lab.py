"""JupyterLab as a test sees it: a page that opens notebooks, runs cells and asks kernels.

One job: turn the functions of ``lab.js`` into Python ones. What waits, waits for a
promise of JupyterLab's or for a condition in the page, never for a time to pass.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SCRIPT = Path(__file__).with_suffix(".js")
PATIENCE_MS = 60_000
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
WIDTH, HEIGHT = 1280, 1400
TALLEST = 16_000
"""Of a screenshot, in pixels; browsers draw no taller picture."""
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Lab:
    """One page on one JupyterLab.

    Attributes
    ----------
    page : playwright.sync_api.Page
        The page, for pressing and reading.
    folder : pathlib.Path
        The copy of the lab that it serves: ``notebooks`` and ``data``.
    """

    def __init__(self, page: "Page", url: str, token: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self._address = f"{url}lab?reset&token={token}"
        self.enter()

    def enter(self) -> None:
        """Load JupyterLab's page, with no notebook open."""
        self.page.goto(self._address)
        self.page.wait_for_function("window.jupyterapp", timeout=PATIENCE_MS)
        self.page.add_script_tag(path=SCRIPT)
        self.page.evaluate("lab.started()")

    def leave(self) -> None:
        """Save the notebook that is open, and go from the page; kernels are left running."""
        self.page.evaluate("lab.save()")
        self.page.goto("about:blank")

    def open(self, name: str) -> None:
        """Open a notebook of the ``notebooks`` folder, with its kernel; close the one before."""
        self.page.evaluate("path => lab.openNotebook(path)", f"notebooks/{name}")

    def run_all(self) -> list[dict[str, Any]]:
        """Run all cells: of each its source, execution count, errors, and what stderr said."""
        return self.page.evaluate("lab.runAll()")

    def show(self, source: str) -> None:
        """Run this in the notebook's only cell, so that its widget is on the page."""
        (cell,) = self.page.evaluate("source => lab.show(source)", source)
        assert not cell["errors"], plain("\n".join(cell["errors"]))

    def ask(self, code: str) -> str:
        """What the kernel prints when it runs this; a failure there is one here."""
        answer = self.page.evaluate("code => lab.ask(code)", code)
        assert answer["ok"], plain(answer["text"])
        return answer["text"].strip()

    def value(self, expression: str) -> Any:
        """What an expression is in the kernel, by JSON."""
        return json.loads(self.ask(f"import json\nprint(json.dumps({expression}))"))

    def complaints(self) -> list[str]:
        """Errors and stderr on the kernel's channel, also those that no cell shows."""
        return [plain(text) for text in self.page.evaluate("lab.complaints()")]

    def close(self) -> None:
        """Shut the kernel down and close the notebook."""
        self.page.evaluate("lab.close()")

    def set_theme(self, name: str) -> None:
        """Change between :data:`LIGHT` and :data:`DARK`, and wait until the page has."""
        self.page.evaluate("name => lab.theme(name)", name)
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light"
            " && !document.getElementById('jupyterlab-splash')",  # it fades over the page
            arg="true" if name == LIGHT else "false",
        )

    def widget(self, name: str) -> "Locator":
        """The panel of this name on the page, such as ``stepper``."""
        return self.page.locator(f".jp-OutputArea .epl-{name}.epl")

    def whole(self, path: Path) -> None:
        """Take a picture of all of the notebook that is open."""
        cells = self.page.locator(f"{NOTEBOOK} .jp-WindowedPanel-viewport")
        height = round(cells.evaluate("cells => cells.scrollHeight"))
        try:
            self.page.set_viewport_size({"width": WIDTH, "height": min(height + 140, TALLEST)})
            self.page.locator(f"{NOTEBOOK} .jp-Cell").first.scroll_into_view_if_needed()
            self.page.locator(NOTEBOOK).screenshot(path=path)
        finally:
            self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def pictures(self, name: str, folder: Path) -> list[Path]:
        """Take pictures of a panel in both themes; light is what it is left in."""
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{name}-{theme}.png" for theme in ("dark", "light")]
        for theme, path in zip((DARK, LIGHT), paths, strict=True):
            self.set_theme(theme)
            self.widget(name).screenshot(path=path)
        return paths


def plain(text: str) -> str:
    """A traceback without its colours."""
    return _ANSI.sub("", text)
