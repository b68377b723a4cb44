"""What two colours look like: to the eye, with deuteranopia, and on their ground.

Contrast is WCAG 2.2's. Deuteranopia is the matrix of Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009),
severity 1, for linear RGB. The difference is CIEDE2000, as in Sharma, Wu and Dalal, "The
CIEDE2000 Color-Difference Formula", Color Research and Application 30 (2005).
"""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

_DEUTERANOPIA = np.array([
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
])  # fmt: skip
_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
"""sRGB's primaries, with the white of D65."""


def linear(color: Any) -> Any:
    """Linear RGB of a colour of matplotlib's."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: Any, other: Any) -> float:
    """The contrast ratio that WCAG 2 defines, from 1 to 21."""
    low, high = sorted(float(_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Any) -> Any:
    """CIELAB of linear RGB."""
    ratio = (_XYZ @ rgb) / _XYZ.sum(axis=1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def hue(color: Any) -> tuple[float, float]:
    """The hue of a colour in CIELAB, in degrees, and its chroma."""
    _, a, b = lab(linear(color))
    return float(np.degrees(np.arctan2(b, a)) % 360), float(np.hypot(a, b))


def difference(one: Any, other: Any, *, deuteranopia: bool = False) -> float:
    """CIEDE2000 of two colours, also as seen with deuteranopia."""
    pair = [linear(color) for color in (one, other)]
    if deuteranopia:
        pair = [np.clip(_DEUTERANOPIA @ rgb, 0, 1) for rgb in pair]
    return ciede2000(*map(lab, pair))


def ciede2000(first: Any, second: Any) -> float:
    """CIEDE2000 of two CIELAB colours; the names are those of the paper."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    c1, c2 = np.hypot(a1 * (1 + g), b1), np.hypot(a2 * (1 + g), b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * (1 + g))) % 360 for a, b in ((a1, b1), (a2, b2)))
    is_grey = c1 * c2 == 0
    dh = 0.0 if is_grey else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if is_grey else (h1 + dh / 2) % 360
    big_dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1 - 0.17 * np.cos(np.radians(h - 30)) + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6)) - 0.20 * np.cos(np.radians(4 * h - 63))
    )  # fmt: skip
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    turn = np.radians(60 * np.exp(-(((h - 275) / 25) ** 2)))
    r_t = -np.sin(turn) * 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    dl, dc, dhue = (l2 - l1) / s_l, (c2 - c1) / s_c, big_dh / s_h
    return float(np.sqrt(dl**2 + dc**2 + dhue**2 + r_t * dc * dhue))
