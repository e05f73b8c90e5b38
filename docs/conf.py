"""Sphinx: ``python -m sphinx -W -b html docs docs/_build/html``.

``INFODCL_GEO_DOCS_FAST=1`` leaves the examples of the gallery out, which otherwise run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from infodcl_geo import __version__

project = "infodcl-geo"
author = "the infodcl-geo contributors"
copyright = "the infodcl-geo contributors, MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "api",
    "gallery",
    "reference",
    "results",
]
exclude_patterns = ["_build", "_ext"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "ignore-module-all": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Options of dataclasses stand in the docstring of the class; their fields are listed once, there.
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "infodcl-geo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "infodcl-geo"},
    "show_nav_level": 1,
    "navigation_depth": 2,
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "use_edit_page_button": False,
}
# Pages without pages below them have no navigation of their own.
html_sidebars = {path.stem: [] for path in Path(__file__).parent.glob("*.md")}
