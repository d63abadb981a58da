"""What constraints.txt pins is what the tests run with, and nothing that is needed is missing."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {normal(name): version for name, _, version in (s.partition("==") for s in lines)}


def installed() -> dict[str, str]:
    """Everything that the project and its extras need, and what that needs, as installed."""
    found: dict[str, str] = {}
    extras = distribution("scmd").metadata.get_all("Provides-Extra") or []
    left: list[tuple[str, tuple[str, ...]]] = [("scmd", tuple(extras))]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while left:
        name, extras = item = left.pop()
        if item in seen:
            continue
        seen.add(item)
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed here
        found[normal(name)] = here.version
        for line in here.requires or ():
            need = Requirement(line)
            wanted = need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            if wanted:
                left.append((need.name, tuple(sorted(need.extras))))
    del found["scmd"]
    return found


def test_every_dependency_is_pinned_to_what_is_installed():
    here, pinned = installed(), pins()
    assert {"torch", "timm", "pytest", "sympy", "markupsafe"} <= here.keys()  # and what they need
    assert {name: pinned.get(name) for name in here} == here


def test_nothing_is_pinned_twice_or_loosely():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
    assert len({normal(line.partition("==")[0]) for line in lines}) == len(lines)
