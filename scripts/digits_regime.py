"""Choose the regime of the embedded demo by the sources' holdout, with as many choices a method.

    python scripts/digits_regime.py

Every choice trains with the demo's student, average and budget. The target's accuracy is not
printed, so that nobody chooses by it. Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tyro
from rich.console import Console

from scmd.demo import SEED, TARGET, demo_config, digits_folder
from scmd.loop import train
from scmd.methods import METHODS, MethodConfig
from scmd.methods.kd import KDConfig
from scmd.methods.scmd import SCMDConfig
from scmd.selection import SelectionConfig

RATES = (1e-3, 3e-3, 1e-2)


def choices(lr: float) -> dict[str, dict[str, MethodConfig]]:
    """Per method, two choices at a learning rate."""
    return {
        "erm": {
            "weight decay 0": METHODS["erm"].Config(lr=lr),
            "weight decay 1e-3": METHODS["erm"].Config(lr=lr, weight_decay=1e-3),
        },
        "kd": {"λ1 0.5": KDConfig(lr=lr), "λ1 1": KDConfig(lr=lr, lambda1=1.0)},
        "scmd": {
            f"ρ {fraction}, warm-up 0.4": SCMDConfig(
                lr=lr, lr_scale=lr, selection=SelectionConfig(fraction=fraction, warmup=0.4)
            )
            for fraction in (0.2, 0.5)
        },
    }


def main(
    out: Path = Path("runs/digits-regime"), steps: int = 400, target: str = TARGET, seed: int = SEED
) -> None:
    """Train every choice and print its holdout accuracy.

    Args:
        out: Where runs are kept.
        steps: Optimizer steps.
        target: The domain that is held out, and not looked at.
        seed: Of every run.
    """
    out.mkdir(parents=True, exist_ok=True)
    images = digits_folder(out)
    scores: list[tuple[str, float, str]] = []
    for lr in RATES:
        for method, options in choices(lr).items():
            for name, hparams in options.items():
                base = demo_config(method, images, target, seed, steps)
                folder = out / f"{target}-{method}-{lr:g}-{name.replace(' ', '-')}-seed{seed}"
                quiet = Console(quiet=True)
                summary = train(
                    replace(base, hparams=hparams), folder, resume=folder.exists(), console=quiet
                )
                holdout = summary["model_selection"]["holdout_accuracy"]
                scores.append((method, holdout, f"lr {lr:g}, {name}"))
                print(f"{method:5} {holdout:.3f}  lr {lr:g}, {name}", flush=True)
    for method in choices(RATES[0]):
        _, holdout, name = max((s for s in scores if s[0] == method), key=lambda s: s[1])
        print(f"chosen for {method}: {name} ({holdout:.3f})")


if __name__ == "__main__":
    tyro.cli(main)
