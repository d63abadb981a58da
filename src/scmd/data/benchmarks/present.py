"""The catalogue and what came of getting or importing a set, for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scmd.data.benchmarks.build import Reporting
from scmd.data.benchmarks.catalogue import CATALOGUE
from scmd.data.benchmarks.counts import Comparison
from scmd.data.benchmarks.entries import Benchmark
from scmd.progress import fetching


@contextmanager
def reporting_to(console: Console) -> Iterator[Reporting]:
    """Lines and a bar on a console."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with fetching(console) as (of_bytes, of_images):
        yield Reporting(say, of_bytes, of_images)


def print_catalogue(console: Console) -> None:
    """Print the names of the sets with what they hold and how much is downloaded."""
    table = Table()
    for heading in ("name", "images", "domains", "classes", "download"):
        table.add_column(heading, justify="left" if heading == "name" else "right")
    for benchmark in CATALOGUE.values():
        table.add_row(
            benchmark.name,
            f"{benchmark.counts[0].total:,}" if benchmark.counts else "not published",
            str(len(benchmark.domains)),
            str(len(benchmark.classes) or benchmark.class_count),
            benchmark.download,
        )
    console.print(table)
    console.print("scmd data get NAME fetches one; scmd data import NAME PATH takes a copy.")


def print_found(benchmark: Benchmark, folder: Path, found: Comparison, console: Console) -> None:
    """Print what a folder holds, how it compares, and what is special about the set."""

    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    data = found.data
    say(
        f"{folder}: {len(data):,} images, {len(data.domains)} domains, {len(data.classes)} classes",
        "bold",
    )
    for domain, number in zip(data.domains, data.counts().sum(axis=1).tolist(), strict=True):
        say(f"  {domain}: {number:,}")
    if found.version is None:
        say("No counts are published to compare with.")
    elif not found.differences:
        say(f"As published: {found.version.label} ({found.version.source}).")
    else:
        say(f"Not as published ({found.version.label}; {found.version.source}):", "yellow")
    for line in found.differences:
        say(f"  {line}")
    for name in found.bad:
        say(f"{name} cannot be decoded: train with --skip-bad", "yellow")
    for note in benchmark.notes:
        say(f"Note: {note}")
