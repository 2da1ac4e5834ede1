"""Sphinx configuration: ``sphinx-build -W docs docs/_build``, from the root of the repository.

The build needs no network, and neither do the pages: every asset is local.
"""

import os
import sys
import tomllib
import warnings
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "extensions")]
PLAYGROUND = DOCS.parent / "jaxconv" / "viz" / "playground.html"  # one file without assets
os.environ.setdefault("JAX_PLATFORMS", "cpu")
warnings.filterwarnings("ignore", module="mlxtend|heartpy|pkg_resources")

project = "jaxconv"
author = "The jaxconv maintainers"
copyright = "the jaxconv maintainers"
release = version = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"][
    "version"
]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    # Those of docs/extensions:
    "accessibility",
    "docstrings",
    "mathml",
    "pictures",
    "sources",
]
exclude_patterns = ["_build", "extensions", "jupyter_execute", "playground", "templates"]
templates_path = ["templates"]

# Pages
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs
nb_ipywidgets_js = {}
nb_merge_streams = True
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The reference, from docstrings
autosummary_generate = True
autosummary_ignore_module_all = False
# Its page would differ from that of the function by case alone, and some file systems ignore case.
autosummary_filename_map = {"jaxconv.Cost": "jaxconv.Cost-class"}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 60
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Links within the site are checked; the others are not, because checks need no network.
linkcheck_ignore = [r"https?://"]

html_theme = "furo"
html_title = "jaxconv"
html_static_path = ["static"]
html_extra_path = [str(path) for path in [PLAYGROUND] if path.exists()]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # browsers do not load pages of a folder into another page
html_show_sourcelink = False
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"
html_theme_options = {"navigation_with_keys": True}
