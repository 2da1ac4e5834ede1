"""The documentation site, if it was built."""

import os
import pathlib

import pytest

import sources

SITE = pathlib.Path(os.environ.get("JAXCONV_SITE", sources.DOCS / "_build"))

needs_site = pytest.mark.skipif(
    not (SITE / "index.html").exists(),
    reason="no site: sphinx-build -W docs docs/_build, or its folder as JAXCONV_SITE",
)
