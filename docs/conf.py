"""Configuration of the documentation: `sphinx-build -W --keep-going -b html docs docs/_build`."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext"), str(ROOT / "tools")]
os.environ.update(
    COLUMNS="100", NO_COLOR="1", TERM="dumb"
)  # for the help texts of the command line

from wsss_fast import _version  # noqa: E402

project = "wsss-fast"
author = "The wsss-fast authors"
copyright = author
version = release = _version.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "commands",
    "layers",
    "results",
    "recipes",
    "plain_docstrings",
    "public_module",
]
exclude_patterns = ["_build", "_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"wsss-fast {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_math_renderer = "mathml"
html_copy_source = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
