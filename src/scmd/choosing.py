"""Model selection during a run: the weights with the highest score on the sources' holdout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from scmd.averaging import Average, reestimate_batch_norm
from scmd.config import RunConfig
from scmd.errors import ScmdWarning
from scmd.scoring import Scorer
from scmd.stopping import Watch

# A holdout accuracy below this part of the best one so far is called a collapse.
COLLAPSE = 0.7


@dataclass
class Best:
    """The weights that would be chosen so far; of equals the earlier."""

    step: int = -1
    accuracy: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Chooser:
    """Scores the averaged weights and remembers the best.

    An average that chooses its steps by itself shows the live weights until the last step.

    Args:
        config: The run's.
        classes: How many there are.
        scorer: What measures.
        average: What is measured.
        last_images: Makes float images [B, 3, H, W] of the last steps' batches, which such an
            average re-estimates batch norm on.
    """

    def __init__(
        self,
        config: RunConfig,
        classes: int,
        scorer: Scorer,
        average: Average,
        last_images: Callable[[], Iterator[Tensor]],
    ) -> None:
        self.config, self.scorer, self.average = config, scorer, average
        self.last_images = last_images
        self.classes = classes
        self.best = Best()

    @property
    def chance(self) -> float:
        """The accuracy of a guess."""
        return 1 / self.classes

    def score(self, step: int, watch: Watch = iter) -> dict[str, Any]:
        """Score, and take over what is better.

        Args:
            step: The number of the step before.
            watch: Goes through the batches; where it raises, nothing has changed.

        Returns:
            The line of the log.
        """
        finishing = self.average.chooses and step == self.config.training.steps - 1
        if finishing:
            self._finish_average()
            watch = iter
        scores, loss = self.scorer.holdout(self.average.model, watch)
        mean = float(np.mean(list(scores.values())))
        line: dict[str, Any] = {"step": step, "holdout": scores, "holdout_accuracy": mean}
        if self.average.chooses:
            line["holdout_loss"] = loss
        if self.config.training.score_held_out:
            line["held_out"] = self.scorer.held_out(self.average.model, watch)
        if not finishing:
            self.average.scored(loss)
        self._compare(step, mean)
        return line

    def _finish_average(self) -> None:
        """Let it choose its steps; what it chose is taken, whatever was scored before."""
        _, loss = self.scorer.holdout(self.average.model)
        self.average.scored(loss)
        self.average.finish()
        if not self.config.student.freeze_batch_norm:
            reestimate_batch_norm(self.average.model.backbone, self.last_images())
        self.best = Best()

    def _compare(self, step: int, accuracy: float) -> None:
        best = self.best
        if accuracy > best.accuracy:
            weights = self.average.model.state_dict()
            self.best = Best(step, accuracy, {name: w.clone() for name, w in weights.items()})
        elif accuracy < COLLAPSE * best.accuracy and best.accuracy > 2 * self.chance:
            warnings.warn(
                f"step {step}: the holdout accuracy of the sources fell to {accuracy:.3f}, from "
                f"{best.accuracy:.3f} at step {best.step}. {self._way_out()}",
                ScmdWarning,
                stacklevel=2,
            )

    def _way_out(self) -> str:
        if not _selects(self.config):
            return "Lower --lr"
        return (
            "Lower --lr, keep more of each batch (--selection.fraction), or warm up "
            "(--selection.warmup)"
        )


def _selects(config: RunConfig) -> bool:
    """Whether the method trains on a part of its batches."""
    selection = getattr(config.hparams, "selection", None)
    return selection is not None and selection.rule != "all"
