"""Our side of the benchmark: the steps that ``scmd train`` takes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from scmd.bench.work import PROMPT, Work, random_teacher
from scmd.build import assign_roles
from scmd.cache import Shared
from scmd.config import RunConfig, config_from
from scmd.data.loader import Batch, DomainBatches
from scmd.efficiency import plain_attention
from scmd.machine import keep_memory
from scmd.models.images import Normalize
from scmd.models.pretrained import encode_prompts
from scmd.models.teacher import CLIPTeacher, TeacherConfig
from scmd.stepping import Stepper

STEPS = 1_000_000
"""Of the run that the steps are taken from; more than will be taken."""


class Ours:
    """One side of the benchmark.

    Args:
        work: What to train on what.
    """

    def __init__(self, work: Work) -> None:
        keep_memory()
        self.work = work
        quiet = Console(quiet=True)
        config = config_of(work)
        roles = assign_roles(config, quiet)
        folder = Path(tempfile.gettempdir())  # in which nothing is written
        self.runner = Stepper(config, roles, folder, quiet, RandomTeacher(work))
        size = self.runner.size
        draw = torch.Generator().manual_seed(0)
        shared_by = self.runner.accelerator.num_processes
        domains, per_domain = len(roles.sources), work.batch_per_domain // shared_by
        rows = torch.cat([torch.from_numpy(rows[:1]) for rows in roles.train_rows()])
        self.batch = Batch(
            torch.randint(
                256, (domains * per_domain, 3, size, size), generator=draw, dtype=torch.uint8
            ),
            torch.randint(len(roles.data.classes), (domains * per_domain,), generator=draw),
            torch.arange(domains).repeat_interleave(per_domain),
            torch.from_numpy(roles.data.ids)[rows].repeat_interleave(per_domain),
        ).to(self.runner.device)
        self.batches = DomainBatches(
            roles.data, roles.train_rows(), work.batch_per_domain, 0, 0, STEPS
        )
        self.taken = 0

    def step(self, phase: str) -> None:
        """A step on a batch that is in memory."""
        self._step(self.batch, phase)

    def run(self, phases: tuple[str, ...]) -> None:
        """Steps on batches that are loaded meanwhile."""
        batches = self._next(len(phases))
        for phase, batch in zip(phases, self.runner.loader(batches), strict=True):
            self._step(batch.to(self.runner.device), phase)

    def load(self, batches: int) -> None:
        """Load batches, and do nothing with them."""
        for _ in self.runner.loader(self._next(batches)):
            pass

    def flops(self, phase: str) -> float:
        """FLOPs of a step; a multiplication and an addition are two."""
        with plain_attention(), FlopCounterMode(display=False) as counter:
            self.step(phase)
        return float(counter.get_total_flops())

    def _step(self, batch: Batch, phase: str) -> None:
        # The number of a step decides its phase; each number is another.
        first = 0 if phase == "select" else math.ceil((1 - self.work.last_fraction) * STEPS)
        self.runner.step(batch, first + self.taken)
        self.taken += 1

    def _next(self, steps: int) -> DomainBatches:
        batches = self.batches.starting_at(self.taken)
        batches.stop = self.taken + steps
        return batches


class RandomTeacher(Shared):
    """Shares a teacher with random weights in the place of the one that is asked for."""

    def __init__(self, work: Work) -> None:
        super().__init__(0)
        self.work = work

    def teacher(self, config: TeacherConfig, classes: Sequence[str]) -> CLIPTeacher:
        """An open_clip model that knows nothing, and the embeddings of the prompts."""
        model, tokenizer = random_teacher(self.work.teacher)
        prompts = [[PROMPT.format(name)] for name in classes]
        size, mean, std = model.visual.image_size, model.visual.image_mean, model.visual.image_std
        normalize = Normalize(tuple(size), tuple(mean), tuple(std), "bicubic")
        preprocess = image_transform_v2(
            PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False
        )
        texts = encode_prompts(model, tokenizer, prompts)
        return CLIPTeacher(model, texts, normalize, preprocess)  # type: ignore[arg-type]


def config_of(work: Work) -> RunConfig:
    """The run that the steps are taken from: the defaults, with the work's setting."""
    selection = {
        "fraction": work.fraction,
        "last_fraction": work.last_fraction,
        "resolution": 0.5 if work.cheap else 1.0,
    }
    return config_from(
        {
            "data": {"path": str(work.data), "image_size": work.image_size},
            "student": {"name": work.student, "pretrained": False},
            "teacher": {"view": "clean" if work.cheap else "augmented"},
            "hparams": {"selection": selection},
            "training": {
                "steps": STEPS,
                "batch_per_domain": work.batch_per_domain,
                "workers": work.workers,
                "precision": work.precision,
            },
        }
    )
