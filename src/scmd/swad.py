"""SWAD: the mean of the weights over the valley of the holdout loss.

Source: Cha et al., "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021,
arXiv:2102.08604, algorithm 1.

The weights after every optimizer step are averaged in segments, each from one evaluation to the
next. E is the loss of the *live* weights on the sources' holdout at the end of a segment. The
valley begins with the first segment whose E is the smallest of the ``converge`` evaluations that
begin with it; it sets the limit l = (1 + ratio) times the mean of those. It ends before the first
``tolerance`` evaluations in a row that are all above l and the last of which comes after those, or
with the run. What is deployed is the mean over all steps of the valley.

Where paper and released code (github.com/khanrc/swad) leave a choice, or differ:

- a run without a valley has the mean of its last segment, as the released code does (algorithm 1
  would average the whole run), and a warning;
- losses above the limit at the end of a run, fewer than ``tolerance``, are part of the valley, as
  in algorithm 1; the released code leaves them out;
- every step weighs the same, as in algorithm 1; the released code weighs segments alike, the first
  ones of the valley several times, and takes in those right before it that are below the limit;
- the valley's end does not end the run, as the released code does; nothing is added after it.

It needs an evaluation every 50 to 100 steps: the valley is found to one evaluation only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn


@dataclass
class Segment:
    """The mean of the weights over some steps, and the buffers as they were after the last."""

    steps: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def add(self, other: Segment) -> None:
        """Go on with another: the mean over the steps of both, the buffers of the later."""
        if not other.steps:
            return
        if self.steps:
            mean = list(self.weights.values())
            new = [other.weights[name] for name in self.weights]
            # torch's running mean takes a part of 1/(n + 1): here, of the other's steps in all.
            before = cast(int, self.steps / other.steps)
            get_swa_multi_avg_fn()(mean, new, before)  # type: ignore[arg-type]
        else:
            self.weights = {name: value.clone() for name, value in other.weights.items()}
        self.steps += other.steps
        self.buffers = other.buffers

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        named = {f"weights.{name}": value for name, value in self.weights.items()}
        named |= {f"buffers.{name}": value for name, value in self.buffers.items()}
        return {"steps": torch.tensor(self.steps), **named}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], device: torch.device) -> Segment:
        """What ``state_dict`` gave, on a device."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): value.detach().to(device, copy=True)
                for name, value in state.items()
                if name.startswith(prefix)
            }

        return cls(int(state["steps"]), part("weights."), part("buffers."))


class SWAD:
    """The valley of a run, found while it runs; it keeps max(``converge`` + 1, 3) sets of weights.

    Args:
        converge: N_s, evaluations in which the loss no longer falls where the valley begins.
        tolerance: N_e, evaluations above the limit in a row that end it.
        ratio: r − 1; the limit is (1 + ratio) times the mean loss where the valley begins.
    """

    def __init__(self, converge: int, tolerance: int, ratio: float) -> None:
        self.converge, self.tolerance, self.ratio = converge, tolerance, ratio
        self.segment = Segment()
        """From the last evaluation on."""
        self.recent: list[tuple[float, Segment]] = []
        """The last evaluations, with their losses, as long as there is no valley."""
        self.valley = Segment()
        self.above = Segment()
        """After the valley, above the limit so far: part of it if the loss comes back."""
        self.evaluations_above = 0
        self.limit = math.nan
        """l; no number as long as there is no valley."""
        self.ended = False

    @property
    def begun(self) -> bool:
        """Whether there is a valley."""
        return not math.isnan(self.limit)

    def step(self, method: nn.Module) -> None:
        """Include the weights after an optimizer step."""
        if not self.ended:
            weights = {name: value.detach() for name, value in method.named_parameters()}
            self.segment.add(Segment(1, weights))

    def evaluated(self, loss: float, method: nn.Module) -> None:
        """End a segment.

        Args:
            loss: E, of the live weights.
            method: Tells the buffers.
        """
        segment, self.segment = self.segment, Segment()
        if self.ended or not segment.steps:
            return
        saved = method.state_dict().keys()
        segment.buffers = {n: b.clone() for n, b in method.named_buffers() if n in saved}
        if self.begun:
            self._follow(loss, segment)
        else:
            self._seek(loss, segment)

    def finish(self) -> Segment:
        """The mean over the valley, at the end of a run; over the last segment without one."""
        if not self.begun:
            return self.recent[-1][1] if self.recent else self.segment
        self.valley.add(self.above)
        self.above = Segment()
        return self.valley

    def _seek(self, loss: float, segment: Segment) -> None:
        self.recent = [*self.recent, (loss, segment)][-self.converge :]
        losses = [loss for loss, _ in self.recent]
        if len(losses) < self.converge or losses[0] > min(losses):
            return
        self.limit = (1 + self.ratio) * sum(losses) / len(losses)
        sure = max(1, self.converge - self.tolerance + 1)  # the rest cannot end it by themselves
        for _, early in self.recent[:sure]:
            self.valley.add(early)
        for later in self.recent[sure:]:
            self._follow(*later)
        self.recent = []

    def _follow(self, loss: float, segment: Segment) -> None:
        if self.ended:
            return
        self.above.add(segment)
        if loss > self.limit:
            self.evaluations_above += 1
            self.ended = self.evaluations_above >= self.tolerance
        else:
            self.valley.add(self.above)
        if loss <= self.limit or self.ended:
            self.above, self.evaluations_above = Segment(), 0

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the rest of a run depends on, as tensors."""
        segments = {"segment": self.segment, "valley": self.valley, "above": self.above}
        segments |= {f"recent{index}": segment for index, (_, segment) in enumerate(self.recent)}
        state = {
            f"{place}.{name}": value
            for place, segment in segments.items()
            for name, value in segment.state_dict().items()
        }
        return state | {
            "losses": torch.tensor([loss for loss, _ in self.recent], dtype=torch.float64),
            "limit": torch.tensor(self.limit, dtype=torch.float64),
            "evaluations_above": torch.tensor(self.evaluations_above),
            "ended": torch.tensor(self.ended),
        }

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Continue from a ``state_dict``, on a device."""

        def segment(place: str) -> Segment:
            start = f"{place}."
            own = {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}
            return Segment.from_state_dict(own, device)

        losses = state["losses"].tolist()
        self.recent = [(loss, segment(f"recent{index}")) for index, loss in enumerate(losses)]
        self.segment, self.valley, self.above = map(segment, ("segment", "valley", "above"))
        self.limit = float(state["limit"])
        self.evaluations_above = int(state["evaluations_above"])
        self.ended = bool(state["ended"])
