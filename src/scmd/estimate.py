"""How long a run should take, said before it starts."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch

from scmd.build import Roles, views_of
from scmd.config import RunConfig
from scmd.data.loader import Batch, DomainBatches, training_batches
from scmd.methods import Method
from scmd.models.images import as_float
from scmd.models.student import evaluating


@dataclass(frozen=True)
class Estimate:
    """How long the rest of a run should take."""

    training: float
    """Seconds of training."""
    scoring: float
    """Seconds of measuring."""
    steps: int
    scored: int
    """Images to measure."""

    @property
    def seconds(self) -> float:
        """In all."""
        return self.training + self.scoring

    def __str__(self) -> str:
        return (
            f"about {duration(self.seconds)}: {self.steps} steps of about "
            f"{self.training / self.steps:.2g} s, {self.scored:,} images to score"
        )


def estimate(
    config: RunConfig, roles: Roles, method: Method, size: int, device: torch.device, start: int
) -> Estimate:
    """How long the rest of a run should take: its next batch and a step of each phase, timed.

    The trial steps change nothing: no optimizer step is taken, and batch norm stays as it is.
    """
    settings = config.training
    began = time.perf_counter()
    batch = _next_batch(config, roles, method, size, start)
    per_image = (time.perf_counter() - began) / len(batch.labels) / max(1, settings.workers)
    batch = batch.to(device)
    _seconds_of_step(method, batch, 0.0)  # warms up
    edges = (0.0, *config.hparams.phases(), 1.0)
    done, steps_left = start / settings.steps, settings.steps - start
    training = 0.0
    for begin, end in itertools.pairwise(edges):
        share = max(0.0, end - max(begin, done))
        if share:
            computing = _seconds_of_step(method, batch, (begin + end) / 2)
            training += share * settings.steps * max(computing, per_image * len(batch.labels))
    began = time.perf_counter()
    with torch.inference_mode(), evaluating(method):
        method.predict(as_float(batch.images))
    per_scored = (time.perf_counter() - began) / len(batch.labels) + per_image
    held_out = sum(len(roles.rows(domain, "holdout")) for domain in roles.sources)
    scores = steps_left // settings.evaluate_every + 1
    others = [*([roles.target] if roles.target else []), *roles.left_out]
    measured = sum(
        len(roles.rows(domain, "target", "target-holdout", "left-out")) for domain in others
    )
    # Once more at the end, of the chosen weights.
    scored = held_out * (scores + 1) + measured * (1 + scores * settings.score_held_out)
    return Estimate(training, scored * per_scored, steps_left, scored)


def _next_batch(config: RunConfig, roles: Roles, method: Method, size: int, start: int) -> Batch:
    settings = config.training
    views = views_of(method)
    rows = roles.train_rows()
    one = DomainBatches(
        roles.data, rows, settings.batch_per_domain, settings.seed, start, start + 1
    )
    data = config.data
    batches = training_batches(
        one, roles.data, size, settings.seed, 0, False, data.flip, views, data.augmentation
    )
    return next(batches)


def _seconds_of_step(method: Method, batch: Batch, progress: float) -> float:
    with evaluating(method), torch.random.fork_rng():
        began = time.perf_counter()
        loss = method(batch, progress)["loss"]
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        float(loss.detach())  # waits for the device
        method.zero_grad(set_to_none=True)
        return time.perf_counter() - began


def duration(seconds: float) -> str:
    """``95`` to ``1 min 35 s``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
