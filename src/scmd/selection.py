"""Which samples of a batch a step trains on.

Training on the worst ρ of a batch estimates the conditional value at risk of the loss; see
``docs/theory.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from scmd import processes
from scmd.errors import ScmdError

Phase = Literal["whole", "select"]
Rule = Literal["hardest", "random", "kd-loss", "all"]
Scope = Literal["batch", "domain"]
SelectionPrecision = Literal["same", "fp32"]
_NAMES = {
    "rule": get_args(Rule),
    "scope": get_args(Scope),
    "precision": get_args(SelectionPrecision),
}


@dataclass(frozen=True)
class SelectionConfig:
    """Which samples a step trains on, and when."""

    rule: Rule = "hardest"
    """hardest: the largest cross-entropies (the paper). random: as many, blindly. kd-loss: the
    largest L_logits. all: the whole batch."""
    fraction: float = 0.2
    """ρ: the part of the batch that is kept, at least one sample."""
    scope: Scope = "batch"
    """Compare losses over the whole batch (the paper), or within each domain."""
    warmup: float = 0.0
    """Part of the steps, at the start, that train on the whole batch; 0 in the paper."""
    last_fraction: float = 0.25
    """k: part of the steps, at the end, that train on the whole batch."""
    precision: SelectionPrecision = "same"
    """Of the selection forward: as in training, or always fp32 (the released code)."""
    resolution: float = 1.0
    """Of the selection forward: the part of the image's side that it sees. 0.5 is a quarter of the
    work, and keeps other samples (docs/benchmarks.md says how many)."""

    def __post_init__(self) -> None:
        for name, known in _NAMES.items():
            if getattr(self, name) not in known:
                raise ScmdError(
                    f"selection.{name} = {getattr(self, name)!r}: choose from {', '.join(known)}"
                )
        if not 0 < self.fraction <= 1:
            raise ScmdError(f"selection.fraction = {self.fraction}: give a number in (0, 1]")
        if not 0 < self.resolution <= 1:
            raise ScmdError(f"selection.resolution = {self.resolution}: give a number in (0, 1]")
        for name in ("warmup", "last_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ScmdError(
                    f"selection.{name} = {getattr(self, name)}: give a number in [0, 1]"
                )
        if self.warmup + self.last_fraction > 1 + _ROUNDING:
            raise ScmdError(
                f"selection.warmup = {self.warmup} and selection.last_fraction = "
                f"{self.last_fraction} are more than all steps. Lower one of them"
            )


class Decisions(NamedTuple):
    """What was decided about every sample of a batch."""

    losses: Tensor
    """float32 [B], of the kind that the rule compares; NaN where a loss was not computed."""
    kept: Tensor
    """bool [B]"""


# Steps over steps is not exact: 1 - 0.9 is a little less than 0.1.
_ROUNDING = 1e-9


def phase(progress: float, config: SelectionConfig) -> Phase:
    """Whether a step selects: not in the warm-up and not in the last fraction k of the steps.

    Args:
        progress: The step, counted from 0, over the number of steps.
        config: Its ``warmup`` and ``last_fraction``.
    """
    if config.rule == "all" or progress < config.warmup - _ROUNDING:
        return "whole"
    return "select" if progress < 1 - config.last_fraction - _ROUNDING else "whole"


def number_kept(batch_size: int, fraction: float) -> int:
    """max(1, int(ρB))."""
    return max(1, int(fraction * batch_size))


def even_share(per_domain: int, num_domains: int, config: SelectionConfig) -> int:
    """What a process trains on in a step that selects, if all keep as many; some has no more.

    Args:
        per_domain: Samples of each domain in the whole batch, whoever has them.
        num_domains: D.
        config: Its ``fraction`` and ``scope``.
    """
    if config.scope == "domain":
        kept = num_domains * number_kept(per_domain, config.fraction)
    else:
        kept = number_kept(per_domain * num_domains, config.fraction)
    return max(1, kept // processes.number())


def hardest(losses: Tensor, fraction: float) -> Tensor:
    """Keep the max(1, int(ρB)) largest losses; of equal ones, the earlier in the batch.

    Args:
        losses: Per sample, [B].
        fraction: ρ.

    Returns:
        bool [B].
    """
    order = torch.argsort(losses, descending=True, stable=True)
    kept = torch.zeros_like(losses, dtype=torch.bool)
    kept[order[: number_kept(len(losses), fraction)]] = True
    return kept


def select(losses: Tensor, domains: Tensor, config: SelectionConfig) -> Tensor:
    """Apply the rule to what it compares: random losses for ``random``, the real ones else.

    Args:
        losses: Per sample, [B]; for ``random`` only their number and device count.
        domains: Per sample, int64 [B].
        config: Rule, fraction and scope.

    Returns:
        bool [B]. ``random`` draws from torch's global generator.
    """
    if config.rule == "all":
        return torch.ones_like(losses, dtype=torch.bool)
    ranked = torch.rand_like(losses) if config.rule == "random" else losses
    if config.scope == "batch":
        return hardest(ranked, config.fraction)
    kept = torch.zeros_like(losses, dtype=torch.bool)
    for domain in torch.unique(domains):
        inside = domains == domain
        kept[inside] = hardest(ranked[inside], config.fraction)
    return kept


class Chosen(NamedTuple):
    """What a process does with its share of a batch."""

    kept: Tensor
    """bool [B / N], of its own samples."""
    trained: Tensor
    """bool [B / N], what goes through the network: ``kept``, or one sample, so that a process that
    keeps nothing still takes part in the backward pass."""
    weight: float | Tensor
    """Of its mean loss: N times the part that it has of what is kept, so that the mean of the
    processes' gradients is the gradient of the mean loss of all that is kept."""


def select_over_processes(losses: Tensor, domains: Tensor, config: SelectionConfig) -> Chosen:
    """``select`` in the whole batch, whoever has which part of it; arguments are the process's own.

    N processes keep what one would, and draw what one would for ``random``.
    """
    if processes.number() == 1:
        kept = select(losses, domains, config)
        return Chosen(kept, kept, 1.0)
    whole = select(processes.whole_batch(losses), processes.whole_batch(domains), config)
    whole = processes.as_first(whole.to(torch.uint8)).bool()
    kept = processes.own_share(whole)
    trained = kept.clone()
    if not kept.any():
        trained[0] = True
    return Chosen(kept, trained, processes.number() * kept.sum() / whole.sum())
