"""Sphinx's configuration of the web edition; ``data/make_site.py`` builds it."""

import epolllab

project = "epolllab"
author = "the authors of epolllab"
project_copyright = author
version = release = epolllab.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
root_doc = "index"
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "epolllab"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
pygments_style, pygments_dark_style = "default", "github-dark"

# The outputs are those that the notebooks store.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, object] = {}  # no script from another host
myst_enable_extensions = ["html_image", "deflist"]
myst_heading_anchors = 3
# The sections of a notebook are of its text, and not of a page.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have the types
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False  # autodoc shows them
