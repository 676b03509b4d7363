"""The documentation's site: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import nos_optax

project = "nos_optax"
author = "The nos_optax authors"
copyright = author
version = release = nos_optax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "mathml",
]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
default_role = "literal"
exclude_patterns = ["_build", "examples"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autosummary_generate = True
autosummary_ignore_module_all = False
napoleon_use_ivar = True
napoleon_use_rtype = False
html_theme = "furo"
html_title = "nos_optax"
html_show_sphinx = False


def setup(app):
    """Keep the colons of attributes' docstrings: napoleon takes what is before one for a type."""
    as_written = {}

    def before(app, what, name, obj, options, lines):
        if what in ("attribute", "property"):
            as_written[name] = list(lines)

    def after(app, what, name, obj, options, lines):
        if name in as_written:
            lines[:] = as_written.pop(name)

    app.connect("autodoc-process-docstring", before, priority=100)
    app.connect("autodoc-process-docstring", after, priority=900)
