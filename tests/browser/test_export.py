"""The export button of every panel in JupyterLab."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.browser.lab import Lab, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PANELS = {
    "dashboard": "panel = widgets.dashboard()\npanel.start_server()\npanel.start_clients()\n"
    "panel.watch(1.0)",
    "stepper": "panel = widgets.stepper()\npanel.steps.peer_writes(100)\npanel.steps.wait()",
    "explore": "panel = widgets.explore('edge-goes-silent')",
    "scaling": "panel = widgets.scaling()",
}


@pytest.mark.parametrize("name", PANELS)
def test_export_button_writes_chart_data_and_circumstances(name: str, scratch: Lab) -> None:
    """They go to data/exports; every press takes a new name and overwrites nothing."""
    scratch.show(f"{PANELS[name]}\npanel")
    panel = scratch.widget(name)
    given = panel.locator(".epl-export-name input")
    result = panel.locator(".epl-export-result")
    first = given.input_value()
    assert re.fullmatch(rf"{name}-\d{{8}}-\d{{6}}", first)
    panel.locator("button.epl-export").click()
    expect(result).to_contain_text(f"{first}.png")
    found = written(scratch, first)
    before = {path: path.read_bytes() for path in found.values()}
    assert found[".png"].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "</svg>" in found[".svg"].read_text()
    assert len(pd.read_parquet(found[".parquet"])) > 0
    assert json.loads(found[".json"].read_text())["name"] == first

    given.fill(first)
    panel.locator("button.epl-export").click()
    expect(result).to_contain_text(f"{first}-2.png")
    written(scratch, f"{first}-2")
    assert {path: path.read_bytes() for path in found.values()} == before
    expect(panel.locator(".epl-error .epl-alarm")).to_have_count(0)

    given.fill("../outside")
    panel.locator("button.epl-export").click()
    expect(result.locator(".epl-alarm")).to_contain_text("The name may have")
    scratch.run("panel.close()")


def written(scratch: Lab, name: str) -> dict[str, Path]:
    """The files of an export, by suffix."""
    folder = scratch.folder / "data" / "exports"
    found = {path.suffix: path for path in folder.glob(f"{name}.*")}
    assert set(found) == {".png", ".svg", ".parquet", ".json"}
    return found


def test_exported_data_are_the_steppers_history(scratch: Lab) -> None:
    """The Parquet file holds the frame that the kernel has."""
    scratch.show("panel = widgets.stepper()\npanel")
    panel = scratch.widget("stepper")
    panel.locator("button.epl-peer-writes").click()
    panel.locator("button.epl-wait").click()
    expect(panel.locator(".epl-history tr")).to_have_count(4)
    panel.locator(".epl-export-name input").fill("history")
    panel.locator("button.epl-export").click()
    expect(panel.locator(".epl-export-result")).to_contain_text("history.parquet")
    kept = pd.read_parquet(written(scratch, "history")[".parquet"])
    assert json.loads(kept.to_json(orient="records")) == scratch.value(
        "json.loads(panel.steps.history().to_json(orient='records'))"
    )
    scratch.run("panel.close()")
