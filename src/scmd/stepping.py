"""What takes a run's steps: devices, method, optimizer, average, and the batches that they meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from scmd.averaging import Average
from scmd.build import (
    Roles,
    batch_size_in_pixels,
    build_method,
    teacher_in_training,
    views_of,
)
from scmd.cache import Shared
from scmd.config import RunConfig
from scmd.data.augment import Augmentation
from scmd.data.loader import Batch, DomainBatches, check_divisible
from scmd.data.mixtures import mixed
from scmd.errors import ScmdError
from scmd.estimate import Estimate, estimate
from scmd.machine import open_accelerator
from scmd.models.images import as_float
from scmd.seeds import derive
from scmd.selection import Decisions


class Step(NamedTuple):
    """What a step came to."""

    parts: dict[str, Tensor]
    """The loss and its parts, scalars on the device."""
    decisions: Decisions | None
    """Of a method that chooses its samples."""


class Stepper:
    """A method in training, on its devices.

    Args:
        config: What to train, on what.
        roles: The data, and which image is what.
        out: The run's folder, where trackers that write files put them.
        console: Where progress of what is made before the first step goes.
        shared: What runs of this process share.
        ask: Decode images and ask a remembering teacher where that is not done yet.

    Raises:
        ScmdError: As ``build_method`` and ``open_accelerator``; a batch that the processes cannot
            share.
    """

    def __init__(
        self,
        config: RunConfig,
        roles: Roles,
        out: Path,
        console: Console,
        shared: Shared,
        ask: bool = True,
    ) -> None:
        self.config, self.roles, self.console = config, roles, console
        self.shared = shared
        settings = config.training
        self.accelerator = open_accelerator(
            settings.precision, settings.device, settings.tracker, out, config.data.image_size
        )
        check_divisible(settings.batch_per_domain, self.accelerator.num_processes)
        self.device = self.accelerator.device
        self.method = build_method(
            config,
            roles.data.classes,
            len(roles.sources),
            lambda *_: teacher_in_training(
                config, roles, shared.teacher, self.device, console, ask
            ),
        )
        self.method.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.method.needs_teacher and isinstance(self.method.teacher, nn.Module):
            self.method.teacher.to(self.device)
        self.average = Average(self.method, config.average)
        self.size = batch_size_in_pixels(config, self.method)
        if config.data.decode_once and ask:
            self.roles = self._decoded(roles)
        self.optimizer = torch.optim.Adam(self.method.param_groups(), lr=config.hparams.lr)
        self._model, self._optimizer = self.accelerator.prepare(self.method, self.optimizer)

    @property
    def precision(self) -> str:
        """Of the forward passes: fp32, bf16 or fp16."""
        return self.accelerator.mixed_precision.replace("no", "fp32")

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that there is one of."""
        return self.accelerator.is_main_process

    def _decoded(self, roles: Roles) -> Roles:
        """With images that need no decoding, where they fit."""
        settings = self.config.data
        how = Augmentation(self.size, settings.flip, settings.augmentation)
        console = self.console if self.is_main else Console(quiet=True)
        decoded = self.shared.decoded(roles.data, how.shorter_side, settings.image_size, console)
        return replace(roles, data=replace(roles.data, decoded=decoded))

    def estimated(self, start: int) -> Estimate:
        """How long the steps from ``start`` on, and the measuring, should take."""
        with self.accelerator.autocast():
            return estimate(self.config, self.roles, self.method, self.size, self.device, start)

    def loader(self, batches: DomainBatches) -> Iterator[Batch]:
        """What the slots of ``batches`` show, in order."""
        settings = self.config.training
        return self.shared.training_batches(
            batches,
            self.roles.data,
            self.size,
            settings.seed,
            settings.workers,
            self.device.type == "cuda",
            self.config.data.flip,
            views_of(self.method),
            self.config.data.augmentation,
            self.device,
        )

    def step(self, batch: Batch, step: int) -> Step:
        """Forward, backward, optimizer and average.

        Args:
            batch: On the device.
            step: Its number, from 0: it decides the phase and seeds the step's draws.
        """
        settings = self.config.training
        # Every step has its own draws (dropout, mixtures, random selection), whatever came before.
        torch.manual_seed(derive("step", settings.seed, step, self.accelerator.process_index))
        batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
        if self.config.data.mixtures:
            batch = mixed(batch._replace(images=as_float(batch.images)))
        with self.accelerator.autocast():
            output = dict(self._model(batch, step / settings.steps))
        decisions = output.pop("decisions", None)
        self.accelerator.backward(output["loss"])
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.method.after_step()
        self.average.update(step + 1)
        return Step({name: value.detach() for name, value in output.items()}, decisions)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, besides the configuration."""
        scaler = self.accelerator.scaler
        return {
            "processes": self.accelerator.num_processes,
            "precision": self.precision,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], where: Path) -> None:
        """Continue from a ``state_dict``, of the run in ``where``.

        Raises:
            ScmdError: It was made by another number of processes, or in another precision.
        """
        if state["processes"] != self.accelerator.num_processes:
            raise ScmdError(
                f"{where} was started with {state['processes']} processes and would be resumed "
                f"with {self.accelerator.num_processes}, which gives another result. Use as many"
            )
        if state["precision"] != self.precision:
            raise ScmdError(
                f"{where} was begun in {state['precision']}, and on this machine auto is "
                f"{self.precision}, which gives another result. Resume it on one like the first"
            )
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
