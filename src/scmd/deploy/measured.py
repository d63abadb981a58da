"""What a card says of a student's accuracy and its limits, from the run's summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scmd.finished import held_out, seen_by_teacher


def accuracy_rows(summary: Mapping[str, Any]) -> Iterator[str]:
    """A Markdown table of all domains, with the calibrated student's calibration error."""
    yield "| domain | role | images | accuracy | 95 % interval | calibration error |"
    yield "|---|---|--:|--:|--:|--:|"
    for domain, result in summary["results"].items():
        low, high = result["interval"]
        ece = result.get("ece_calibrated", result["ece"])
        name = domain.replace("|", "\\|")
        yield (
            f"| {name} | {result['role']} | {result['n']:,} | {result['accuracy']:.3f} | "
            f"{low:.3f} – {high:.3f} | {ece:.3f} |"
        )


def limits(summary: Mapping[str, Any]) -> Iterator[str]:
    """A list of what the numbers do not say."""
    unseen = held_out(summary)
    yield "- It names one of its classes whatever the picture shows, none of them included."
    if unseen:
        yield f"- Of the domains not trained on, it was measured on {', '.join(unseen)} only."
    else:
        yield "- It was measured on no domain that it was not trained on. Expect less there."
    if seen := seen_by_teacher(summary, unseen):
        yield (
            f"- Its teacher had seen images of {', '.join(seen)}: the accuracy there is not one of "
            "an unseen domain."
        )
    yield "- One training seed. Another one gives other numbers."
    yield "- The licences of the images, and of the weights that training began with, apply to it."
