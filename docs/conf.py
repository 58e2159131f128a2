"""How Sphinx builds the documentation: `make docs`."""

from psgdsim import __version__

project = "psgdsim"
author = "the psgdsim authors"
copyright = "the psgdsim authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"psgdsim {__version__}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
