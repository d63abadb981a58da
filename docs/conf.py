"""How the pages are built (``make docs``); no network is needed."""

from __future__ import annotations

import dataclasses
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes

from scmd.cli import COMMANDS

sys.path.insert(0, str(Path(__file__).parent))
from command_help import help_of

project = "scmd"
author = "the scmd authors"
copyright = "2026, the scmd authors"
release = version_of("scmd")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "command_help",
]
exclude_patterns = ["_build"]
smartquotes = False  # it makes one dash of the two of a flag
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "scmd"
html_static_path = ["_static"]
html_css_files = ["scmd.css"]
html_show_sphinx = False
html_copy_source = False

# tyro's annotations say what a setting is called on the command line. The page of the commands
# needs them; the types of the reference are shown without.
for command in COMMANDS:
    help_of(command)
for name in [name for name in sys.modules if name.startswith("scmd.")]:
    for thing in vars(sys.modules[name]).values():
        if dataclasses.is_dataclass(thing) and getattr(thing, "__module__", "") == name:
            own = vars(thing).get("__annotations__", {})
            types = get_type_hints(thing)
            own.update((field, types[field]) for field in own)

MOST_SIGNATURE = 60
"""Characters."""


def setup(app: Any) -> None:
    """Connect what is below; 400 is before napoleon."""
    app.connect("autodoc-process-signature", _signature_of_class)
    app.connect("autodoc-process-docstring", _docstring_of_field, priority=400)
    app.connect("doctree-read", _mend)
    app.connect("html-page-context", _without_way_back)


def _signature_of_class(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Of a dataclass the names of a few fields, or nothing: types and defaults stand below."""
    if what == "class" and dataclasses.is_dataclass(thing):
        names = ", ".join(field.name for field in dataclasses.fields(thing) if field.init)
        return (f"({names})" if len(names) < MOST_SIGNATURE else "", "")
    return ("", "") if getattr(thing, "_is_protocol", False) else None


def _docstring_of_field(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from taking for a type what stands before a colon in the first line."""
    if what not in ("attribute", "data", "property"):
        return
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    else:
        lines.insert(0, "\\")  # goes, with the end of the line


def _mend(app: Any, doctree: nodes.document) -> None:
    """The dash after a parameter's name; and erm@swad is nobody's address."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))
    for link in list(doctree.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.parent.replace(link, nodes.Text(link.astext()))


def _without_way_back(app: Any, page: str, template: str, context: Any, doctree: Any) -> None:
    """From the source of what is documented as scmd.NAME, viewcode's links back lead nowhere."""
    if page.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])
