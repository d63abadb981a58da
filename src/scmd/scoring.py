"""Scores during training: the sources' holdout, and on request what is held out."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from scmd.build import Roles
from scmd.cache import Shared
from scmd.config import RunConfig
from scmd.data.augment import Augmentation
from scmd.evaluate import EVALUATION_BATCH, accuracy, collect_logits, target_scores
from scmd.losses import classification
from scmd.methods import Method
from scmd.models.student import evaluating
from scmd.stopping import Watch


class Scorer:
    """Measures weights on a run's held-out images, in the run's precision.

    Args:
        config: The run's.
        roles: Its data, and which image is what.
        shared: Where decoded images are kept.
        accelerator: Its device and precision.
    """

    def __init__(
        self, config: RunConfig, roles: Roles, shared: Shared, accelerator: Accelerator
    ) -> None:
        self.config, self.roles, self.shared = config, roles, shared
        self.accelerator = accelerator

    def holdout(self, model: Method, watch: Watch = iter) -> tuple[dict[str, float], float]:
        """Accuracy on every source's holdout, as model selection compares it, and the mean loss.

        Args:
            model: What is scored.
            watch: Goes through the batches, and raises to give up.
        """
        roles, settings = self.roles, self.config.data
        transform = None
        if settings.augment_holdout:
            transform = Augmentation(settings.image_size, settings.flip, settings.augmentation)
        rows = [roles.rows(domain, "holdout") for domain in roles.sources]
        logits = self._logits(model, np.concatenate(rows), watch, transform)
        scores, losses, start = {}, [], 0
        for domain, part in zip(roles.sources, rows, strict=True):
            labels = torch.from_numpy(roles.data.labels[part]).long()
            own = logits[start : start + len(part)]
            scores[domain] = accuracy(own, labels)
            losses.append(float(classification(own, labels)))
            start += len(part)
        return scores, float(np.mean(losses))

    def held_out(self, model: Method, watch: Watch = iter) -> dict[str, dict[str, float]]:
        """Accuracy on the target, whole and by DomainBed's parts, and on what is left out.

        The run itself never looks at them.
        """
        roles, scores = self.roles, {}
        held_out = [*([roles.target] if roles.target else []), *roles.left_out]
        for domain in held_out:
            rows = roles.rows(domain, "target", "target-holdout", "left-out")
            logits = self._logits(model, rows, watch)
            labels = torch.from_numpy(roles.data.labels[rows]).long()
            if domain == roles.target:
                domainbed = torch.from_numpy(roles.split[rows] == "target")
                scores[domain] = target_scores(logits, labels, domainbed)
            else:
                scores[domain] = {"accuracy": accuracy(logits, labels)}
        return scores

    def _logits(
        self,
        model: Method,
        rows: np.ndarray,
        watch: Watch,
        transform: Augmentation | None = None,
    ) -> Tensor:
        """Logits [n, C] of a method. All rows in one pass: workers start once."""
        batches = self.shared.evaluation_batches(
            self.roles.data,
            rows,
            self.config.data.image_size,
            EVALUATION_BATCH,
            self.config.training.workers,
            transform,
        )
        with evaluating(model), self.accelerator.autocast():
            return collect_logits(model.predict, watch(batches), self.accelerator.device)
