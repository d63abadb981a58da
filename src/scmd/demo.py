"""The embedded default: ERM, KD and SCMD on handwritten digits, without a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scmd.averaging import AverageConfig
from scmd.config import DataConfig, RunConfig, TrainingConfig, differences, load_config
from scmd.data.digit_styles import write_digits
from scmd.data.digits import DOMAINS
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.errors import ScmdError
from scmd.files import make_folder
from scmd.limits import nearest
from scmd.loop import train
from scmd.methods import MethodConfig
from scmd.methods.kd import KDConfig
from scmd.methods.scmd import SCMDConfig
from scmd.models.pretrained import EMBEDDED
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.run_folder import CONFIG
from scmd.selection import SelectionConfig

# Fixed beforehand: nothing about them was chosen by looking at results.
TARGET, SEED = "photo", 0
METHODS_SHOWN = ("erm", "kd", "scmd")
_IMAGES = "digits"


@dataclass(frozen=True)
class DemoConfig:
    """What can be changed about the demo."""

    out: Path = Path("demo")
    """Folder of images and runs; a finished run in it is not run again."""
    steps: int = 400
    """Optimizer steps of every student."""
    target: str = TARGET
    """The held-out domain."""
    seed: int = SEED
    """Of every student."""

    def __post_init__(self) -> None:
        if self.target not in DOMAINS:
            raise ScmdError(f"there is no domain {self.target!r}. {nearest(self.target, DOMAINS)}")
        TrainingConfig(steps=self.steps, seed=self.seed)  # raises where one is out of range


def demo_hparams(method: str) -> MethodConfig:
    """What the sources' holdout chose for a method among six choices; see docs/results.md."""
    return {
        "erm": MethodConfig(lr=1e-2, weight_decay=1e-3),
        "kd": KDConfig(lr=1e-2, lambda1=1.0),
        "scmd": SCMDConfig(
            lr=3e-3, lr_scale=3e-3, selection=SelectionConfig(fraction=0.5, warmup=0.4)
        ),
    }[method]


def demo_config(method: str, images: Path, target: str, seed: int, steps: int) -> RunConfig:
    """The configuration of one run on the embedded digits; the same for all methods but hparams."""
    return RunConfig(
        method=method,
        # The augmentation that the numbers in docs/results.md were made with.
        data=DataConfig(
            path=str(images), target=target, image_size=32, flip=False, augmentation="torchvision"
        ),
        student=StudentConfig("test_efficientnet", pretrained=False, freeze_batch_norm=False),
        teacher=TeacherConfig(EMBEDDED),
        hparams=demo_hparams(method),
        training=TrainingConfig(
            steps=steps, seed=seed, evaluate_every=50, checkpoint_every=200, workers=2
        ),
        average=AverageConfig("ema", average_start=1, ema_decay=0.98),
    )


def digits_folder(out: Path) -> Path:
    """The embedded data set as a folder below ``out``; written unless it is there."""
    folder = out / _IMAGES
    if not folder.exists():
        unfinished = out / ".digits"
        if unfinished.exists():
            raise ScmdError(f"{unfinished} is left from an interrupted run. Remove it")
        write_digits(unfinished)
        unfinished.rename(folder)
    return folder


def _planned(config: DemoConfig) -> list[tuple[Path, RunConfig]]:
    """Folder and configuration of every student's run.

    Raises:
        ScmdError: An earlier demo left another run in such a folder.
    """
    runs = []
    for method in METHODS_SHOWN:
        out = config.out / f"{config.target}-{method}-seed{config.seed}"
        images = config.out / _IMAGES
        run = demo_config(method, images, config.target, config.seed, config.steps)
        if (out / CONFIG).exists() and (changed := differences(load_config(out / CONFIG), run)):
            raise ScmdError(
                f"{config.out} holds a demo of other settings ({'; '.join(changed[:3])}). Choose "
                "another --out, or remove it"
            )
        runs.append((out, run))
    return runs


def run_demo(config: DemoConfig, console: Console) -> list[dict[str, Any]]:
    """Train all three students and measure the teacher; returns a table's rows.

    Returns:
        Per method, and for the zero-shot teacher first: ``name``, the target's ``accuracy``,
        ``interval`` and ``ece``, ``holdout`` of the sources, ``seconds``, ``gap_closed`` and
        ``parameters``.

    Raises:
        ScmdError: ``out`` cannot be written, or holds a demo of other settings.
    """
    make_folder(config.out, "--out")
    planned = _planned(config)
    data = load_domains(digits_folder(config.out))
    zero_shot = evaluate_teacher(TeacherConfig(EMBEDDED), data, 2)["results"][config.target]
    rows: list[dict[str, Any]] = []
    teacher_parameters = None
    for out, run in planned:
        summary = train(run, out, resume=out.exists(), console=console)
        costs = summary["cost"]
        teacher_parameters = costs.get("teacher, image tower", {}).get("parameters")
        result = summary["results"][config.target]
        rows.append(
            {
                "name": run.method,
                **{key: result[key] for key in ("accuracy", "interval", "ece")},
                "holdout": summary["model_selection"]["holdout_accuracy"],
                "seconds": summary["training_seconds"],
                "parameters": costs["student"]["parameters"],
            }
        )
    erm, ceiling = rows[0]["accuracy"], zero_shot["accuracy"]
    for row in rows:
        row["gap_closed"] = (row["accuracy"] - erm) / (ceiling - erm) if ceiling > erm else None
    teacher = {key: zero_shot[key] for key in ("accuracy", "interval", "ece")}
    return [{"name": "teacher", **teacher, "parameters": teacher_parameters}, *rows]


def print_demo(rows: list[dict[str, Any]], config: DemoConfig, console: Console) -> None:
    """One table."""
    table = Table(
        title=f"accuracy on {config.target!r}, which no student has seen; one seed", box=SIMPLE
    )
    for name in ("", "accuracy", "95 % interval", "ECE", "holdout", "gap closed", "s"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        low, high = row["interval"]
        table.add_row(
            row["name"],
            f"{row['accuracy']:.3f}",
            f"{low:.3f} – {high:.3f}",
            f"{row['ece']:.3f}",
            f"{row['holdout']:.3f}" if "holdout" in row else "",
            f"{row['gap_closed']:+.2f}" if row.get("gap_closed") is not None else "",
            f"{row['seconds']:.0f}" if "seconds" in row else "",
        )
    console.print(table)
    sources = ", ".join(domain for domain in DOMAINS if domain != config.target)
    teacher, *students = rows
    console.print(
        f"trained on {sources}; holdout: their held-out images, which chose the step\n"
        f"parameters: student {students[0]['parameters'] / 1e6:.2f} M, teacher's image tower "
        f"{teacher['parameters'] / 1e6:.2f} M\n"
        "one target and one seed: differences within the intervals say nothing\n"
        f"pictures: {config.out / 'digits' / config.target}; runs: {config.out}",
        markup=False,
        highlight=False,
    )
