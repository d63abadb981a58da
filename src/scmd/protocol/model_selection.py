"""Which draw and which step of it stand for a method, by several rules.

Source: Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021,
arXiv:2007.01434, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scmd.errors import ScmdError
from scmd.protocol.records import Record

Rule = Literal["training", "leave-one-out", "last", "oracle"]
Score = Literal["whole", "domainbed"]
RULES: dict[str, str] = {
    "training": "training-domain validation: the step and draw with the best mean accuracy on the "
    "sources' holdout",
    "leave-one-out": "leave-one-source-out cross-validation: the step and draw with the best mean "
    "accuracy on a source that was held out too",
    "last": "the last step; the draw with the best mean accuracy on the sources' holdout there",
    "oracle": "CHEATING, for comparison only: the last step, the draw with the best accuracy on "
    "the target's holdout",
}
SCORES: dict[str, str] = {
    "whole": "all images of the target",
    "domainbed": "the part of the target that DomainBed scores (80 %)",
}


@dataclass(frozen=True)
class Chosen:
    """What stands for a method, on a target, in a trial."""

    record: Record
    step: int
    whole: float
    domainbed: float

    def accuracy(self, score: Score) -> float:
        """On all of the target, or on DomainBed's part."""
        return self.whole if score == "whole" else self.domainbed


def choose(records: Sequence[Record], rule: Rule) -> tuple[list[Chosen], list[str]]:
    """Apply a rule to every method, target and trial of one data set.

    Returns:
        What was chosen, and what could not be, and why, each in a line.
    """
    chosen: list[Chosen] = []
    missing: list[str] = []
    mains = [r for r in records if not r.config.data.also_held_out and r.target]
    for label, target, trial in dict.fromkeys((r.label, r.target, r.trial) for r in mains):
        own = [r for r in mains if (r.label, r.target, r.trial) == (label, target, trial)]
        pairs = [
            r
            for r in records
            if r.label == label
            and r.trial == trial
            and r.config.data.also_held_out
            and target in r.held_out
        ]
        try:
            chosen.append(_best(own, pairs, rule))
        except ScmdError as error:
            missing.append(f"{label}, target {target}, trial {trial}: {error}")
    return chosen, missing


def _best(own: Sequence[Record], pairs: Sequence[Record], rule: Rule) -> Chosen:
    """The choice among the draws of one method, target and trial."""
    options: list[tuple[float, Record, dict[str, Any]]] = []
    for record in sorted(own, key=lambda r: r.draw):
        if not record.lines:
            raise ScmdError(f"{record.folder} has no score in its log")
        if rule == "training" or (rule != "oracle" and record.summary["steps"] == 0):
            step = record.summary["model_selection"]["step"]
            line = record.line(step) or record.lines[-1]
            options.append((line["holdout_accuracy"], record, line))
        elif rule == "last":
            line = record.lines[-1]
            options.append((line["holdout_accuracy"], record, line))
        elif rule == "oracle":
            line = record.lines[-1]
            options.append((_held_out(record, line, record.target, "holdout"), record, line))
        else:
            same = (record.draw, record.config.hparams)
            matching = [pair for pair in pairs if (pair.draw, pair.config.hparams) == same]
            options.extend(
                (value, record, line) for value, line in _cross_validated(record, matching)
            )
    _, record, line = max(options, key=lambda option: option[0])
    return _chosen(record, line)


def _cross_validated(record: Record, pairs: Iterable[Record]) -> list[tuple[float, dict[str, Any]]]:
    """Per step, the mean accuracy on each source in the run that held it out, too."""
    sources = record.summary["sources"]
    if len(sources) < 2:
        raise ScmdError(
            f"it has the single source {sources[0]}: there is none to hold out. Use another rule"
        )
    by_source = {other: pair for pair in pairs for other in pair.held_out - {record.target}}
    lacking = [source for source in sources if source not in by_source]
    if lacking:
        raise ScmdError(
            f"no run holds out {', '.join(lacking)} besides the target (draw {record.draw}). "
            "Run scmd protocol with --cross-validate"
        )
    scored = []
    for line in record.lines:
        others = {source: by_source[source].line(line["step"]) for source in sources}
        if all(other is not None for other in others.values()):
            values = [
                _held_out(by_source[source], other, source, "accuracy")
                for source, other in others.items()
                if other is not None
            ]
            scored.append((float(np.mean(values)), line))
    if not scored:
        raise ScmdError("its runs were scored at no step in common")
    return scored


def _held_out(record: Record, line: dict[str, Any], domain: str, part: str) -> float:
    scores = line.get("held_out", {}).get(domain)
    if scores is None:
        raise ScmdError(
            f"{record.folder} did not score {domain} at its steps. Run scmd protocol, or scmd "
            "train with --score-held-out"
        )
    if part not in scores:
        raise ScmdError(
            f"{record.folder} has no score on the {part} of {domain}, which has too few images. "
            "Use another rule"
        )
    return scores[part]


def _chosen(record: Record, line: dict[str, Any]) -> Chosen:
    result = record.summary["results"][record.target]
    if record.target in line.get("held_out", {}):
        whole, part = (
            _held_out(record, line, record.target, name) for name in ("accuracy", "domainbed_part")
        )
        return Chosen(record, line["step"], whole, part)
    if line["step"] != record.summary["model_selection"]["step"]:
        _held_out(record, line, record.target, "accuracy")  # raises
    part = result.get("domainbed_part")
    if part is None:
        raise ScmdError(f"{record.folder} was not scored on DomainBed's part of the target")
    return Chosen(record, line["step"], result["accuracy"], part["accuracy"])
