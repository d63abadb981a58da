"""Averages of the student's weights over the steps of a run.

SMA is the running mean of the weights after every optimizer step from ``average_start`` on
(Arpit et al., "Ensemble of Averages", NeurIPS 2022, arXiv:2110.10832), and the live weights before
that. It covers all that is trained and never the teacher, which a method holds out of its copies.
SWAD (``swad.py``) finds its steps by the holdout loss, and is there at the end of a run only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from scmd.errors import ScmdError, ScmdWarning
from scmd.limits import MOST_STEPS, require_whole
from scmd.methods.base import Method
from scmd.swad import SWAD

AverageName = Literal["sma", "ema", "swad", "none", "sma-released"]


@dataclass(frozen=True)
class AverageConfig:
    """The weight average that predicts and that model selection scores."""

    average: AverageName = "sma"
    """sma: running mean. ema: exponential. swad: the mean over the valley of the holdout loss, in
    the place of model selection. sma-released: as the released code computes it."""
    average_start: int = 300
    """First step, counted from 1, whose weights the average includes; swad finds its own."""
    ema_decay: float = 0.999
    """Of ema."""
    swad_converge: int = 3
    """Of swad: its valley begins where the holdout loss is the smallest of so many evaluations.
    It wants them dense, every 50 to 100 steps: lower evaluate-every."""
    swad_tolerance: int = 6
    """Of swad: so many evaluations in a row above the limit end its valley."""
    swad_tolerance_ratio: float = 0.3
    """Of swad: the limit lies by this part above the mean loss where the valley begins."""

    def __post_init__(self) -> None:
        if self.average not in get_args(AverageName):
            known = ", ".join(get_args(AverageName))
            raise ScmdError(f"average = {self.average!r}: choose from {known}")
        for name in ("average_start", "swad_converge", "swad_tolerance"):
            require_whole(name, getattr(self, name), 1, MOST_STEPS)
        if not 0 <= self.ema_decay < 1:
            raise ScmdError(f"ema_decay = {self.ema_decay}: give a number in [0, 1)")
        if not 0 <= self.swad_tolerance_ratio < float("inf"):
            raise ScmdError(
                f"swad_tolerance_ratio = {self.swad_tolerance_ratio}: give a number from 0"
            )


class Average:
    """The average of a method's weights; ``model`` is what predicts.

    ``update`` follows every optimizer step, ``scored`` every evaluation of the holdout, ``finish``
    the last one.

    Args:
        method: The method, not wrapped for distribution.
        config: Which average, and from when.
    """

    def __init__(self, method: Method, config: AverageConfig) -> None:
        self.config = config
        self._live = method
        self._averaged: AveragedModel | None = None
        self._swad: SWAD | None = None
        # The released code's first average is of that step's weights and the previous step's.
        self.start = config.average_start - (config.average == "sma-released")
        if config.average == "swad":
            self.start = 1
            self._swad = SWAD(
                config.swad_converge, config.swad_tolerance, config.swad_tolerance_ratio
            )
        elif config.average == "ema":
            self._averaged = self._copy(get_ema_multi_avg_fn(config.ema_decay))
        elif config.average != "none":
            self._averaged = self._copy(get_swa_multi_avg_fn())

    @property
    def model(self) -> Method:
        """The averaged method once the average has begun, and the live one before.

        SWAD's begins with ``finish``.
        """
        if self._averaged is None or self._averaged.n_averaged == 0:
            return self._live
        return self._averaged.module  # type: ignore[return-value]

    @property
    def chooses(self) -> bool:
        """Whether the average is model selection as well: what it is at the end is deployed."""
        return self.config.average == "swad"

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the live weights after optimizer step ``step``, counted from 1."""
        if self._swad is not None:
            self._swad.step(self._live)
        if self._averaged is None or step < self.start:
            return
        self._averaged.update_parameters(self._live)
        if self.config.average == "sma-released":
            for name, parameter in self._averaged.module.named_parameters():
                if name.startswith("projection."):
                    parameter.copy_(self._live.get_parameter(name))

    def scored(self, loss: float) -> None:
        """Tell the mean holdout loss of the sources, of the weights after the last ``update``."""
        if self._swad is not None:
            self._swad.evaluated(loss, self._live)

    def finish(self) -> None:
        """Make ``model`` what is deployed, after the last score of a run. Only SWAD has to.

        Running statistics of batch norm are those at the end of the valley; the loop re-estimates
        them where batch norm is not frozen (``reestimate_batch_norm``).
        """
        if self._swad is None:
            return
        if not self._swad.begun:
            warnings.warn(
                "swad found no valley of the holdout loss: it averages the last evaluation's steps "
                "only. Lower --evaluate-every, or train longer",
                ScmdWarning,
                stacklevel=2,
            )
        chosen = self._swad.finish()
        self._averaged, self._swad = self._copy(get_swa_multi_avg_fn()), None
        self._averaged.n_averaged.fill_(chosen.steps)
        values = chosen.weights | chosen.buffers
        for name, value in (*self.model.named_parameters(), *self.model.named_buffers()):
            if name in values:
                value.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights and their number, or SWAD's segments; empty before they begin."""
        if self._swad is not None:
            return self._swad.state_dict()
        if self._averaged is None or self._averaged.n_averaged == 0:
            return {}
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a ``state_dict``."""
        if self._swad is not None and "n_averaged" in state:  # of a run that had finished
            self._averaged, self._swad = self._copy(get_swa_multi_avg_fn()), None
        if self._swad is not None and state:
            self._swad.load_state_dict(state, next(self._live.parameters()).device)
        elif state and self._averaged is not None:
            self._averaged.load_state_dict(state)

    def _copy(self, average) -> AveragedModel:
        copy = AveragedModel(self._live, multi_avg_fn=average)
        return copy.requires_grad_(False).eval()


@torch.no_grad()
def reestimate_batch_norm(backbone: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set batch norm's running statistics of averaged weights to their means over ``batches``.

    Only where batch norm is not frozen: a part that stays in eval mode when ``backbone`` is put
    into training mode keeps what it has, and dropout is off: torch's own ``update_bn`` resets
    frozen ones, too, and leaves dropout on.

    Args:
        backbone: The averaged method's. Its modes are afterwards as they were.
        batches: Float images in [0, 1], [B, 3, H, W], drawn and augmented as in training.
    """
    modes = {module: module.training for module in backbone.modules()}
    backbone.train()
    norms = {
        module: module.momentum
        for module in backbone.modules()
        if isinstance(module, _BatchNorm) and module.training
    }
    backbone.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for images in batches:
        backbone(images)
    for norm, momentum in norms.items():
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
