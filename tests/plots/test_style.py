"""The style: colours that can be told apart and read, and settings that are restored."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from epolllab import frames
from epolllab.plots import style


def luminance(color: str) -> float:
    """The relative luminance that WCAG 2 defines."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    """The contrast ratio that WCAG 2 defines, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK], ids=lambda theme: theme.name)
def test_text_has_enough_contrast(theme: style.Theme) -> None:
    """WCAG requires 4.5 for text, and 3 for large text and for lines that carry meaning."""
    for color in (theme.ink, theme.muted, theme.alarm, theme.main):
        assert contrast(color, theme.paper) >= 4.5
    for name in ("level", "edge", "oneshot", "poll"):
        assert contrast(theme.variants[name], theme.paper) >= 3


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
