"""``scmd bench``: everything measured, and written down."""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from rich.console import Console

from scmd.bench.compare import LOADED, Say, compare, compare_loaders, mixed
from scmd.bench.growth import (
    STEPS,
    growth_of_batch,
    growth_of_classes,
    growth_of_images,
    growth_of_processes,
)
from scmd.bench.machine_rates import best_rates, description
from scmd.bench.ours import Ours
from scmd.bench.predicting import Predictor
from scmd.bench.present import comparison_table, loader_table, table
from scmd.bench.turns import side
from scmd.bench.work import TEACHER, Work, write_photographs
from scmd.errors import ScmdError
from scmd.limits import MOST_IMAGES, MOST_PIXELS, MOST_WORKERS, require_whole
from scmd.store import ROOT_VARIABLE


@dataclass(frozen=True)
class BenchConfig:
    """What is measured."""

    data: Path | None = None
    """A folder domain/class/image to load from. Default: crops of two photographs that come with
    scikit-learn, in three domains and seven classes."""
    students: tuple[str, ...] = ("resnet50", "resnet18", "mobilenetv2_100")
    """timm models, with random weights."""
    teacher: str = TEACHER
    """An open_clip model, with random weights."""
    rounds: int = 3
    """How often each side has its turn."""
    batch_per_domain: int = 32
    """Images of each source domain in a step."""
    image_size: int = 224
    """The student's input, in pixels."""
    workers: int = 2
    """Processes that load for our side; the reference has four for each domain."""
    growth: bool = True
    """Measure, too, how the cost grows with classes, images and batch (with resnet18)."""

    def __post_init__(self) -> None:
        require_whole("rounds", self.rounds, 1, 1000)
        require_whole("batch_per_domain", self.batch_per_domain, 1, MOST_IMAGES)
        require_whole("image_size", self.image_size, 1, MOST_PIXELS)
        require_whole("workers", self.workers, 0, MOST_WORKERS)
        if not self.students:
            raise ScmdError("no student to time. Name timm models with --students")
        for student in self.students:
            if not timm.is_model(student):
                raise ScmdError(f"timm has no model {student!r}. See timm.list_models()")
        if self.data is not None and not os.path.isdir(self.data):
            raise ScmdError(f"no such folder: {self.data}. Give a folder domain/class/image")


def bench(config: BenchConfig, console: Console) -> str:
    """Measure everything, and return it as Markdown.

    Args:
        config: What is measured.
        console: Told what is going on.
    """

    def say(what: str) -> None:
        console.print(what, markup=False, highlight=False)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scmd-bench-")))
        # What is decoded or asked here is of no use to anyone else.
        os.environ[ROOT_VARIABLE] = str(folder / "cache")
        data = config.data or write_photographs(folder / "photographs", 3, 7, 20)
        work = Work(
            data.resolve(),
            config.students[0],
            config.teacher,
            config.batch_per_domain,
            config.image_size,
            workers=config.workers,
        )
        domains = sum(1 for entry in data.iterdir() if entry.is_dir())
        parts = [f"Machine: {description()}.\n"]
        for student in config.students:
            its_work = replace(work, student=student)
            # Where the model is small the loader has to be quick.
            waiting = student == config.students[-1]
            times = compare(
                its_work,
                config.rounds,
                say,
                waiting=waiting,
                same_allocator=not torch.cuda.is_available(),
            )
            parts.append(f"## {student}, {domains} × {config.batch_per_domain} images of "
                         f"{config.image_size} px\n")  # fmt: skip
            parts.append(comparison_table(its_work, domains, times))
            parts.append(_roofline(its_work, min(mixed(its_work, times["ours"]))))
        parts.append(f"## The loader alone, from files of {domains} domains\n")
        turns = compare_loaders(work, config.rounds, say)
        parts.append(loader_table(domains * config.batch_per_domain * LOADED, turns))
        head = ["scmd predict", "images/s of files", "range"]
        students = [replace(work, student=student) for student in config.students]
        parts.append("## Predicting, from files to classes\n")
        parts.append(table(head, [_predicting(one, config.rounds, say) for one in students]))
        if config.growth:
            small = replace(work, student="resnet18")
            head = ["reference, s a step", "ours, s a step", "ours is faster"]
            parts.append("## Growth\n\nMean step of a run, resnet18.\n")
            rows = growth_of_classes(small, folder, 1, say)
            parts.append(table(["classes", *head], rows))
            rows = growth_of_batch(small, 1, say)
            parts.append(table(["images of a domain in a step", *head], rows))
            head = ["processes of one thread each, on the CPU", "ours, s a step"]
            if not torch.cuda.is_available():
                parts.append(table(head, growth_of_processes(small, say)))
            head = ["images", f"s for the slots of {STEPS} steps of 4 × 32", "MB of the index"]
            parts.append(table(head, growth_of_images(say)))
    return "\n".join(parts)


def _predicting(work: Work, rounds: int, say: Say) -> tuple[str, ...]:
    rates = []
    for number in range(rounds):
        say(f"{work.student}, round {number + 1} of {rounds}: predict")
        with side("predict", Predictor, work) as at_work:
            images = at_work.ask("predict")  # the first touches memory and files
            rates.append(images / at_work.turn("predict").seconds)
    spread = f"{min(rates):.0f} – {max(rates):.0f}"
    return (work.student, f"{statistics.median(rates):.0f}", spread)


def _roofline(work: Work, seconds: float) -> str:
    with side("FLOPs", Ours, work) as ours:
        flops = work.mix(ours.ask("flops", "select"), ours.ask("flops", "whole"))
    with side("rates", Rates) as rates:
        best = rates.ask("rates")
    reached = flops / seconds
    shares = ", ".join(
        f"{reached / rate:.0%} of a large {name}'s ({rate / 1e9:,.0f} GFLOP/s)"
        for name, rate in best.items()
    )
    return (
        f"A mean step of ours is {flops / 1e9:,.0f} GFLOP, at {reached / 1e9:,.0f} GFLOP/s in its "
        f"best round: {shares}.\n"
    )


class Rates:
    """Measures the machine in a process of its own."""

    def rates(self) -> dict[str, float]:
        """See ``best_rates``."""
        return best_rates()
