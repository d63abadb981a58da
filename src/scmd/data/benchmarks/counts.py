"""Whether a data set holds what was published: domains, classes, images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scmd.data.benchmarks.entries import Benchmark, Counts
from scmd.data.folder import DomainImages, load_domains
from scmd.data.images import read_image
from scmd.errors import BadImageError

_MOST = 8


@dataclass(frozen=True)
class Comparison:
    """What is there beside what was published."""

    data: DomainImages
    version: Counts | None
    """The published version that it is, or the one that is nearest; None: none is published."""
    differences: tuple[str, ...]
    """What is not as published, one line each."""
    bad: tuple[str, ...]
    """Images that others report as faulty and that cannot be decoded here, either."""


def compare(benchmark: Benchmark, folder: Path) -> Comparison:
    """Count the images of a folder ``domain/class/image``.

    Raises:
        ScmdError: It is no such folder.
    """
    data = load_domains(folder, "union", one_is_enough=True)
    versions = sorted(benchmark.counts, key=lambda version: _distance(data, version))
    version = versions[0] if versions else None
    differences = _structure(benchmark, data)
    if version is not None:
        differences += _numbers(benchmark, data, version)
    return Comparison(data, version, tuple(differences), tuple(_bad(benchmark, folder)))


def _per_domain(data: DomainImages) -> dict[str, int]:
    return dict(zip(data.domains, data.counts().sum(axis=1).tolist(), strict=True))


def _distance(data: DomainImages, version: Counts) -> int:
    found = _per_domain(data)
    names = {*found, *version.domains}
    return sum(abs(found.get(name, 0) - version.domains.get(name, 0)) for name in names)


def _structure(benchmark: Benchmark, data: DomainImages) -> list[str]:
    lines = []
    for what, there, wanted in (
        ("domain", data.domains, benchmark.domains),
        ("class", data.classes, benchmark.classes or data.classes),
    ):
        missing, more = sorted({*wanted} - {*there}), sorted({*there} - {*wanted})
        lines += [f"{what} {name!r} is missing" for name in missing]
        lines += [f"{what} {name!r} is not one of the set" for name in more]
    if benchmark.class_count and len(data.classes) != benchmark.class_count:
        lines.append(f"{len(data.classes)} classes instead of {benchmark.class_count}")
    counts = data.counts()
    for row, domain in enumerate(data.domains):
        for column, name in enumerate(data.classes):
            if counts[row, column] == 0:
                lines.append(f"{domain} has no {name}")
    return lines


def _numbers(benchmark: Benchmark, data: DomainImages, version: Counts) -> list[str]:
    lines = []
    found = _per_domain(data)
    for domain, wanted in version.domains.items():
        if domain in found and found[domain] != wanted:
            lines.append(f"{domain} has {found[domain]:,} images instead of {wanted:,}")
    counts = data.counts()
    for domain, per_class in (version.classes or {}).items():
        for name, wanted in zip(benchmark.classes, per_class, strict=True):
            if domain in data.domains and name in data.classes:
                there = counts[data.domains.index(domain), data.classes.index(name)]
                if there != wanted:
                    lines.append(f"{domain}/{name} has {there:,} images instead of {wanted:,}")
    return lines


def _bad(benchmark: Benchmark, folder: Path) -> list[str]:
    bad = []
    for name in benchmark.known_bad:
        try:
            if (folder / name).is_file():
                read_image(folder / name)
        except BadImageError:
            bad.append(name)
    return bad


def in_short(differences: tuple[str, ...]) -> str:
    """The first differences in one line."""
    more = len(differences) - _MOST
    return "; ".join(differences[:_MOST]) + (f"; and {more:,} more" if more > 0 else "")
