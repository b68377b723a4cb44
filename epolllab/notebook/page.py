"""The theme of the page that shows a kernel's output, as far as the kernel can know it."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qs

__all__ = ["theme"]

_SETTINGS = "lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"


def theme() -> str:
    """Return ``"light"``, ``"dark"``, or ``""`` where it is not known.

    A page of Voila has it in its address. A kernel of JupyterLab finds the theme that was
    chosen in its settings, unless that follows the operating system's.
    """
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        (name, *_) = parse_qs(os.environ.get("QUERY_STRING", "")).get("theme", [""])
        return _kind(name)
    # Jupyter's server sets it for the kernels of its notebooks.
    if "JPY_SESSION_NAME" not in os.environ:
        return ""
    try:
        text = _settings_file().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home folder
        return ""
    text = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    if re.search(r'"adaptive-theme"\s*:\s*true', text):
        return ""
    chosen = re.search(r'"theme"\s*:\s*"([^"]*)"', text)
    return _kind(chosen[1] if chosen else "light")


def _settings_file() -> Path:
    config = Path(os.environ.get("JUPYTER_CONFIG_DIR") or Path.home() / ".jupyter")
    folder = os.environ.get("JUPYTERLAB_SETTINGS_DIR")
    return Path(folder) / _SETTINGS.split("/", 2)[2] if folder else config / _SETTINGS


def _kind(name: str) -> str:
    """Whether a theme's name is of a light or a dark one; "" for another name."""
    words = name.lower()
    return "dark" if "dark" in words else "light" if "light" in words else ""
