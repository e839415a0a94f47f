"""The documentation site: `make docs`. Needs no network, and its pages ask for none."""

import tomllib
from pathlib import Path

_PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"

project = "strop"
author = "the strop authors"
release = tomllib.loads(_PYPROJECT.read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "strop"
html_show_copyright = False
copybutton_prompt_text = "$ "

# Links to headings, as the pages are read without a site.
myst_heading_anchors = 3
# Every name that a signature or a docstring refers to is either here or torch's.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(torch|collections|pathlib|nn)\..*|Tensor|PackedSequence|Keep")]

# Pages of the reference, one for each name in reference.md, are written to api/.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    # What a class has of torch's is in torch's documentation.
    "inherited-members": "RNNBase, LSTMCell, GRUCell, RNNCell, Linear, Module, Sequence",
    "exclude-members": "extra_repr",
}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
