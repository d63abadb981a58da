"""ERM, KD, SCMD and the zero-shot teacher on the embedded digits: every target, several seeds.

    python scripts/digits_results.py

Stopped and started again, it goes on where it was; --report-only prints what is there.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scmd.data.digits import DOMAINS
from scmd.data.folder import load_domains
from scmd.demo import METHODS_SHOWN, demo_config, digits_folder
from scmd.deploy.evaluate import evaluate_teacher
from scmd.files import read_json
from scmd.loop import train
from scmd.models.pretrained import EMBEDDED
from scmd.models.teacher import TeacherConfig
from scmd.protocol.statistics import estimate_mean


def main(
    out: Path = Path("runs/digits-results"),
    seeds: int = 5,
    steps: int = 400,
    report_only: bool = False,
) -> None:
    """Run what is missing, then print a table.

    Args:
        out: Where runs are kept.
        seeds: Seeds 0, 1, ... of every method and target.
        steps: Optimizer steps.
        report_only: Run nothing.
    """
    out.mkdir(parents=True, exist_ok=True)
    images = digits_folder(out)
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for seed in range(seeds):
        for target in DOMAINS:
            for method in METHODS_SHOWN:
                folder = out / f"{target}-{method}-seed{seed}"
                if not report_only:
                    config = demo_config(method, images, target, seed, steps)
                    train(config, folder, resume=folder.exists(), console=Console(quiet=True))
                if (folder / "summary.json").exists():
                    result = read_json(folder / "summary.json")["results"][target]
                    found[method][target][seed] = result["accuracy"]
                    print(f"{target} {method} seed {seed}: {result['accuracy']:.3f}", flush=True)
    zero_shot = evaluate_teacher(TeacherConfig(EMBEDDED), load_domains(images))["results"]
    table = Table(title="embedded digits: accuracy on the held-out domain", box=SIMPLE)
    for name in ("", *DOMAINS, "mean", "gap closed"):
        table.add_column(name, justify="right" if name else "left")
    ceiling = [zero_shot[target]["accuracy"] for target in DOMAINS]
    table.add_row("teacher", *(f"{a:.3f}" for a in ceiling), f"{np.mean(ceiling):.3f}", "")
    complete = [
        seed
        for seed in range(seeds)
        if all(seed in found[m][target] for m in METHODS_SHOWN for target in DOMAINS)
    ]
    means = {
        m: np.array([np.mean([found[m][t][s] for t in DOMAINS]) for s in complete])
        for m in METHODS_SHOWN
    }
    for method in METHODS_SHOWN:
        cells = [with_interval(np.array([found[method][t][s] for s in complete])) for t in DOMAINS]
        erm = means["erm"]
        gap = (means[method] - erm).mean() / (np.mean(ceiling) - erm.mean())
        table.add_row(method, *cells, with_interval(means[method]), f"{gap:+.2f}")
    Console(width=110).print(table)
    print(f"seeds {complete}; ±: half of a 95 % interval over seeds (Student's t)")
    for method in METHODS_SHOWN[1:]:
        difference = means[method] - means["erm"]
        print(f"{method} - erm, paired by seed, mean over targets: {with_interval(difference)}")


def with_interval(values: np.ndarray) -> str:
    """Mean ± half of the 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values.mean():.3f}" if len(values) else "-"
    mean = estimate_mean(values)
    return f"{mean.mean:.3f} ± {mean.high - mean.mean:.3f}"


if __name__ == "__main__":
    tyro.cli(main)
