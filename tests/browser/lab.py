"""JupyterLab as tests use it: a page that opens notebooks, runs cells and queries kernels.

The functions are those of ``lab.js``. They wait for one of JupyterLab's promises or for a
condition in the page, never for a fixed time.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SCRIPT = Path(__file__).with_suffix(".js")
TIMEOUT_MS = 60_000
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
WIDTH, HEIGHT = 1280, 1400
PHONE = 390
LEAST_TEXT = 11
"""Height of the smallest text, in pixels."""
MAX_HEIGHT = 16_000
"""Of a screenshot, in pixels; a limit of the browser."""
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def expect(locator: "Locator") -> Any:
    """Playwright's assertions, imported late: without Playwright these tests skip."""
    from playwright.sync_api import expect

    return expect(locator)


class Lab:
    """A page of a JupyterLab.

    Attributes
    ----------
    page : playwright.sync_api.Page
        The page.
    folder : pathlib.Path
        The folder that JupyterLab serves, with ``notebooks`` and ``data``.
    """

    def __init__(self, page: "Page", url: str, token: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self._address = f"{url}lab?reset&token={token}"
        self.enter()

    def enter(self) -> None:
        """Load JupyterLab's page, without an open notebook."""
        self.page.goto(self._address)
        self.page.wait_for_function("window.jupyterapp", timeout=TIMEOUT_MS)
        self.page.add_script_tag(path=SCRIPT)
        self.page.evaluate("lab.started()")

    def leave(self) -> None:
        """Save the open notebook and leave the page; kernels keep running."""
        self.page.evaluate("lab.save()")
        self.page.goto("about:blank")

    def open(self, name: str) -> None:
        """Open a notebook with its kernel, in place of the one open before."""
        self.page.evaluate("path => lab.openNotebook(path)", f"notebooks/{name}")

    def run_all(self) -> list[dict[str, Any]]:
        """Run all cells; return each one's source, execution count, errors and stderr."""
        return self.page.evaluate("lab.runAll()")

    def show(self, source: str) -> None:
        """Run code in the notebook's only cell, so that its widget is on the page."""
        (cell,) = self.page.evaluate("source => lab.show(source)", source)
        assert not cell["errors"], plain("\n".join(cell["errors"]))

    def run(self, code: str) -> str:
        """Run code in the kernel, outside the cells; return what it printed."""
        result = self.page.evaluate("code => lab.run(code)", code)
        assert result["ok"], plain(result["text"])
        return result["text"].strip()

    def value(self, expression: str) -> Any:
        """The value of an expression in the kernel, by JSON."""
        return json.loads(self.run(f"import json\nprint(json.dumps({expression}))"))

    def errors(self) -> list[str]:
        """Errors and stderr on the kernel's channel, also those that no cell shows."""
        return [plain(text) for text in self.page.evaluate("lab.errors()")]

    def close(self) -> None:
        """Shut the kernel down and close the notebook."""
        self.page.evaluate("lab.close()")

    def set_theme(self, name: str) -> None:
        """Switch to :data:`LIGHT` or :data:`DARK`."""
        self.page.evaluate("name => lab.theme(name)", name)
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light"
            " && !document.getElementById('jupyterlab-splash')",  # it covers the page at first
            arg="true" if name == LIGHT else "false",
        )

    def widget(self, name: str) -> "Locator":
        """The panel of this name, such as ``stepper``."""
        return self.page.locator(f".jp-OutputArea .epl-{name}.epl")

    def screenshot(self, path: Path) -> None:
        """Take a picture of the whole notebook."""
        cells = self.page.locator(f"{NOTEBOOK} .jp-WindowedPanel-viewport")
        height = round(cells.evaluate("cells => cells.scrollHeight"))
        try:
            self.page.set_viewport_size({"width": WIDTH, "height": min(height + 140, MAX_HEIGHT)})
            self.page.locator(f"{NOTEBOOK} .jp-Cell").first.scroll_into_view_if_needed()
            self.page.locator(NOTEBOOK).screenshot(path=path)
        finally:
            self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def focused(self) -> str:
        """The name of the panel's part that has the keyboard."""
        name = self.page.evaluate(
            "[...(document.activeElement.closest('[class*=epl-]')?.classList ?? [])]"
            ".find(name => name.startsWith('epl-'))"
        )
        return str(name).removeprefix("epl-")

    def restart(self) -> None:
        """Restart the kernel."""
        self.page.evaluate("lab.restart()")

    def faults(self, name: str) -> list[str]:
        """What is wrong with a panel's layout, and with what it says to a screen reader."""
        return self.page.evaluate(
            "([panel, least]) => lab.faults(panel, least)", [f".epl-{name}.epl", LEAST_TEXT]
        )

    @contextmanager
    def phone(self) -> Iterator[None]:
        """Make the page as narrow as a phone, for a ``with`` block."""
        self.page.evaluate("window.jupyterapp.shell.collapseLeft()")
        self.page.set_viewport_size({"width": PHONE, "height": 2 * HEIGHT})
        try:
            yield
        finally:
            self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def screenshots(self, name: str, folder: Path) -> None:
        """Take pictures of a panel in both themes and on a phone; check its layout in each."""
        folder.mkdir(exist_ok=True)
        panel = self.widget(name)
        with self.phone():
            panel.screenshot(path=folder / f"{name}-phone.png")
            assert self.faults(name) == []
        for theme, word in ((DARK, "dark"), (LIGHT, "light")):
            self.set_theme(theme)
            panel.screenshot(path=folder / f"{name}-{word}.png")
            assert self.faults(name) == []


def plain(text: str) -> str:
    """A traceback without its colours."""
    return _ANSI.sub("", text)
