"""The documentation site: ``make docs`` builds it into build/docs. Its pages fetch nothing from the network."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "shutterless"
author = "The shutterless contributors"
project_copyright = author
release = version = installed("shutterless")

extensions = [
    "myst_nb",  # pages in Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",  # the source beside every function
    "numpydoc",
    "sphinx_copybutton",
    "mathml",  # formulae as MathML, which browsers draw themselves
    "generated_pages",  # commands, settings and modules as they are when the site is built
]
exclude_patterns = ["extensions", "_static", "figures"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"shutterless {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `shutterless` commands take minutes; the tests execute the notebooks
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # would be fetched from the network

suppress_warnings = ["misc.highlighting_failure"]  # … stands for what an example leaves out; tests read the code

default_role = "obj"  # `Name` in a docstring is a link where there is such an object
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of torch and transformers
autodoc_typehints = "none"  # numpydoc's tables say the types, with shapes and units
# an imported class of scipy, whose signature autodoc cannot format before it finds that it is none of ours
autodoc_default_options = {"members": True, "exclude-members": "cKDTree"}
add_module_names = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Any) -> None:
    """Leave out what Python writes for every field of a named tuple."""

    def skip(_app: Any, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool | None:
        return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None

    app.connect("autodoc-skip-member", skip)
