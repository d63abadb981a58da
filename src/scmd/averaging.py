"""Averages of the student's weights over the steps of a run.

SMA is the running mean of the weights after every optimizer step from ``average_start`` on
(Arpit et al., "Ensemble of Averages", NeurIPS 2022, arXiv:2110.10832), and the live weights before
that. It covers all that is trained and never the teacher, which a method holds out of its copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from scmd.errors import ScmdError
from scmd.methods.base import Method


@dataclass(frozen=True)
class AverageConfig:
    """The weight average that predicts and that model selection scores."""

    average: Literal["sma", "ema", "none", "sma-released"] = "sma"
    """sma: running mean. ema: exponential. sma-released: as the released code computes it."""
    average_start: int = 300
    """First step, counted from 1, whose weights the average includes."""
    ema_decay: float = 0.999
    """Of ema."""

    def __post_init__(self) -> None:
        if self.average_start < 1:
            raise ScmdError(f"average_start = {self.average_start}: give a whole number from 1")
        if not 0 <= self.ema_decay < 1:
            raise ScmdError(f"ema_decay = {self.ema_decay}: give a number in [0, 1)")


class Average:
    """The average of a method's weights; ``model`` is what predicts.

    Args:
        method: The method, not wrapped for distribution.
        config: Which average, and from when.
    """

    def __init__(self, method: Method, config: AverageConfig) -> None:
        self.config = config
        self._live = method
        # The released code's first average is of that step's weights and the previous step's.
        self.start = config.average_start - (config.average == "sma-released")
        if config.average == "none":
            self._averaged = None
        elif config.average == "ema":
            self._averaged = AveragedModel(
                method, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)
            )
        else:
            self._averaged = AveragedModel(method, multi_avg_fn=get_swa_multi_avg_fn())
        if self._averaged is not None:
            self._averaged.requires_grad_(False).eval()

    @property
    def model(self) -> Method:
        """The averaged method once the average has begun, and the live one before."""
        if self._averaged is None or self._averaged.n_averaged == 0:
            return self._live
        return self._averaged.module  # type: ignore[return-value]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the live weights after optimizer step ``step``, counted from 1."""
        if self._averaged is None or step < self.start:
            return
        self._averaged.update_parameters(self._live)
        if self.config.average == "sma-released":
            for name, parameter in self._averaged.module.named_parameters():
                if name.startswith("projection."):
                    parameter.copy_(self._live.get_parameter(name))

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights and their number; empty before the average begins."""
        if self._averaged is None or self._averaged.n_averaged == 0:
            return {}
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a ``state_dict``."""
        if state and self._averaged is not None:
            self._averaged.load_state_dict(state)
