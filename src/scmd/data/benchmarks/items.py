"""One image of a data set, on its way into its place, and copies' names for the domains."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from scmd.data.benchmarks.entries import Benchmark


class Item(NamedTuple):
    """One image of the set: where it goes, and what it is."""

    domain: str
    class_name: str
    name: str
    """May have folders in it."""
    content: Path | bytes


def plain(name: str) -> str:
    """A name without what differs from copy to copy: capitals, blanks, dashes."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def domain_names(benchmark: Benchmark) -> dict[str, str]:
    """The domains by the plain form of all names that copies have for them."""
    return {
        plain(name): domain
        for domain in benchmark.domains
        for name in (domain, *benchmark.aliases.get(domain, ()))
    }
