"""How long a run should take, said before it starts."""

from __future__ import annotations

import time

import torch

from scmd.build import Roles
from scmd.config import RunConfig
from scmd.data.images import read_image
from scmd.data.loader import Batch
from scmd.data.transforms import training_transform
from scmd.methods import Method
from scmd.models.images import as_float
from scmd.models.student import evaluating


def estimate(
    config: RunConfig, roles: Roles, method: Method, size: int, device: torch.device, start: int
) -> str:
    """How long the rest of a run should take, from one step of each phase and one image, timed.

    The trial steps change nothing: no optimizer step is taken, and batch norm stays as it is.
    """
    settings = config.training
    rows = [row for rows in roles.train_rows() for row in rows[: settings.batch_per_domain]]
    transform = training_transform(size)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=()):
        pixels = transform(read_image(roles.data.root / roles.data.paths[rows[0]]))
    per_image = time.perf_counter() - began
    batch = Batch(
        torch.stack([pixels] * len(rows)),
        torch.from_numpy(roles.data.labels[rows]).long(),
        torch.zeros(len(rows), dtype=torch.long),
        torch.from_numpy(roles.data.ids[rows]),
    ).to(device)
    seconds = {}
    with evaluating(method), torch.random.fork_rng():
        for progress in (0.0, 0.0, 0.5, 1.0):  # the first one warms up
            began = time.perf_counter()
            loss = method(batch, progress)["loss"]
            assert isinstance(loss, torch.Tensor)
            loss.backward()
            float(loss.detach())
            seconds[progress] = time.perf_counter() - began
            method.zero_grad(set_to_none=True)
        began = time.perf_counter()
        with torch.inference_mode():
            method.predict(as_float(batch.images))
        per_scored = (time.perf_counter() - began) / len(rows)
    loading = per_image * len(rows) / max(1, settings.workers)
    # Steps that train on the whole batch at the start, that may select, and at the end.
    selection = getattr(config.hparams, "selection", None)
    warmup, last = (selection.warmup, selection.last_fraction) if selection else (0.0, 0.0)
    left = settings.steps - start
    parts = {0.0: warmup, 0.5: max(0.0, 1 - warmup - last), 1.0: last}
    steps = left * sum(share * max(seconds[p], loading) for p, share in parts.items())
    held_out = sum(len(roles.rows(domain, "holdout")) for domain in roles.sources)
    scored = held_out * (left // settings.evaluate_every + 2) if start == 0 else 0
    if roles.target:
        scored += len(roles.rows(roles.target, "target", "target-holdout"))
    total = steps + scored * (per_scored + per_image / max(1, settings.workers))
    return (
        f"about {duration(total)}: {left} steps of about {steps / left:.2g} s, "
        f"{scored:,} images to score"
    )


def duration(seconds: float) -> str:
    """``95`` to ``1 min 35 s``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
