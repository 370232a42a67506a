"""Sphinx configuration: MyST pages, and a reference generated from docstrings."""

import builtins
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))  # where the extension `from_code` is

project = "Flowmesh"
author = "The Flowmesh authors"
project_copyright = author
release = version_of("flowmesh")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "from_code"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Flowmesh {release}"

# Docstrings write `code` in single backticks, as the pages do.
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# The public names are those of `__all__`, in its order; the class says what its constructor takes.
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Cancellation", "notes_style")]


# In a property, napoleon takes what stands before a colon in the first line for its type. So the colon is hidden from it.
HIDDEN_COLON = "\ue000"


def hide_colon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if what == "property" and lines:
        lines[0] = lines[0].replace(":", HIDDEN_COLON)


def show_colon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [line.replace(HIDDEN_COLON, ":") for line in lines]


# `type` in a signature is the builtin, not the attribute of that name which several classes have.
def leave_builtins(app: Sphinx, document: nodes.document) -> None:
    for reference in list(document.findall(pending_xref)):
        if reference.get("refdomain") == "py" and hasattr(builtins, reference["reftarget"]):
            reference.replace_self(reference.children)


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", leave_builtins)
    # napoleon's own handler has the priority 500.
    app.connect("autodoc-process-docstring", hide_colon, priority=400)
    app.connect("autodoc-process-docstring", show_colon, priority=600)
