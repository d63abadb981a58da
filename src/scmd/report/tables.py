"""Tables of results, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text


def domain_table(results: Mapping[str, Any], title: str) -> Table:
    """A row per domain.

    Args:
        results: Per domain, what ``scmd.evaluate.measure`` says, and perhaps its ``role``.
        title: Above the table.
    """
    table = Table(title=Text(title), box=SIMPLE, collapse_padding=True)
    with_role = any("role" in result for result in results.values())
    widest = max(map(len, results), default=0)
    table.add_column("domain", overflow="fold", min_width=min(widest, 14))
    if with_role:
        table.add_column("role")
    calibrated = any("ece_calibrated" in result for result in results.values())
    last = ("ECE", "cal.\nECE") if calibrated else ("ECE",)
    for name in ("images", "accuracy", "95 % interval", "macro", *last):
        table.add_column(name, justify="right", no_wrap=True)
    for domain, result in results.items():
        low, high = result["interval"]
        table.add_row(
            Text(domain),
            *([result.get("role", "")] if with_role else []),
            f"{result['n']:,}",
            f"{result['accuracy']:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{result['macro_accuracy']:.3f}",
            f"{result['ece']:.3f}",
            *([f"{result['ece_calibrated']:.3f}"] if "ece_calibrated" in result else []),
        )
    return table


def class_table(results: Mapping[str, Any]) -> Table:
    """A row per class, a column per domain."""
    table = Table(title="accuracy per class", box=SIMPLE, collapse_padding=True)
    table.add_column("class")
    for domain in results:
        table.add_column(Text(domain), justify="right")
    names = dict.fromkeys(name for result in results.values() for name in result["per_class"])
    for name in names:
        cells = (result["per_class"].get(name) for result in results.values())
        table.add_row(Text(name), *(f"{cell['accuracy']:.3f}" if cell else "" for cell in cells))
    return table
