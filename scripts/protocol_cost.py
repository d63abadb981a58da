"""What DomainBed's protocol costs: runs, counted FLOPs, hours; and what several jobs share.

Nothing is trained: networks are counted without weights, and plans are only made.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import open_clip
import timm
import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scmd.efficiency import plain_attention

TRIALS = 3
SIDE, PER_DOMAIN, HOLDOUT = 224, 32, 0.2
FRACTION, LAST = 0.2, 0.25


@dataclass(frozen=True)
class Benchmark:
    """A data set of the protocol; counts as DomainBed's paper has them (arXiv:2007.01434)."""

    name: str
    domains: int
    images: int
    steps: int = 5_000
    score_every: int = 300


SETS = (
    Benchmark("VLCS", 4, 10_729),
    Benchmark("PACS", 4, 9_991),
    Benchmark("OfficeHome", 4, 15_588),
    Benchmark("TerraIncognita", 4, 24_788),
    Benchmark("DomainNet", 6, 586_575, 15_000, 1_000),
)


@dataclass(frozen=True)
class Settings:
    """What is counted."""

    student: str = "resnet50"
    """A timm model."""
    teacher: str = "ViT-B-32-quickgelu"
    """An open_clip model."""
    draws: int = 5
    """Of hyper-parameters: 5 in the paper, 20 in DomainBed."""
    tflops: tuple[float, ...] = (0.181, 20.0, 100.0)
    """Rates at which hours are given, in TFLOP/s that are sustained."""


@dataclass(frozen=True)
class Costs:
    """FLOPs of one image; a multiplication and an addition are two."""

    forward: float
    training: float
    """Forward and backward."""
    teacher: float

    def step(self, method: str, images: int) -> float:
        """FLOPs of a mean step of a run."""
        whole = images * (self.training + (method != "erm") * self.teacher)
        if method != "scmd":
            return whole
        selecting = images * self.forward + int(FRACTION * images) * whole / images
        return (1 - LAST) * selecting + LAST * whole

    def run(self, method: str, data: Benchmark) -> tuple[float, float]:
        """FLOPs of a run's steps, and of its scores: the sources' holdout and the whole target."""
        step = self.step(method, (data.domains - 1) * PER_DOMAIN)
        others = HOLDOUT * (data.domains - 1) / data.domains
        scored = data.images * (others + 1 / data.domains)
        scores = data.steps // data.score_every + 2
        return step * data.steps, scores * scored * self.forward


def count(settings: Settings) -> Costs:
    """Count a student's and a teacher's FLOPs, on tensors that hold nothing."""
    logging.getLogger().setLevel(logging.ERROR)  # of weights that are none we know
    with torch.device("meta"):
        student = timm.create_model(settings.student)
        teacher: Any = open_clip.create_model(settings.teacher, pretrained=None, device="meta")
    return Costs(
        _flops(student, train=False),
        _flops(student, train=True),
        _flops(teacher.visual, train=False),
    )


def _flops(network: nn.Module, train: bool, images: int = 2) -> float:
    network.train(train)
    batch = torch.empty(images, 3, SIDE, SIDE, device="meta")
    with plain_attention(), FlopCounterMode(display=False) as counter:
        with torch.set_grad_enabled(train):
            output = network(batch)
        if train:
            output.sum().backward()
    return counter.get_total_flops() / images


def print_runs(settings: Settings, costs: Costs) -> None:
    """A row for every data set: runs of one method, and their FLOPs."""
    print(
        "| | targets | runs of a method | PFLOP of a run (SCMD): steps | scores | images a step |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    total = 0
    for data in SETS:
        runs = data.domains * TRIALS * settings.draws
        total += runs
        steps, scores = costs.run("scmd", data)
        print(
            f"| {data.name} | {data.domains} | {runs} | {steps / 1e15:.1f} | {scores / 1e15:.1f} | "
            f"{(data.domains - 1) * PER_DOMAIN} |"
        )
    print(f"| all | {sum(data.domains for data in SETS)} | {total} | | | |")


def print_hours(settings: Settings, costs: Costs) -> None:
    """A row for every method: the hours of all its runs, at several rates."""
    print("\n| all runs of | GFLOP of a step, PACS | EFLOP |", end="")
    print("".join(f" hours at {rate:g} TFLOP/s |" for rate in settings.tflops))
    print("|---|---:|---:|" + "---:|" * len(settings.tflops))
    for method in ("erm", "kd", "scmd"):
        flops = sum(
            data.domains * TRIALS * settings.draws * sum(costs.run(method, data)) for data in SETS
        )
        hours = "".join(f" {flops / (rate * 1e12) / 3600:,.0f} |" for rate in settings.tflops)
        step = costs.step(method, 3 * PER_DOMAIN)
        print(f"| {method} | {step / 1e9:,.0f} | {flops / 1e18:.1f} |{hours}")


def print_shared(jobs: tuple[int, ...] = (1, 2, 4, 8), methods: int = 4, draws: int = 5) -> None:
    """How often the batches of a trial and target are made, where runs are given out in two ways.

    Runs take equally long here; a plan of PACS: 4 targets, 3 trials.
    """
    from scmd.config import config_from
    from scmd.protocol.plan import PlannedRun
    from scmd.protocol.sweep import Shares

    runs = [
        PlannedRun(
            f"method{method}",
            config_from(
                {"data": {"path": "PACS", "target": f"target{target}"}, "training": {"seed": trial}}
            ),
            draw,
        )
        for trial in range(TRIALS)
        for target in range(4)
        for method in range(methods)
        for draw in range(draws)
    ]
    print(f"\n| jobs | groups of runs that share batches, of {len(runs)} runs | ", end="")
    print("made: by groups | made: run by run |\n|---:|---:|---:|---:|")
    for number in jobs:
        shares = Shares(runs)
        seen: set[tuple] = set()
        turns: set[tuple] = set()
        for place, dealt in enumerate(runs):
            worker = place % number
            run = shares.next(worker)
            assert run is not None
            seen.add((worker, run.trial, run.target))
            turns.add((worker, dealt.trial, dealt.target))
        print(f"| {number} | {TRIALS * 4} | {len(seen)} | {len(turns)} |")


def main(settings: Settings) -> None:
    costs = count(settings)
    print(
        f"{settings.student}: {costs.forward / 1e9:.1f} GFLOP an image forward, "
        f"{costs.training / 1e9:.1f} with backward; {settings.teacher}: "
        f"{costs.teacher / 1e9:.1f}.\n"
    )
    print_runs(settings, costs)
    print_hours(settings, costs)
    print_shared()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
