"""The frames of ``phenomena()`` and ``run_all()`` as a page: groups, marks, links, a search."""

from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Any

import pandas as pd

from epolllab.experiments.catalogue.outcome import SIGNS, Verdict
from epolllab.notebook import html
from epolllab.recording import environment

__all__ = ["PhenomenaFrame"]

_NEEDED = ("name", "family", "claim", "expected", "source")

_TABLE = "border-collapse:collapse;margin:0 0 6px"
_CELL = "text-align:left;vertical-align:top;padding:3px 14px 3px 0"
_CODE = "font-family:var(--jp-code-font-family,monospace);font-size:90%;white-space:nowrap"
_SUMMARY = "cursor:pointer;padding:3px 0;font-weight:600"

_SEARCH = """
for (const page of document.querySelectorAll('.epolllab-page:not([data-search])')) {
  page.dataset.search = 'on';
  const field = document.createElement('input');
  field.type = 'search';
  field.placeholder = 'Search';
  field.setAttribute('aria-label', 'Search names, claims and sources');
  field.style.cssText = 'margin:4px 0;padding:3px 6px;width:20em;max-width:100%;color:inherit;'
    + 'background:transparent;border:1px solid var(--jp-border-color1,#888);border-radius:3px';
  page.firstElementChild.after(field);
  const groups = [...page.querySelectorAll('details')].map(group => [group, group.open]);
  field.addEventListener('input', () => {
    const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const [group, wasOpen] of groups) {
      let found = 0;
      for (const row of group.querySelectorAll('tbody tr')) {
        const text = (group.dataset.family + ' ' + row.textContent).toLowerCase();
        const matches = words.every(word => text.includes(word));
        row.style.display = matches ? '' : 'none';
        found += matches;
      }
      group.style.display = found ? '' : 'none';
      group.open = words.length ? found > 0 : wasOpen;
    }
  });
}
"""
"""Adds the search field, so that none is shown where scripts do not run."""


class PhenomenaFrame(pd.DataFrame):
    """A frame with a row for each phenomenon, which a notebook shows as a page.

    What is derived from it, such as a selection of rows, is a plain frame.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str | None:
        if not set(_NEEDED) <= set(self.columns):  # columns were taken away or renamed
            plain: str | None = pd.DataFrame(self)._repr_html_()  # type: ignore[operator]
            return plain
        return "".join(_page(self))


def _page(frame: pd.DataFrame) -> Iterator[str]:
    yield "<div class='epolllab-page' style='max-width:76em'>"
    yield f"<div><b>{escape(_title(frame))}</b></div>"
    for family, rows in frame.groupby("family", sort=False):
        verdicts = _verdicts(rows)
        is_open = set(verdicts) & {str(Verdict.DIFFERS), str(Verdict.RAISED)}
        yield f"<details data-family='{escape(str(family))}'{' open' if is_open else ''}>"
        counts = _counted(verdicts) if verdicts else f"{len(rows)}"
        yield f"<summary style='{_SUMMARY}'>{escape(f'{family}: {counts}')}</summary>"
        cells = "".join(map(_row, rows.to_dict("records")))
        yield f"<table style='{_TABLE}'><tbody>{cells}</tbody></table></details>"
    facts = frame.attrs.get("circumstances")
    for line in (*frame.attrs.get("notes", ()), environment.summary(facts) if facts else ""):
        yield html.text(line, "muted")
    yield f"</div><script>{_SEARCH}</script>"


def _title(frame: pd.DataFrame) -> str:
    n = len(frame)
    title = f"{n} phenomen{'on' if n == 1 else 'a'}"
    if not (verdicts := _verdicts(frame)):
        return title
    return f"{title}: {_counted(verdicts)}; in {frame['seconds'].sum():.1f} s"


def _verdicts(rows: pd.DataFrame) -> Counter[str]:
    """How many rows have each verdict; empty for phenomena that were not run."""
    return Counter(rows["verdict"].dropna().astype(str)) if "verdict" in rows else Counter()


def _counted(verdicts: Counter[str]) -> str:
    return ", ".join(f"{SIGNS[v][0]} {v}: {verdicts[v]}" for v in Verdict if verdicts[v])


def _row(row: dict[Any, Any]) -> str:
    """A row of the page, with what was observed unless the claim holds."""
    verdict = row.get("verdict")
    lines = [html.text(row["claim"])]
    if verdict != Verdict.HOLDS:
        lines.append(html.text(f"expected: {row['expected']}", "muted"))
        lines += [html.text(f"observed: {row['observed']}", "error")] if row.get("observed") else []
        lines.append(html.text(row.get("reason", ""), "warning"))
    kernels = f"kernels {row['kernels']}" if row.get("kernels") else ""
    lines += [html.text(line, "muted") for line in (kernels, row.get("notes", ""))]
    lines.append(html.linked(row["source"], "muted"))
    mark = ""
    if verdict in set(Verdict):
        sign, tone = SIGNS[Verdict(verdict)]
        words = f"{sign} {verdict}".replace(" ", "\N{NO-BREAK SPACE}")
        mark = f"<td style='{_CELL}'>{html.text(words, tone)}</td>"
    name = f"<td style='{_CELL};{_CODE}'>{escape(row['name'])}</td>"
    return f"<tr style='background:none'>{mark}{name}<td style='{_CELL}'>{''.join(lines)}</td></tr>"
