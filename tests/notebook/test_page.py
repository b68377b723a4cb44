"""The theme of the page, as the kernel's surroundings tell it."""

from pathlib import Path

import pytest

from epolllab.notebook import page

FOLDER = Path("@jupyterlab/apputils-extension")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of neither JupyterLab nor Voila."""
    for name in ("SERVER_SOFTWARE", "QUERY_STRING", "JPY_SESSION_NAME", "JUPYTERLAB_SETTINGS_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("token=abc&theme=dark", "dark"),
        ("theme=light", "light"),
        ("theme=JupyterLab+Dark+High+Contrast", "dark"),
        ("theme=", ""),
        ("token=dark", ""),
        ("", ""),
    ],
)
def test_a_page_of_voila_has_its_theme_in_the_address(
    environment: pytest.MonkeyPatch, query: str, expected: str
) -> None:
    """And only there: another server's query says nothing."""
    environment.setenv("QUERY_STRING", query)
    assert page.theme() == ""
    environment.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    assert page.theme() == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{\n  // "theme": "JupyterLab Light"\n  "theme": "JupyterLab Dark",\n}', "dark"),
        ('{"theme": "JupyterLab Light"}', "light"),
        ('{"theme": "Darcula"}', ""),
        ('{"theme-scrollbars": true}', "light"),
        ('{"theme": "JupyterLab Dark", "adaptive-theme": true}', ""),
        ("", "light"),
    ],
)
def test_a_kernel_of_jupyterlab_finds_the_chosen_theme(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: str, expected: str
) -> None:
    """In the settings of JupyterLab, which are JSON with comments; light is its default."""
    file = tmp_path / "lab" / "user-settings" / FOLDER / "themes.jupyterlab-settings"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    environment.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    assert page.theme() == ""
    environment.setenv("JPY_SESSION_NAME", "/notebooks/01.ipynb")
    assert page.theme() == expected
    environment.setenv("JUPYTERLAB_SETTINGS_DIR", str(tmp_path / "lab" / "user-settings"))
    environment.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert page.theme() == expected


def test_without_settings_nothing_is_known(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A JupyterLab whose theme was never changed has no file."""
    environment.setenv("JPY_SESSION_NAME", "/notebooks/01.ipynb")
    environment.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    assert page.theme() == ""
