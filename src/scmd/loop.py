"""The loop: batches to losses to weights, logged, checkpointed and resumable to the bit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from torch import Tensor

from scmd.averaging import reestimate_batch_norm
from scmd.build import (
    Roles,
    assign_roles,
)
from scmd.cache import Shared
from scmd.checkpoint import load_checkpoint, save_checkpoint
from scmd.config import RunConfig, flatten, plain
from scmd.data.loader import (
    Batch,
    DomainBatches,
)
from scmd.errors import ScmdError, ScmdWarning
from scmd.files import read_json
from scmd.machine import keep_memory
from scmd.models.images import as_float
from scmd.progress import TrainingProgress
from scmd.records import MetricsLog, SelectionLog, check_samples, write_samples
from scmd.run_folder import CHECKPOINTS, METRICS, SAMPLES, SUMMARY, check_folder, opened
from scmd.scoring import Scorer
from scmd.stepping import Stepper
from scmd.summary import finish

# A holdout accuracy below this part of the best one so far is called a collapse.
COLLAPSE = 0.7
BATCH_NORM_STEPS = 100
"""Steps whose batches SWAD re-estimates batch norm on, where it is not frozen."""


@dataclass
class Best:
    """The weights that model selection would choose so far."""

    step: int = -1
    accuracy: float = -1.0
    weights: dict[str, Tensor] = field(default_factory=dict)


def train(
    config: RunConfig,
    out: str | Path,
    resume: bool = False,
    console: Console | None = None,
    shared: Shared | None = None,
) -> dict[str, Any]:
    """Train a student and write a run's folder.

    Args:
        config: What to train, on what.
        out: The run's folder; made if need be, and empty unless ``resume``.
        resume: Continue a run that was stopped, from its last checkpoint; the result is the same
            to the bit as without the stop.
        console: Where progress goes; default: the terminal.
        shared: What this run may take from others of the same process, and leave to them. Such a
            run draws no plots.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ScmdError: Bad configuration, data or weights; the folder is another run's; the loss is
            not finite.
    """
    out = Path(out)
    console = console or Console()
    check_folder(out, config, resume)
    if (out / SUMMARY).exists():
        console.print(f"{out} is finished already; nothing to resume")
        return read_json(out / SUMMARY)
    keep_memory()
    run = Run(config, assign_roles(config, console), out, console, shared or Shared(0))
    with ExitStack() as stack:
        if run.is_main:
            stack.enter_context(opened(out, config))
        run.accelerator.wait_for_everyone()
        run.train(resume)
        if not run.is_main:
            return {}
        best = run.best
        summary = finish(
            config, run.roles, run.method, best.step, best.weights, out, run.seconds, run.shared,
            run.precision, plots=shared is None,
        )  # fmt: skip
        run.selections.remove_parts()
        return summary


def estimate_run(config: RunConfig) -> float:
    """Seconds that a run should take, from trial steps; nothing is written.

    A teacher that remembers is not asked what it does not know yet, nor is the time for it counted.
    """
    quiet = Console(quiet=True)
    run = Run(config, assign_roles(config, quiet), Path(), quiet, Shared(0), ask=False)
    return run.estimated(0).seconds


class Run(Stepper):
    """One training run in progress: its steps, its scores, its log and its checkpoints."""

    def __init__(
        self,
        config: RunConfig,
        roles: Roles,
        out: Path,
        console: Console,
        shared: Shared,
        ask: bool = True,
    ) -> None:
        super().__init__(config, roles, out, console, shared, ask)
        self.out = out
        self.scorer = Scorer(config, self.roles, shared, self.accelerator)
        self.best = Best()
        self.log: MetricsLog | None = None
        """Only the first process has one."""
        self.seconds = 0.0
        """Spent in the loop, over all sessions of the run."""

    @property
    def chance(self) -> float:
        """The accuracy of a guess."""
        return 1 / len(self.roles.data.classes)

    @property
    def selects(self) -> bool:
        """Whether the method trains on a part of its batches."""
        selection = getattr(self.config.hparams, "selection", None)
        return selection is not None and selection.rule != "all"

    def train(self, resume: bool) -> None:
        """Run all steps that are left."""
        settings = self.config.training
        if self.config.average.average != "none" and settings.steps < self.average.start:
            warnings.warn(
                f"the run ends after {settings.steps} steps, before the average starts at step "
                f"{self.average.start}: the last weights will be used. Lower --average-start",
                ScmdWarning,
                stacklevel=2,
            )
        state = load_checkpoint(self.out / CHECKPOINTS) if resume else None
        start = self._restore(state) if state else 0
        if self.is_main:
            if state:
                check_samples(self.out / SAMPLES, self.roles.data, self.roles.split)
            else:
                write_samples(self.out / SAMPLES, self.roles.data, self.roles.split)
            self.log = MetricsLog(self.out / METRICS, state["log"] if state else 0)
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        selections = self.selections = SelectionLog(self.out, settings.seed, start, process)
        batches = self.batches = DomainBatches(
            self.roles.data,
            self.roles.train_rows(),
            settings.batch_per_domain,
            settings.seed,
            start,
            settings.steps,
            self.config.data.class_balanced,
            (process, processes),
        )
        loader = self.loader(batches)
        if self.is_main:
            self._announce(start)
        if settings.tracker != "none":
            told = {k: str(v) for k, v in flatten(plain(asdict(self.config))).items()}
            self.accelerator.init_trackers("scmd", told)
        began = time.perf_counter() - self.seconds
        with TrainingProgress(self.console, start, settings.steps, self.is_main) as progress:
            for step, batch in enumerate(loader, start):
                taken = self.step(batch.to(self.device), step)
                if taken.decisions is not None:
                    selections.add(step, batch.sample_ids, taken.decisions)
                if step % settings.log_every == 0 or step == settings.steps - 1:
                    self._log(step, batch, taken.parts, progress)
                progress.step(len(batch.labels) * processes)
                last = step == settings.steps - 1
                if step % settings.evaluate_every == 0 or last:
                    self._score(step, progress)
                if (step + 1) % settings.checkpoint_every == 0 or last:
                    selections.write_part(step + 1)
                    self.accelerator.wait_for_everyone()
                    self.seconds = time.perf_counter() - began
                    if self.log:
                        self._save(step + 1, self.log.sync())
        if self.log:
            self.log.close()
        if settings.tracker != "none":
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
        if self.is_main:
            selections.merge()

    def _log(
        self, step: int, batch: Batch, parts: dict[str, Tensor], progress: TrainingProgress
    ) -> None:
        """Write down the mean of the losses over the processes; of one, what it has."""
        means = {
            name: float(cast(Tensor, self.accelerator.reduce(value.float(), "mean")))
            for name, value in parts.items()
        }
        _check_finite(means, step, batch)
        if self.log:
            self.log.write({"step": step, **means})
            self.accelerator.log({f"train/{name}": v for name, v in means.items()}, step)
        progress.losses(means)

    def _score(self, step: int, progress: TrainingProgress) -> None:
        """Score the averaged weights on the sources' holdout, and remember the best.

        An average that chooses its steps by itself shows the live weights until the last step.
        """
        if self.log:
            scores, loss = self.scorer.holdout(self.average.model)
            self.average.scored(loss)
            if self.average.chooses and step == self.config.training.steps - 1:
                self.average.finish()
                if not self.config.student.freeze_batch_norm:
                    reestimate_batch_norm(self.average.model.backbone, self._last_images())
                scores, loss = self.scorer.holdout(self.average.model)
                self.best = Best()  # what the average has chosen, whatever was scored before
            mean = float(np.mean(list(scores.values())))
            line = {"step": step, "holdout": scores, "holdout_accuracy": mean}
            if self.average.chooses:
                line["holdout_loss"] = loss
            if self.config.training.score_held_out:
                line["held_out"] = self.scorer.held_out(self.average.model)
            self.log.write(line)
            tracked = {f"holdout/{domain}": score for domain, score in scores.items()}
            self.accelerator.log({**tracked, "holdout/mean": mean}, step)
            progress.score(step, mean)
            if mean > self.best.accuracy:
                weights = self.average.model.state_dict()
                self.best = Best(step, mean, {n: w.clone() for n, w in weights.items()})
            elif mean < COLLAPSE * self.best.accuracy and self.best.accuracy > 2 * self.chance:
                warnings.warn(
                    f"step {step}: the holdout accuracy of the sources fell to {mean:.3f}, from "
                    f"{self.best.accuracy:.3f} at step {self.best.step}. Lower --lr"
                    + (
                        ", keep more of each batch (--selection.fraction), or warm up "
                        "(--selection.warmup)"
                        if self.selects
                        else ""
                    ),
                    ScmdWarning,
                    stacklevel=2,
                )
        self.accelerator.wait_for_everyone()

    def _last_images(self) -> Iterator[Tensor]:
        """Float images of the last steps' batches, once more."""
        settings = self.config.training
        last = self.batches.starting_at(max(0, settings.steps - BATCH_NORM_STEPS))
        for batch in self.loader(last):
            yield as_float(batch.to(self.device).images)

    def _save(self, steps: int, log_length: int) -> None:
        for name, value in self.method.named_parameters():
            if not bool(value.isfinite().all()):
                raise ScmdError(
                    f"step {steps - 1}: the weights of {name} are not finite any more. "
                    "Lower --lr; the checkpoint before is kept"
                )
        about = {"steps": steps, "log": log_length, "seconds": self.seconds}
        state = {**self.state_dict(), **about, "best": vars(self.best)}
        save_checkpoint(self.out / CHECKPOINTS, steps, state)

    def _restore(self, state: dict[str, Any]) -> int:
        self.load_state_dict(state, self.out)
        self.best = Best(**state["best"])
        self.seconds = state["seconds"]
        return int(state["steps"])

    def _announce(self, start: int) -> None:
        settings, roles = self.config.training, self.roles
        images = sum(len(rows) for rows in roles.train_rows())
        self.console.print(
            f"{self.config.method} on {', '.join(roles.sources)} ({images:,} images, "
            f"{len(roles.data.classes)} classes), target: {roles.target or 'none'}",
            markup=False,
        )
        if self.accelerator.num_processes > 1 and self.selects:
            warnings.warn(
                f"each of the {self.accelerator.num_processes} processes selects within its own "
                "share of a batch, not over the whole of it",
                ScmdWarning,
                stacklevel=2,
            )
        if start:
            self.console.print(f"resuming after {start} of {settings.steps} steps")
        if start < settings.steps and not self.console.quiet:
            self.console.print(str(self.estimated(start)))


def _check_finite(parts: dict[str, float], step: int, batch: Batch) -> None:
    if not np.isfinite(parts["loss"]):
        ids = ", ".join(str(int(i)) for i in batch.sample_ids[:5])
        raise ScmdError(
            f"step {step}: the loss is {parts['loss']} "
            f"({', '.join(f'{name} {value:.4g}' for name, value in parts.items())}; "
            f"samples {ids}, ...). Lower --lr; the last checkpoint is kept"
        )
