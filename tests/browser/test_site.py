"""The web edition, built and opened: its links, its search, both themes, two widths."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag

import pytest

from tests.browser.conftest import CHECKOUT, absent, page_of
from tests.browser.lab import HEIGHT, PHONE, WIDTH, expect
from tests.notebooks.tools import FOLDER

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb") if path.stem != "00-index")
API = ("api/epolllab", "api/epolllab.frames", "api/epolllab.experiments", "api/epolllab.plots")
LOOKED_AT = ("index", "01-start-with-the-how-to", "02-step-through-level-and-edge", *API[:2])
"""Pages of which screenshots are taken."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site; building it gives no warning."""
    for name in ("sphinx", "myst_nb", "furo", "numpydoc"):
        if find_spec(name) is None:
            absent(f"{name} is not installed here; it is an extra: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, str(CHECKOUT / "data" / "make_site.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"wrote {folder / 'index.html'}\n"), (
        done.stdout + done.stderr
    )
    return folder


@pytest.fixture
def page(chromium: "Browser") -> Iterator["Page"]:
    """A visitor's page, which must not report errors."""
    errors: list[str] = []
    with page_of(chromium) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
    assert errors == []


class Silent(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: Any) -> None:
        """Not to stderr."""


@pytest.fixture(scope="module")
def host(site: Path) -> Iterator[str]:
    """The address of the site on a plain server of files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=site)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Links(HTMLParser):
    """The addresses that a page refers to, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.scripts: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect a tag's addresses and its place."""
        values: dict[str, Any] = dict(attrs)
        self.places |= {value for key in ("id", "name") if (value := values.get(key))}
        found = {value for key in ("href", "src") if (value := values.get(key))}
        self.addresses |= found
        if tag in ("script", "img", "iframe") or values.get("rel") == "stylesheet":
            self.scripts |= found


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    """All pages with their links."""
    return {path: Links(path) for path in site.rglob("*.html")}


def test_every_notebook_and_module_has_a_page(pages: dict[Path, Links], site: Path) -> None:
    names = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    assert names >= {"index", "search", "api", *NOTEBOOKS, *API}


def test_every_link_within_the_site_leads_somewhere(pages: dict[Path, Links], site: Path) -> None:
    """To a file, and to a place in it if it names one."""
    dead = []
    for path, links in pages.items():
        for link in links.addresses:
            local, place = urldefrag(unquote(link))
            if "://" in link or link.startswith(("data:", "mailto:")):
                continue
            target = (path.parent / local.partition("?")[0]).resolve() if local else path
            known = pages.get(target)
            if not target.is_file() or (place and known and place not in known.places):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_another_host(pages: dict[Path, Links]) -> None:
    loaded = {link for links in pages.values() for link in links.scripts if "://" in link}
    assert loaded == set()


def test_the_index_leads_to_each_notebook(pages: dict[Path, Links], site: Path) -> None:
    """In its text, with a picture; and the sources of phenomena lead to manual pages."""
    links = pages[site / "index.html"].addresses
    assert links >= {f"{name}.html" for name in NOTEBOOKS}
    assert "https://man7.org/linux/man-pages/man7/epoll.7.html" in links


def test_the_api_has_the_public_names(pages: dict[Path, Links], site: Path) -> None:
    places = pages[site / "api" / "epolllab.html"].places
    assert {"epolllab.start_server", "epolllab.run_clients", "epolllab.Recording.load"} <= places
    frames = pages[site / "api" / "epolllab.frames.html"].places
    assert "epolllab.frames.events" in frames


BRIGHTNESS = """() => {
    const rgb = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
    return (rgb[0] + rgb[1] + rgb[2]) / 3;
}"""
WIDER = """() => {
    const body = [...document.querySelectorAll("article *")];
    const out = body.filter(part => part.getBoundingClientRect().right > innerWidth + 1
        && !part.closest(".cell_output, pre, .table-wrapper"));
    return document.documentElement.scrollWidth > innerWidth
        ? ["too wide", ...out.slice(0, 3).map(part => part.outerHTML.slice(0, 120))] : [];
}"""
PICTURES = """async () => {
    const images = [...document.querySelectorAll("article img")];
    images.forEach(image => { image.loading = "eager"; });
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    return images.filter(image => !image.naturalWidth || !image.alt).map(image => image.src);
}"""


@pytest.mark.parametrize("width", [WIDTH, PHONE])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_in_both_themes(
    theme: str, width: int, host: str, page: "Page", screenshots: Path
) -> None:
    """No page scrolls sideways; every picture is there, with a text alternative."""
    page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    page.set_viewport_size({"width": width, "height": HEIGHT})
    for name in ("index", *NOTEBOOKS, *API):
        page.goto(f"{host}/{name}.html")
        assert (page.evaluate(BRIGHTNESS) > 128) == (theme == "light")
        assert page.evaluate(WIDER) == [], name
        assert page.evaluate(PICTURES) == [], name
        if name in LOOKED_AT:
            kind = f"{width}-{theme}"
            page.screenshot(path=screenshots / f"site-{Path(name).name}-{kind}.png")


def test_the_theme_can_be_switched(host: str, page: "Page") -> None:
    """And stays on the next page."""
    page.emulate_media(color_scheme="light")
    page.goto(f"{host}/index.html")
    assert page.evaluate(BRIGHTNESS) > 128
    for _ in range(3):  # auto, light, dark, in an order that depends on the system's theme
        if page.evaluate(BRIGHTNESS) > 128:
            page.locator(".theme-toggle:visible").first.click()
    assert page.evaluate(BRIGHTNESS) < 128
    page.locator("article a", has_text="Start with the how-to").first.click()
    expect(page.locator("h1")).to_contain_text("Start with the how-to")
    assert page.evaluate(BRIGHTNESS) < 128


@pytest.mark.parametrize(
    ("words", "found"), [("descriptors", NOTEBOOKS), ("start_server", ["epolllab"])]
)
def test_the_search_finds(words: str, found: list[str], host: str, page: "Page") -> None:
    """Text of notebooks, and names of the API; a result leads to its page."""
    page.goto(f"{host}/index.html")
    box = page.locator(".sidebar-search").first
    box.fill(words)
    box.press("Enter")
    result = page.locator("#search-results ul.search li a").first
    expect(result).to_be_visible()
    links = page.locator("#search-results ul.search li a").all()
    names = {Path((link.get_attribute("href") or "").partition("?")[0].split("#")[0]).stem
             for link in links}  # fmt: skip
    assert names & set(found)
    result.click()
    expect(page.locator("article")).to_contain_text(words, ignore_case=True)
