"""One JupyterLab and one Chromium for all tests of this folder.

One job: start them on a copy of the lab, and end them. Without Playwright or Chromium
these tests skip, with the reason; where EPOLLLAB_REQUIRE_BROWSER=1 they fail.

They run after all others: Playwright keeps an event loop running in this thread, in
which no other test could run its own.
"""

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from tests.browser.lab import HEIGHT, PATIENCE_MS, WIDTH, Lab
from tests.notebooks.tools import METADATA

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
SCRATCH = "scratch.ipynb"
START_S, END_S = 60.0, 15.0
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # all cells in the page
}
_FOLDERS = (
    "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR",
    "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR",
)  # fmt: skip
"""Where Jupyter keeps things; each redirected, so that nothing of the user's leaks in or out."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put these tests last, in the order that they have among themselves."""
    items.sort(key=lambda item: HERE in item.path.parents)


def absent(reason: str) -> None:
    """Skip the test; where EPOLLLAB_REQUIRE_BROWSER=1 says that there is a browser, fail it."""
    __tracebackhide__ = True
    if os.environ.get("EPOLLLAB_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and EPOLLLAB_REQUIRE_BROWSER=1 asks for a browser")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """The one browser; not named ``browser``, which a plug-in of Playwright's has taken."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        absent("Playwright is not installed here; it is an extra: pip install -e '.[browser]'")
    path = shutil.which("chromium")
    if path is None:
        absent("chromium is not installed here")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def page_of(chromium: "Browser") -> Iterator["Page"]:
    """A page of its own, with nothing that another has stored."""
    page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(PATIENCE_MS)
    try:
        yield page
    finally:
        page.close()


@pytest.fixture(scope="session")
def session_lab(chromium: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The one JupyterLab, on a copy of the notebooks and the data."""
    folder = tmp_path_factory.mktemp("jupyter")
    root = folder / "lab"
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(CHECKOUT / "notebooks", root / "notebooks", ignore=hidden)
    shutil.copytree(CHECKOUT / "data" / "reference", root / "data" / "reference")
    # Without the metadata JupyterLab asks which kernel is wanted.
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")], metadata=METADATA)
    nbformat.write(notebook, root / "notebooks" / SCRATCH)
    with jupyterlab(folder, root) as (url, token), page_of(chromium) as page:
        yield Lab(page, url, token, root)


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """JupyterLab with no notebook open, before and after."""
    yield session_lab
    session_lab.close()


@pytest.fixture
def scratch(lab: Lab) -> Iterator[Lab]:
    """JupyterLab with an empty notebook open; at the end nobody may have complained."""
    lab.open(SCRATCH)
    lab.show("import epolllab\nfrom epolllab import widgets")
    yield lab
    assert lab.complaints() == []


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: EPOLLLAB_SCREENSHOTS, or a folder of pytest's."""
    named = os.environ.get("EPOLLLAB_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def jupyterlab(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Run JupyterLab on a free port; its address and token."""
    token = secrets.token_hex(16)
    places = {name: str(folder / name.lower()) for name in _FOLDERS}
    for place in places.values():
        Path(place).mkdir()
    settings = Path(places["JUPYTER_CONFIG_DIR"]) / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps(_SETTINGS))
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **places, "JUPYTER_PREFER_ENV_PATH": "1"},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        yield address(process, Path(places["JUPYTER_RUNTIME_DIR"]), log), token
    finally:
        end(process)


def address(process: "subprocess.Popen[bytes]", runtime: Path, log: Path) -> str:
    """The address of a JupyterLab that has just been started, once it says it."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        for path in runtime.glob("jpserver-*.json"):
            with suppress(json.JSONDecodeError):  # half written
                return str(json.loads(path.read_text())["url"])
        time.sleep(0.05)
    pytest.fail(f"JupyterLab did not start within {START_S:g} s; it said:\n{log.read_text()}")


def _die_with_parent() -> None:
    """Have the kernel end this process if pytest is killed: prctl(PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those of its group: JupyterLab ends its kernels."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return
