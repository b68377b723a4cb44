"""The style: a colour for every meaning, the chosen theme, and settings that are restored."""

import matplotlib as mpl
import pytest

import epolllab
from epolllab import frames, plots
from epolllab.plots import style
from tests.plots.colors import contrast
from tests.samples import served


@pytest.fixture
def _default_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was chosen, and no page has reported its theme; afterwards as before."""
    monkeypatch.setattr(style, "_chosen", "auto")
    monkeypatch.setattr(style, "_reported", "")


def test_both_themes_give_every_meaning_a_colour() -> None:
    """Both know the same names, and no two of a kind have the same colour."""
    for kind in ("variants", "ops", "spans"):
        light, dark = getattr(style.LIGHT, kind), getattr(style.DARK, kind)
        assert list(light) == list(dark)
        assert len(set(light.values())) == len(light)
        assert len(set(dark.values())) == len(dark)


def test_every_operation_has_a_colour_group() -> None:
    """A new operation needs a colour; ready rows are marks and need none."""
    ops = set(frames.OP_DTYPE.categories) - {"ready"}
    assert ops == set(style.OP_GROUPS)
    assert set(style.OP_GROUPS.values()) == set(style.LIGHT.ops)


def test_a_variant_without_a_known_word_has_its_place_in_the_palette() -> None:
    """Unknown names still differ from each other."""
    theme = style.current()
    assert theme.variant("eager", 0) != theme.variant("howto", 1)
    assert theme.variant("epoll") == theme.variants["level"]
    assert theme.variant("Edge, 1 kB") == theme.variants["edge"]


def test_the_settings_are_restored_also_after_an_error() -> None:
    """Nested blocks inherit the theme, and an exception leaves no setting behind."""
    before = dict(mpl.rcParams)
    with style.use(dark=True), style.use() as inner:
        assert inner is style.DARK
    with pytest.raises(ZeroDivisionError), style.use(dark=True):
        1 / 0  # noqa: B018
    assert style.current() is style.LIGHT
    assert dict(mpl.rcParams) == before


@pytest.mark.usefixtures("_default_theme")
def test_a_chosen_theme_holds_for_every_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of use() has precedence, and "auto" follows the page again."""
    monkeypatch.setattr("epolllab.notebook.page.theme", lambda: "")
    assert style.current() is style.LIGHT
    epolllab.set_theme("dark")
    ax = plots.timeline(served(2, 2).events())
    assert mpl.colors.to_hex(ax.figure.get_facecolor()).upper() == style.DARK.paper
    with style.use(dark=False) as theme:
        assert theme is style.LIGHT
    epolllab.set_theme("auto")
    assert style.current() is style.LIGHT


@pytest.mark.usefixtures("_default_theme")
def test_auto_is_what_a_widget_reported_and_else_what_the_kernel_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report has precedence over settings, and a choice over both."""
    monkeypatch.setattr("epolllab.notebook.page.theme", lambda: "dark")
    assert style.current() is style.DARK
    style.page_theme("light")
    assert style.current() is style.LIGHT
    style.page_theme("dark")
    assert style.current() is style.DARK
    epolllab.set_theme("light")
    assert style.current() is style.LIGHT


def test_a_theme_that_does_not_exist_is_refused() -> None:
    """The message lists those that do."""
    with pytest.raises(ValueError, match=r"^name must be one of 'light', 'dark', 'auto'"):
        epolllab.set_theme("Dark")
    with pytest.raises(ValueError, match=r"^name must be one of 'light', 'dark'"):
        style.page_theme("auto")


@pytest.mark.parametrize("fill", ["#FFFFFF", "#000000", "#767676", "#0072B2", "#FF8A3D", "#808080"])
def test_text_on_a_fill_can_be_read(fill: str) -> None:
    """Also on middle greys, where black and white are nearly equal."""
    assert contrast(style.text_on(fill), fill) >= 4.5
