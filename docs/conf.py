"""How Sphinx builds the docs: `make docs`."""

import importlib.metadata
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
# The tutorial calls snakemake-blocks and snakemake, in an environment that need not be activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

project = "snakemake-blocks"
author = "The snakemake-blocks developers"
release = importlib.metadata.version("snakemake-blocks")
language = "en"

extensions = [
    "myst_nb",
    "pipeline_keys",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "snakemake-blocks"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
smartquotes = False  # they would make one dash of the two before an option
html_show_sphinx = False
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Executed anew in each build, in a folder of its own; one failing cell fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# Only where the tutorial is not executed: Sphinx then does not know that its cells are IPython.
suppress_warnings = ["misc.highlighting_failure"]

# Each name in a docstring has to lead somewhere, but for plain words and other people's types,
# whose docs are not asked: a build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"callable|mapping|ndarray|path|Path|sequence"),
    ("py:.*", r"a pipeline\.yaml|int\)|pair|them|tuple \(str"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it, in words
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = True
napoleon_custom_sections = []
