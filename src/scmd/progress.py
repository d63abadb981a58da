"""What is said about a run while, and before, it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from scmd.build import Roles
from scmd.config import RunConfig
from scmd.data.images import read_image
from scmd.data.loader import Batch
from scmd.data.transforms import training_transform
from scmd.methods import Method
from scmd.models.images import as_float
from scmd.models.student import evaluating


class TrainingProgress:
    """A progress bar with loss parts, holdout accuracy, images per second and time left."""

    def __init__(self, console: Console, start: int, steps: int, enabled: bool) -> None:
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[rate]} img/s,"),
            TimeRemainingColumn(compact=True),
            TextColumn("left; {task.description}"),
            console=console,
            disable=not enabled,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, rate="")
        self._losses = self._score = ""
        self._images, self._began = 0, time.perf_counter()

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def step(self, images: int) -> None:
        """One more step, over so many images."""
        self._images += images
        rate = self._images / max(time.perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.0f}")

    def losses(self, parts: Mapping[str, float]) -> None:
        """Show the loss and its parts."""
        self._losses = " ".join(f"{name} {value:.3g}" for name, value in parts.items())
        self._describe()

    def score(self, accuracy: float) -> None:
        """Show the holdout accuracy."""
        self._score = f"holdout {accuracy:.3f}"
        self._describe()

    def _describe(self) -> None:
        self._bar.update(self._task, description=f"{self._losses} {self._score}".strip())


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
