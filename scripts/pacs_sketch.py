"""ERM, KD and SCMD on PACS with target sketch; prints the tables of docs/results.md.

    python scripts/pacs_sketch.py PACS mobilenetv2_100.safetensors --out runs/pacs-sketch

The teacher is a small open_clip model, fitted on the training part of the three sources, so it has
seen no sketch; it is no CLIP. Stopped and started again, the script goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from small_clip import fit

from scmd.averaging import AverageConfig
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.methods import METHODS, MethodConfig
from scmd.methods.scmd import SCMDConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.selection import SelectionConfig
from scmd.train import train

HALF = (0.5, 0.5, 0.5)
SIZE = 128
SOURCES = ("art_painting", "cartoon", "photo")
TARGET = "sketch"
# Name, method and hyper-parameters: at a rate where selecting from the start trains, and at a
# higher one, where it does not and a warm-up on the whole batch is needed.
RUNS: list[tuple[str, str, MethodConfig]] = [
    ("erm, lr 3e-4", "erm", METHODS["erm"].Config(lr=3e-4)),
    ("kd, lr 3e-4", "kd", METHODS["kd"].Config(lr=3e-4)),
    (
        "scmd, lr 3e-4, warm-up 0.4",
        "scmd",
        SCMDConfig(lr=3e-4, selection=SelectionConfig(warmup=0.4)),
    ),
    ("erm, lr 1e-4", "erm", METHODS["erm"].Config(lr=1e-4)),
    ("kd, lr 1e-4", "kd", METHODS["kd"].Config(lr=1e-4)),
    ("scmd, lr 1e-4", "scmd", SCMDConfig(lr=1e-4)),
]


def main(
    data: tyro.conf.Positional[Path],
    weights: tyro.conf.Positional[Path],
    out: Path = Path("runs/pacs-sketch"),
    steps: int = 300,
    teacher_seconds: float = 300,
    seed: int = 0,
) -> None:
    """Fit the teacher, train all students, print the tables.

    Args:
        data: The PACS folder.
        weights: ImageNet weights of timm's mobilenetv2_100 (mean and std 0.5, pad_type=same).
        out: Where runs are kept.
        steps: Optimizer steps of every student.
        teacher_seconds: How long the teacher is fitted.
        seed: Of every student.
    """
    console = Console(width=100)
    if not (out / "teacher" / "open_clip_model.safetensors").exists():
        fit(
            data, out / "teacher", SOURCES, "mobilenetv2_100", weights, HALF, HALF, SIZE,
            teacher_seconds, lr=3e-4, batch=16,
        )  # fmt: skip
    teacher = TeacherConfig(str(out / "teacher"))
    zero_shot = evaluate_teacher(teacher, load_domains(data))["results"]
    results: list[tuple[str, dict[str, Any]]] = []
    for name, method, hparams in RUNS:
        config = RunConfig(
            method=method,
            data=DataConfig(path=str(data), target=TARGET, image_size=SIZE),
            student=StudentConfig(
                "mobilenetv2_100", weights, args=("pad_type=same",), mean=HALF, std=HALF
            ),
            teacher=teacher,
            hparams=hparams,
            training=TrainingConfig(steps=steps, seed=seed, evaluate_every=50, checkpoint_every=50),
            average=AverageConfig(average_start=steps // 3),
        )
        folder = out / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
        results.append((name, train(config, folder, resume=folder.exists(), console=console)))
    print_tables(console, zero_shot, results)


def print_tables(
    console: Console, zero_shot: dict[str, Any], results: list[tuple[str, dict[str, Any]]]
) -> None:
    """One row for the teacher and for every student."""
    table = Table(title=f"PACS, target {TARGET}, one seed")
    for name in ("", "whole target", "95 % interval", "DomainBed's 80 %", "holdout", "ECE", "step"):
        table.add_column(name, justify="right" if name else "left")

    def row(name: str, result: dict[str, Any], part: str, holdout: str, step: str) -> None:
        interval = "{:.3f} – {:.3f}".format(*result["interval"])
        cells = (f"{result['accuracy']:.3f}", interval, part, holdout, f"{result['ece']:.3f}", step)
        table.add_row(name, *cells)

    row("teacher, zero-shot", zero_shot[TARGET], "", "", "")
    for name, summary in results:
        result, selection = summary["results"][TARGET], summary["model_selection"]
        part = f"{result['domainbed_part']['accuracy']:.3f}"
        row(name, result, part, f"{selection['holdout_accuracy']:.3f}", str(selection["step"]))
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
