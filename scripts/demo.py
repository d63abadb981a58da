"""Render small images in four styles, fit a teacher on others, and run ERM, KD and SCMD."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console
from rich.table import Table
from small_clip import fit

from scmd.averaging import AverageConfig
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.methods import METHODS
from scmd.methods.scmd import SCMDConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.selection import SelectionConfig
from scmd.train import train

SIZE = 48
SHAPES = ("circle", "cross", "hexagon", "ring", "square", "star", "triangle")
STYLES = ("chalk", "ink", "outline", "paint")
TARGET = "outline"


def corners(shape: str) -> list[tuple[float, float]]:
    """The corners of a shape around the origin, about 1 in size."""
    if shape == "cross":
        return [(-1, .3), (-1, -.3), (-.3, -.3), (-.3, -1), (.3, -1), (.3, -.3),
                (1, -.3), (1, .3), (.3, .3), (.3, 1), (-.3, 1), (-.3, .3)]  # fmt: skip
    number = {"hexagon": 6, "square": 4, "star": 10, "triangle": 3}.get(shape, 40)
    radii = [0.45 if shape == "star" and i % 2 else 1.0 for i in range(number)]
    angles = 2 * np.pi * np.arange(number) / number
    return [(r * np.cos(a), r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]


def render(shape: str, style: str, rng: np.random.Generator) -> Image.Image:
    """One picture of a shape, placed, turned and coloured by chance."""
    big = 4 * SIZE
    scale, turn = rng.uniform(0.2, 0.38) * big, rng.uniform(0, 2 * np.pi)
    middle = rng.uniform(0.42, 0.58, 2) * big
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (np.array(corners(shape)) * rng.uniform(0.8, 1, 2)) @ rotation * scale + middle
    polygon = [tuple(point) for point in points.tolist()]
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)
    if style == "outline" or shape == "ring":
        draw.line(
            [*polygon, polygon[0], polygon[1]],
            255,
            round(big * (0.09 if shape == "ring" else 0.025)),
        )
    else:
        draw.polygon(polygon, 255)
    if style == "outline" and shape == "ring":
        edge = mask.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.MaxFilter(5))
        mask = Image.fromarray(np.where(np.asarray(edge) > 64, 255, 0).astype(np.uint8))
    alpha = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.LANCZOS))[..., None] / 255
    paper, colour = np.full(3, 245.0), np.full(3, 25.0)
    noise = 4.0
    if style == "chalk":
        paper, colour, noise = np.full(3, 35.0), np.full(3, 220.0), 30.0
        alpha = alpha * rng.uniform(0.5, 1, (SIZE, SIZE, 1))
    elif style == "paint":
        paper, colour, noise = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3), 18.0
        ramp = np.linspace(-60, 60, SIZE).reshape(1, -1, 1) * rng.uniform(-1, 1, 3)
        paper = paper + ramp
    pixels = paper * (1 - alpha) + colour * alpha + rng.normal(0, noise, (SIZE, SIZE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_images(folder: Path, per_class: int, seed: int) -> None:
    """Write ``style/shape/number.png``."""
    rng = np.random.default_rng(seed)
    for style in STYLES:
        for shape in SHAPES:
            (folder / style / shape).mkdir(parents=True)
            for number in range(per_class):
                render(shape, style, rng).save(folder / style / shape / f"{number:03d}.png")


def demo(
    out: Path = Path("demo"), steps: int = 200, teacher_seconds: float = 30, per_class: int = 40
) -> None:
    """Run the demo in a folder, which is emptied first.

    Args:
        out: The folder.
        steps: Optimizer steps of every student.
        teacher_seconds: How long the teacher is fitted.
        per_class: Images of each class in each style.
    """
    console = Console()
    shutil.rmtree(out, ignore_errors=True)
    write_images(out / "images", per_class, seed=0)
    write_images(out / "teacher-images", per_class, seed=1)
    fit(out / "teacher-images", out / "teacher", size=SIZE, seconds=teacher_seconds)
    teacher = TeacherConfig(str(out / "teacher"))
    base = RunConfig(
        data=DataConfig(path=str(out / "images"), target=TARGET, image_size=SIZE),
        student=StudentConfig(name="test_efficientnet", pretrained=False, freeze_batch_norm=False),
        teacher=teacher,
        training=TrainingConfig(
            steps=steps, batch_per_domain=16, evaluate_every=50, checkpoint_every=100
        ),
        average=AverageConfig(average="ema", ema_decay=0.95),
    )
    zero_shot = evaluate_teacher(teacher, load_domains(out / "images"))["results"][TARGET]
    table = Table(title=f"accuracy on {TARGET!r}, which no student was trained on")
    for name in ("", "accuracy", "95 % interval", "sources' holdout", "seconds"):
        table.add_column(name, justify="right" if name else "left")

    def row(name: str, result: dict, holdout: str, seconds: str) -> None:
        interval = "{:.3f} – {:.3f}".format(*result["interval"])
        table.add_row(name, f"{result['accuracy']:.3f}", interval, holdout, seconds)

    row("teacher (it has seen this style)", zero_shot, "", "")
    for method in ("erm", "kd", "scmd"):
        hparams = METHODS[method].Config(lr=1e-3)
        if isinstance(hparams, SCMDConfig):
            hparams = replace(hparams, selection=SelectionConfig(fraction=0.5, warmup=0.4))
        run = train(replace(base, method=method, hparams=hparams), out / method, console=console)
        holdout = run["model_selection"]["holdout_accuracy"]
        row(method, run["results"][TARGET], f"{holdout:.3f}", f"{run['training_seconds']:.0f}")
    console.print(table)
    console.print(f"pictures: {out / 'images'}; runs, with their curves and models: {out}/METHOD")


if __name__ == "__main__":
    tyro.cli(demo)
