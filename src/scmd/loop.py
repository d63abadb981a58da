"""The loop: batches to losses to weights, logged, checkpointed and resumable to the bit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor

from scmd.build import assign_roles
from scmd.cache import Shared
from scmd.checkpoint import load_checkpoint, save_checkpoint
from scmd.choosing import Best, Chooser
from scmd.config import RunConfig
from scmd.data.loader import DomainBatches
from scmd.errors import ScmdError, ScmdWarning
from scmd.files import read_json
from scmd.finite import Losses
from scmd.machine import keep_memory
from scmd.models.images import as_float
from scmd.progress import TrainingProgress
from scmd.records import MetricsLog, SelectionLog, check_samples, remove_parts, write_samples
from scmd.run_folder import (
    CHECKPOINTS,
    METRICS,
    NOT_FINITE,
    SAMPLES,
    SUMMARY,
    check_folder,
    opened,
)
from scmd.scoring import Scorer
from scmd.stepping import Stepper
from scmd.stopping import GivenUpError, Stop
from scmd.summary import finish
from scmd.toml_tables import flatten, plain

BATCH_NORM_STEPS = 100
"""Steps whose batches SWAD re-estimates batch norm on, where it is not frozen."""


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
        Stopped: By Ctrl-C or SIGTERM, after a checkpoint.
    """
    out = Path(out)
    console = console or Console()
    check_folder(out, config, resume)
    if (out / SUMMARY).exists():
        remove_parts(out)  # a kill may have left them
        console.print(f"{out} is finished already; nothing to resume", markup=False)
        return read_json(out / SUMMARY)
    keep_memory()
    stepper = Stepper(config, assign_roles(config, console), out, console, shared or Shared(0))
    run = Run(stepper, out)
    with ExitStack() as stack:
        if stepper.is_main:
            stack.enter_context(opened(out, config))
        stepper.accelerator.wait_for_everyone()
        run.train(resume)
        if not stepper.is_main:
            return {}
        best = run.chooser.best
        summary = finish(
            config, stepper.roles, stepper.method, best.step, best.weights, out, run.seconds,
            stepper.shared, stepper.precision, plots=shared is None,
        )  # fmt: skip
        remove_parts(out)
        return summary


def estimate_run(config: RunConfig) -> float:
    """Seconds that a run should take, from trial steps; nothing is written.

    A teacher that remembers is not asked what it does not know yet, nor is the time for it counted.
    """
    quiet = Console(quiet=True)
    stepper = Stepper(config, assign_roles(config, quiet), Path(), quiet, Shared(0), ask=False)
    return stepper.estimated(0).seconds


class Run:
    """One training run in progress: its steps, its scores, its log and its checkpoints.

    Args:
        stepper: What takes the steps.
        out: The run's folder.
    """

    def __init__(self, stepper: Stepper, out: Path) -> None:
        self.stepper, self.out = stepper, out
        self.config, self.roles = stepper.config, stepper.roles
        self.console, self.accelerator = stepper.console, stepper.accelerator
        scorer = Scorer(self.config, self.roles, stepper.shared, self.accelerator)
        classes = len(self.roles.data.classes)
        self.chooser = Chooser(self.config, classes, scorer, stepper.average, self._last_images)
        self.log: MetricsLog | None = None
        """Only the first process has one."""
        self.seconds = 0.0
        """Spent in the loop, over all sessions of the run."""
        self.losses = Losses(self.accelerator, out / NOT_FINITE)
        self.stop = Stop()
        self.unscored = False
        """Whether the score of the last step is still to be taken."""

    def train(self, resume: bool) -> None:
        """Run all steps that are left."""
        settings = self.config.training
        if self.config.average.average != "none" and settings.steps < self.stepper.average.start:
            warnings.warn(
                f"the run ends after {settings.steps} steps, before the average starts at step "
                f"{self.stepper.average.start}: the last weights will be used. Lower "
                "--average-start",
                ScmdWarning,
                stacklevel=2,
            )
        state = load_checkpoint(self.out / CHECKPOINTS) if resume else None
        start = self._restore(state) if state else 0
        if self.stepper.is_main:
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
        loader = self.stepper.loader(batches)
        if self.stepper.is_main:
            self._announce(start)
        if settings.tracker != "none":
            told = {k: str(v) for k, v in flatten(plain(asdict(self.config))).items()}
            self.accelerator.init_trackers("scmd", told)
        began = time.perf_counter() - self.seconds
        with (
            self.stop.listening(),
            TrainingProgress(self.console, start, settings.steps, self.stepper.is_main) as progress,
        ):
            if self.unscored:
                self.unscored = self._score(start - 1, progress)
                if self.unscored:
                    self._leave(start)
            for step, batch in enumerate(loader, start):
                taken = self.stepper.step(batch.to(self.stepper.device), step)
                if taken.decisions is not None:
                    selections.add(step, batch.sample_ids, taken.decisions)
                self.losses.add(step, batch.sample_ids, taken.parts)
                last = step == settings.steps - 1
                if step % settings.log_every == 0 or last:
                    self._log(step, taken.parts, progress)
                progress.step(len(batch.labels) * processes)
                if step % settings.evaluate_every == 0 or last:
                    self.unscored = self._score(step, progress)
                stopping = self._stopping()
                if (step + 1) % settings.checkpoint_every == 0 or last or stopping:
                    self.losses.check()
                    selections.write_part(step + 1)
                    self.accelerator.wait_for_everyone()
                    self.seconds = time.perf_counter() - began
                    if self.log:
                        self._save(step + 1, self.log.sync())
                if stopping:
                    self._leave(step + 1)
        if self.log:
            self.log.close()
        if settings.tracker != "none":
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
        if self.stepper.is_main:
            selections.merge()

    def _stopping(self) -> bool:
        """Whether somebody asked this process, or another one, to stop."""
        if self.accelerator.num_processes == 1:
            return self.stop.asked
        asked = torch.tensor(float(self.stop.asked), device=self.stepper.device)
        return bool(cast(Tensor, self.accelerator.reduce(asked, "sum")) > 0)

    def _leave(self, steps: int) -> None:
        self.stop.leave(f"stopped after {steps} steps. Pass --resume to go on")

    def _log(self, step: int, parts: dict[str, Tensor], progress: TrainingProgress) -> None:
        """Write down the mean of the losses over the processes; of one, what it has."""
        self.losses.check()
        means = {
            name: float(cast(Tensor, self.accelerator.reduce(value.float(), "mean")))
            for name, value in parts.items()
        }
        if self.log:
            self.log.write({"step": step, **means})
            self.accelerator.log({f"train/{name}": v for name, v in means.items()}, step)
        progress.losses(means)

    def _score(self, step: int, progress: TrainingProgress) -> bool:
        """Score the averaged weights on the sources' holdout, and remember the best.

        Returns:
            Whether it was given up, since somebody asked to stop, and is to be done again.
        """
        interrupted = False
        if self.log:
            alone = self.accelerator.num_processes == 1
            try:
                line = self.chooser.score(step, self.stop.watch if alone else iter)
            except GivenUpError:
                interrupted = True
            else:
                self.log.write(line)
                tracked = {f"holdout/{name}": score for name, score in line["holdout"].items()}
                mean = line["holdout_accuracy"]
                self.accelerator.log({**tracked, "holdout/mean": mean}, step)
                progress.score(step, mean)
        self.accelerator.wait_for_everyone()
        return interrupted

    def _last_images(self) -> Iterator[Tensor]:
        """Float images of the last steps' batches, once more."""
        settings = self.config.training
        last = self.batches.starting_at(max(0, settings.steps - BATCH_NORM_STEPS))
        for batch in self.stepper.loader(last):
            yield as_float(batch.to(self.stepper.device).images)

    def _save(self, steps: int, log_length: int) -> None:
        for name, value in self.stepper.method.named_parameters():
            if not bool(value.isfinite().all()):
                raise ScmdError(
                    f"step {steps - 1}: the weights of {name} are not finite any more. "
                    "Lower --lr; the checkpoint before is kept"
                )
        about = {
            "steps": steps,
            "log": log_length,
            "seconds": self.seconds,
            "unscored": self.unscored,
        }
        state = {**self.stepper.state_dict(), **about, "best": vars(self.chooser.best)}
        save_checkpoint(self.out / CHECKPOINTS, steps, state)

    def _restore(self, state: dict[str, Any]) -> int:
        self.stepper.load_state_dict(state, self.out)
        self.chooser.best = Best(**state["best"])
        self.seconds, self.unscored = state["seconds"], state["unscored"]
        return int(state["steps"])

    def _announce(self, start: int) -> None:
        settings, roles = self.config.training, self.roles
        images = sum(len(rows) for rows in roles.train_rows())
        self.console.print(
            f"{self.config.method} on {', '.join(roles.sources)} ({images:,} images, "
            f"{len(roles.data.classes)} classes), target: {roles.target or 'none'}",
            markup=False,
        )
        if start:
            self.console.print(f"resuming after {start} of {settings.steps} steps")
        # Trial steps of this process alone would wait for the others', which are at their first.
        alone = self.accelerator.num_processes == 1
        if alone and start < settings.steps and not self.console.quiet:
            self.console.print(str(self.stepper.estimated(start)))
