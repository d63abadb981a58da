"""ERM, KD and SCMD on PACS with a teacher that has seen half of every domain; prints the tables.

    python scripts/pacs_standin.py PACS mobilenetv2_100.safetensors

The teacher stands in for CLIP, which has seen photographs, paintings, cartoons and sketches: it is
fitted on a random half of every domain. Students train on the other half of three domains and are
measured on the other half of the fourth. Every method has as many choices, made for each target on
the holdout of its sources. Stopped and started again, the script goes on where it was;
--report-only prints what is there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from digits_results import with_interval
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scmd.averaging import AverageConfig
from scmd.cache import Shared
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.data.augment import AugmentationName
from scmd.data.folder import load_domains
from scmd.data.halves import NAMES, write_halves
from scmd.deploy.evaluate import evaluate_teacher
from scmd.files import read_json, write_json
from scmd.fit import fit_teacher
from scmd.loop import train
from scmd.methods import METHODS, MethodConfig
from scmd.methods.scmd import SCMDConfig
from scmd.models.fit_config import FitConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import CARD, TeacherConfig
from scmd.selection import SelectionConfig

TARGETS = ("art_painting", "cartoon", "photo", "sketch")
SIZE, HALF = 128, (0.5, 0.5, 0.5)
TOWER = "mobilenetv2_100"


def teacher_model(size: int) -> dict[str, Any]:
    """The teacher's architecture, as open_clip's JSON files have it, for images of a size."""
    return {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {
                "timm_model_name": TOWER,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": size,
            },
            "text_cfg": {
                "context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2,
            },
        },
        "preprocess_cfg": {
            "size": [size, size], "mean": HALF, "std": HALF, "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A method and its hyper-parameters."""

    method: str
    name: str
    hparams: MethodConfig


def scmd(lr: float, fraction: float, warmup: float) -> Choice:
    """SCMD with a selection."""
    selection = SelectionConfig(fraction=fraction, warmup=warmup)
    name = f"lr {lr:g}, rho {fraction:g}, warm-up {warmup:g}"
    return Choice("scmd", name, SCMDConfig(lr=lr, selection=selection))


RATES = (1e-4, 3e-4, 1e-3)
CHOICES = {
    "erm": [Choice("erm", f"lr {lr:g}", METHODS["erm"].Config(lr=lr)) for lr in RATES],
    "kd": [Choice("kd", f"lr {lr:g}", METHODS["kd"].Config(lr=lr)) for lr in RATES],
    "scmd": [scmd(1e-4, 0.2, 0.4), scmd(3e-4, 0.2, 0.4), scmd(3e-4, 0.5, 0.0)],
}
# The trial that diverged, and what may keep it from doing so, one at a time.
DIVERGENCE = [
    scmd(3e-4, 0.2, 0.0), scmd(1e-4, 0.2, 0.0), scmd(3e-4, 0.5, 0.0), scmd(3e-4, 0.2, 0.4),
]  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Where the runs are, and what all of them share."""

    out: Path
    weights: Path
    steps: int
    report_only: bool
    shared: Shared = field(default_factory=Shared)

    @property
    def half(self) -> Path:
        """The manifest of what the teacher has not seen."""
        return self.out / "halves" / NAMES[1]

    def folder(self, choice: Choice, target: str, seed: int) -> Path:
        """Of a run."""
        name = choice.name.replace(", ", "-").replace(" ", "-")
        return self.out / f"{target}-{choice.method}-{name}-seed{seed}"

    def run(self, choice: Choice, target: str, seed: int) -> None:
        """Train a student, unless it is trained already."""
        folder = self.folder(choice, target, seed)
        if self.report_only or (folder / "summary.json").exists():
            return
        config = RunConfig(
            method=choice.method,
            # The augmentation that the published numbers were made with; so for the teacher.
            data=DataConfig(
                path=str(self.half), target=target, image_size=SIZE, augmentation="torchvision"
            ),
            student=StudentConfig(
                TOWER, self.weights, args=("pad_type=same",), mean=HALF, std=HALF
            ),
            teacher=TeacherConfig(str(self.out / "teacher")),
            hparams=choice.hparams,
            training=TrainingConfig(
                precision="fp32", steps=self.steps, batch_per_domain=16, seed=seed,
                evaluate_every=self.steps // 2,
                checkpoint_every=self.steps // 2, log_every=5,
            ),
            average=AverageConfig(average_start=self.steps // 3),
        )  # fmt: skip
        train(config, folder, folder.exists(), Console(quiet=True), self.shared)
        print(f"done: {folder.name}", flush=True)

    def holdout(self, choice: Choice, target: str, seed: int = 0) -> float | None:
        """Accuracy on the sources' holdout, if the run is there."""
        summary = self.folder(choice, target, seed) / "summary.json"
        if not summary.exists():
            return None
        return read_json(summary)["model_selection"]["holdout_accuracy"]

    def accuracy(self, choice: Choice, target: str, seed: int) -> float | None:
        """Accuracy on the unseen half of the target, if the run is there."""
        summary = self.folder(choice, target, seed) / "summary.json"
        return read_json(summary)["results"][target]["accuracy"] if summary.exists() else None

    def chosen(self, method: str, target: str) -> Choice | None:
        """The choice with the best source holdout at seed 0; the first of equals."""
        scores = [(self.holdout(choice, target), choice) for choice in CHOICES[method]]
        if any(score is None for score, _ in scores):
            return None
        return max(scores, key=lambda s: s[0] or 0)[1]


def main(
    data: tyro.conf.Positional[Path],
    weights: tyro.conf.Positional[Path],
    out: Path = Path("runs/pacs-standin"),
    steps: int = 200,
    teacher_steps: int = 400,
    seeds: int = 3,
    report_only: bool = False,
) -> None:
    """Halve PACS, fit the teacher, choose each method's regime, train all students, report.

    Args:
        data: The PACS folder.
        weights: ImageNet weights of timm's mobilenetv2_100 (mean and std 0.5, pad_type=same).
        out: Where everything is kept.
        steps: Optimizer steps of every student.
        teacher_steps: Optimizer steps of the teacher.
        seeds: Seeds 0, 1, ... of every method and target; the choices are made at seed 0.
        report_only: Run nothing.
    """
    study = Study(out, weights, steps, report_only)
    if not report_only:
        prepare(study, data, teacher_steps)
    for target in TARGETS:
        for choices in CHOICES.values():
            for choice in choices:
                study.run(choice, target, 0)
    for seed in range(seeds):
        for target in TARGETS:
            for method in CHOICES:
                if choice := study.chosen(method, target):
                    study.run(choice, target, seed)
    for choice in DIVERGENCE:
        study.run(choice, "sketch", 0)
    console = Console(width=110)
    print_choices(study, console)
    print_results(study, seeds, console)
    print_divergence(study, console)


def prepare(study: Study, data: Path, teacher_steps: int) -> None:
    """The halves and the teacher."""
    halve(data, study.out)
    teach(study.out, "teacher", study.weights, SIZE, teacher_steps, "torchvision")


def halve(data: Path, out: Path) -> None:
    """Two random halves of PACS, in ``out/halves``, unless they are there."""
    if not (out / "halves" / NAMES[1]).exists():
        write_halves(load_domains(data), out / "halves")


def teach(
    out: Path, name: str, weights: Path, size: int, steps: int, augmentation: AugmentationName
) -> None:
    """Fit a teacher of images of a size to the first half, in ``out/name``, unless it is there."""
    folder, model = out / name, out / f"{name}-model.json"
    if (folder / CARD).exists():
        return
    write_json(model, teacher_model(size))
    config = FitConfig(
        data=str(out / "halves" / NAMES[0]),
        model=str(model),
        from_scratch=True,
        image_tower_weights=weights,
        freeze_batch_norm=True,
        steps=steps,
        batch_per_domain=16,
        lr=3e-4,
        augmentation=augmentation,
        workers=min(8, os.cpu_count() or 1),
    )
    fit_teacher(config, folder, resume=folder.exists(), console=Console(width=100))


def print_choices(study: Study, console: Console) -> None:
    """What each method could choose for each target, and what it did, by the sources' holdout."""
    table = Table(title="holdout of the sources, seed 0; * is chosen", box=SIMPLE)
    for name in ("target", "method", "choices"):
        table.add_column(name)
    for target in TARGETS:
        for method, choices in CHOICES.items():
            chosen = study.chosen(method, target)
            scores = [(study.holdout(c, target), c) for c in choices]
            cells = (
                f"{c.name}: {score:.3f}{'*' if c == chosen else ''}"
                for score, c in scores
                if score is not None
            )
            table.add_row(target, method, "; ".join(cells))
    console.print(table)


def print_results(study: Study, seeds: int, console: Console) -> None:
    """Accuracy on the unseen half of every target, and the gap closed."""
    scores = study.out / "teacher-scores.json"
    if not scores.exists():
        teacher = TeacherConfig(str(study.out / "teacher"))
        write_json(scores, evaluate_teacher(teacher, load_domains(study.half))["results"])
    ceiling = [read_json(scores)[target]["accuracy"] for target in TARGETS]
    found: dict[str, np.ndarray] = {}
    for method in CHOICES:
        chosen = {target: study.chosen(method, target) for target in TARGETS}
        rows = [
            study.accuracy(choice, target, seed) if choice else None
            for seed in range(seeds)
            for target, choice in chosen.items()
        ]
        found[method] = np.array(rows, dtype=float).reshape(seeds, len(TARGETS))
    complete = [s for s in range(seeds) if not any(np.isnan(found[m][s]).any() for m in found)]
    table = Table(title="PACS, the unseen half of the held-out domain: accuracy", box=SIMPLE)
    for name in ("", *TARGETS, "mean", "gap closed"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("teacher", *(f"{a:.3f}" for a in ceiling), f"{np.mean(ceiling):.3f}", "")
    for method in CHOICES:
        own, erm = found[method][complete], found["erm"][complete].mean()
        gap = (own.mean() - erm) / (np.mean(ceiling) - erm) if complete else np.nan
        cells = (with_interval(own[:, place]) for place in range(len(TARGETS)))
        table.add_row(method, *cells, with_interval(own.mean(1)), f"{gap:+.2f}")
    console.print(table)
    print(f"seeds {complete}; ±: half of a 95 % interval over seeds (Student's t)")
    for method, against in (("kd", "erm"), ("scmd", "erm"), ("scmd", "kd")):
        difference = (found[method] - found[against])[complete].mean(1)
        print(f"{method} - {against}, paired by seed, mean over targets: "
              f"{with_interval(difference)}")  # fmt: skip


def print_divergence(study: Study, console: Console) -> None:
    """What the selecting steps of SCMD looked like where a trial diverged, and beside it."""
    table = Table(
        title="SCMD on sketch, seed 0: the first fifth of the selecting steps", box=SIMPLE
    )
    names = ("", "loss of the batch", "its lowest", "largest class", "holdout", "target")
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for choice in DIVERGENCE:
        folder = study.folder(choice, "sketch", 0)
        if not (folder / "summary.json").exists():
            continue
        losses, shares = early_selection(folder)
        holdout, target = study.holdout(choice, "sketch"), study.accuracy(choice, "sketch", 0)
        cells = (np.mean(losses), np.min(losses), np.mean(shares))
        table.add_row(choice.name, *(f"{v:.2f}" for v in cells), f"{holdout:.3f}", f"{target:.3f}")
    console.print(table)
    print("largest class: the part of what a step keeps that is of one class, mean over steps")
    print(f"the loss of a network that finds all classes equally likely: {np.log(7):.2f}")


def early_selection(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Per selecting step, of the first fifth of them: mean loss of the batch, share of a class.

    The share is that of the class of which most was kept, among what was kept.
    """
    selection = pq.read_table(folder / "selection.parquet")
    samples = pq.read_table(folder / "samples.parquet")
    names = samples["class"].to_pylist()
    class_of = dict(zip(samples["sample_id"].to_pylist(), names, strict=True))
    step, loss = selection["step"].to_numpy(), selection["loss"].to_numpy()
    kept = selection["kept"].to_numpy(zero_copy_only=False)
    classes = np.array([class_of[i] for i in selection["sample_id"].to_pylist()])
    selecting = [s for s in np.unique(step) if not kept[step == s].all()]
    early = selecting[: max(1, len(selecting) // 5)]
    losses = [loss[step == s].mean() for s in early]
    shares = []
    for s in early:
        chosen = classes[(step == s) & kept]
        shares.append(np.unique(chosen, return_counts=True)[1].max() / len(chosen))
    return np.array(losses), np.array(shares)


if __name__ == "__main__":
    tyro.cli(main)
