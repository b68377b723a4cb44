"""Draw the chart of the project's README from the recorded requests in ``reference``.

    python data/make_charts.py

The same recordings give the same file. The other pictures are screenshots of the widgets.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

import epolllab
from epolllab import plots

FOLDER = Path(__file__).parent / "charts"
TITLES = {
    "howto": 'lifecycle="howto": the interest mask says which step is next, 4 epoll_ctl',
    "eager": 'lifecycle="eager": write at once, 1 epoll_ctl',
}


def one_request(path: Path) -> str:
    """Draw one request in two life cycles; return the chart's text alternative."""
    with plots.style.use(dark=False):
        figure, axes = plt.subplots(2, 1, figsize=(10, 5.2), sharex=True, layout="constrained")
        for ax, (lifecycle, title) in zip(axes, TITLES.items(), strict=True):
            recording = epolllab.Recording.load(epolllab.reference(f"one-request-{lifecycle}"))
            plots.timeline(recording, ax=ax, span=(-2_000, 206_000)).set_title(title)
            ax.tick_params(labelbottom=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return plots.alt_text(figure)


if __name__ == "__main__":
    print(one_request(FOLDER / "one-request.png"))
