"""Tables as text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from scmd.errors import printable
from scmd.protocol.statistics import Estimate

Format = Literal["text", "markdown", "latex", "csv"]
_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%_#${}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip
# What means something in a line of Markdown: not "_" within a word, nor "<" and "&" before a space.
_MARKDOWN = re.compile(r"[\\`*~$|\[]|(?<![^\W_])_|_(?![^\W_])|<(?=\S)|&(?=\S)")


@dataclass
class Table:
    """A table that knows nothing of how it is written."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def percent(estimate: Estimate | None, interval: bool = False) -> str:
    """``74.3 ± 1.2`` (standard error), with ``(71.1 – 77.5)`` where the interval is asked for."""
    if estimate is None:
        return "–"
    text = f"{100 * estimate.mean:.1f}"
    if not math.isnan(estimate.error):
        text += f" ± {100 * estimate.error:.1f}"
    if interval and not math.isnan(estimate.low):
        text += f" ({100 * estimate.low:.1f} – {100 * estimate.high:.1f})"
    return text


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:{'+' if sign else ''}.{digits}f}"


def render(tables: Sequence[Table], form: Format) -> str:
    """All tables, one after the other."""
    if form == "csv":
        return _csv(tables)
    write = {"text": _text, "markdown": _markdown, "latex": _latex}[form]
    return "\n".join(write(_printable(table)) for table in tables)


def _printable(table: Table) -> Table:
    """Whatever a domain or a class is called, it stays in its line."""
    header, notes = ([printable(text) for text in part] for part in (table.header, table.notes))
    rows = [[printable(cell) for cell in row] for row in table.rows]
    return Table(printable(table.title), header, rows, notes)


def _text(table: Table) -> str:
    rich = RichTable(box=SIMPLE)
    for place, name in enumerate(table.header):
        rich.add_column(Text(name), justify="right" if place else "left", no_wrap=True)
    for row in table.rows:
        rich.add_row(*map(Text, row))
    file = io.StringIO()
    width = 4 + sum(
        3 + max(cell_len(row[place]) for row in [table.header, *table.rows])
        for place in range(len(table.header))
    )
    Console(file=file, width=max(width, 80)).print(rich, markup=False)
    return (
        f"{table.title}\n"  # rich would wrap it to the table's width
        + "\n".join(line.rstrip() for line in file.getvalue().splitlines())
        + "\n"
        + "".join(f"{note}\n" for note in table.notes)
    )


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_as_it_is, cells)) + " |\n"

    rule = ["---"] + ["---:"] * (len(table.header) - 1)
    body = "".join(line(row) for row in [table.header, rule, *table.rows])
    notes = "".join(f"\n{_as_it_is(note)}\n" for note in table.notes)
    return f"**{_as_it_is(table.title)}**\n\n{body}{notes}"


def _as_it_is(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "    " + " & ".join(_escape(cell) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_escape(' '.join([f'{table.title}.', *table.notes]))}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"    \hline",
            line(table.header),
            r"    \hline",
            *(line(row) for row in table.rows),
            r"    \hline",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _csv(tables: Sequence[Table]) -> str:
    """One table: a header stands only where it is another than before."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    header: list[str] = []
    for table in tables:
        if table.header != header:
            writer.writerow(table.header)
        header = table.header
        writer.writerows(table.rows)
    return file.getvalue()
