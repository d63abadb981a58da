"""The directive ``commands``: what ``scmd COMMAND --help`` prints, as sections of a page."""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from scmd.cli import COMMANDS, main


class Commands(SphinxDirective):
    """A section for every command: its usage, its description and its flags."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        return [_section(command) for command in COMMANDS]


@functools.cache
def help_of(command: str) -> str:
    """What a command prints when it is asked for help, without boxes, 100 columns wide."""
    printed = io.StringIO()
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), redirect_stdout(printed), suppress(SystemExit):
        main([*command.split(), "--help"])
    return printed.getvalue()


def read_help(text: str) -> tuple[str, list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Take help apart.

    Returns:
        The usage, the paragraphs of the description, and the panels: a title and its entries, each
        a flag and its explanation.
    """
    head, *rest = re.split(r"^ (\S.*)\n -+ *\n", text, flags=re.MULTILINE)
    usage, *description = [" ".join(part.split()) for part in head.strip().split("\n\n")]
    panels = []
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        # Of the panel's own description, which has a rule below it, no words are left.
        entries = [(flag, words) for flag, words in _entries(body) if words]
        panels.append((title.strip(), [entry for entry in entries if entry[0] != "-h, --help"]))
    return usage, description, [panel for panel in panels if panel[1]]


def _entries(body: str) -> Iterator[tuple[str, str]]:
    """A flag is indented by two blanks; its explanation stands after it, or below."""
    for entry in re.split(r"^  (?=\S)", body, flags=re.MULTILINE)[1:]:
        flag, _, words = entry.partition("  ")
        yield flag.strip(), " ".join(words.split())


def _section(command: str) -> nodes.section:
    usage, description, panels = read_help(help_of(command))
    title = f"scmd {command}"
    section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
    section += nodes.title(title, title)
    section += nodes.literal_block(usage, usage, language="text")
    section += [nodes.paragraph(paragraph, paragraph) for paragraph in description]
    for name, entries in panels:
        section += nodes.rubric(name, name)
        section += _definitions(entries)
    return section


def _definitions(entries: list[tuple[str, str]]) -> nodes.definition_list:
    shown = nodes.definition_list()
    for flag, words in entries:
        term = nodes.term("", "", nodes.literal(flag, flag))
        words = nodes.definition("", nodes.paragraph(words, words))
        shown += nodes.definition_list_item("", term, words)
    return shown


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx about the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
