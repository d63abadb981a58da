"""What cheap selection and a teacher that remembers cost in accuracy: SCMD on the embedded digits.

    python scripts/cheap_options.py

Every target, several seeds, one option changed at a time; then how many of the samples that
selection at half resolution keeps the exact one keeps, too. Stopped and started again, it goes on
where it was.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scmd.build import assign_roles
from scmd.cache import Shared
from scmd.config import RunConfig, load_config
from scmd.data.digits import DOMAINS
from scmd.data.loader import DomainBatches
from scmd.demo import demo_config, digits_folder
from scmd.files import read_json
from scmd.loop import train
from scmd.methods.scmd import SCMD
from scmd.models.images import as_float
from scmd.protocol.statistics import estimate_mean
from scmd.run_folder import CONFIG
from scmd.selection import phase, select
from scmd.stepping import Stepper

VARIANTS = {
    "exact": {},
    "selection.resolution 0.5": {"resolution": 0.5},
    "teacher-view clean": {"view": "clean"},
    "teacher-view fixed, 10 views": {"view": "fixed"},
}
QUIET = Console(quiet=True)


def main(
    out: Path = Path("runs/cheap-options"),
    seeds: int = 5,
    steps: int = 250,
    targets: tuple[str, ...] = DOMAINS,
    report_only: bool = False,
    run: Path | None = None,
) -> None:
    """Run what is missing, then print the tables.

    Args:
        out: Where runs are kept.
        seeds: Seeds 0, 1, ... of every variant and target.
        steps: Optimizer steps.
        targets: Held-out domains to run; the tables have what is there of all.
        report_only: Run nothing.
        run: Take the configuration of a finished run of SCMD instead, and say only how many
            samples are kept alike on the way through it.
    """
    if run is not None:
        print(f"{run.name}: kept alike {kept_alike(load_config(run / CONFIG), 0.5):.2f}")
        return
    out.mkdir(parents=True, exist_ok=True)
    images = digits_folder(out)
    if not report_only:
        for target in targets:
            for seed in range(seeds):
                shared = Shared()
                for name in VARIANTS:
                    folder = folder_of(out, target, name, seed)
                    config = config_of(name, images, target, seed, steps)
                    train(config, folder, resume=folder.exists(), console=QUIET, shared=shared)
                    print(f"{folder.name}: {accuracy(folder, target):.3f}", flush=True)
    print_accuracies(out, seeds)
    if not report_only:
        shares = [kept_alike(config_of("exact", images, t, 0, steps), 0.5) for t in targets]
        print(
            "kept at half resolution and by the exact selection: "
            + ", ".join(f"{t} {share:.2f}" for t, share in zip(targets, shares, strict=True))
            + " (seed 0, mean over the steps that select; a random choice: the fraction kept)"
        )


def config_of(name: str, images: Path, target: str, seed: int, steps: int) -> RunConfig:
    """A run of SCMD with one variant's option."""
    config = demo_config("scmd", images, target, seed, steps)
    options = VARIANTS[name]
    if "view" in options:
        return replace(config, teacher=replace(config.teacher, **options))
    hparams = config.hparams
    selection = replace(hparams.selection, **options)  # type: ignore[attr-defined]
    return replace(config, hparams=replace(hparams, selection=selection))


def folder_of(out: Path, target: str, name: str, seed: int) -> Path:
    """A run's folder."""
    return out / f"{target}-{'-'.join(name.replace(',', '').split())}-seed{seed}"


def accuracy(folder: Path, target: str) -> float:
    """Of the chosen weights on the target."""
    return read_json(folder / "summary.json")["results"][target]["accuracy"]


def print_accuracies(out: Path, seeds: int) -> None:
    """Mean over seeds per target, and the difference from the exact run, paired by seed."""
    table = Table(title="SCMD on the embedded digits: accuracy on the held-out domain", box=SIMPLE)
    for name in ("", *DOMAINS, "mean", "difference from exact"):
        table.add_column(name, justify="right" if name else "left")
    found = {
        name: np.array(
            [
                [accuracy(folder_of(out, target, name, seed), target) for target in DOMAINS]
                for seed in range(seeds)
                if all(
                    (folder_of(out, target, n, seed) / "summary.json").exists()
                    for target in DOMAINS
                    for n in VARIANTS
                )
            ]
        )
        for name in VARIANTS
    }
    if not found["exact"].size:
        print("no seed has all its runs yet")
        return
    for name, values in found.items():
        difference = (values - found["exact"]).mean(1)
        table.add_row(
            name,
            *(with_interval(values[:, place]) for place in range(len(DOMAINS))),
            with_interval(values.mean(1)),
            "" if name == "exact" else with_interval(difference),
        )
    Console(width=130).print(table)
    print(f"{len(found['exact'])} seeds; ±: half of a 95 % interval over seeds (Student's t)")


def with_interval(values: np.ndarray) -> str:
    """Mean ± half of the 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values.mean():.3f}"
    mean = estimate_mean(values)
    return f"{mean.mean:.3f} ± {mean.high - mean.mean:.3f}"


def kept_alike(config: RunConfig, resolution: float) -> float:
    """The part of what one resolution keeps that the exact selection keeps, over a run."""
    run = Stepper(config, assign_roles(config, QUIET), Path(), QUIET, Shared(0))
    method = run.method
    assert isinstance(method, SCMD)
    exact = method.config
    reduced = replace(exact, selection=replace(exact.selection, resolution=resolution))
    settings = config.training
    batches = DomainBatches(
        run.roles.data,
        run.roles.train_rows(),
        settings.batch_per_domain,
        settings.seed,
        0,
        settings.steps,
    )
    shares = []
    for step, batch in enumerate(run.loader(batches)):
        batch = batch.to(run.device)
        if phase(step / settings.steps, exact.selection) == "select":
            kept = []
            for asked in (exact, reduced):
                method.config = asked
                with torch.no_grad():
                    losses = method.selection_losses(as_float(batch.images), batch.labels)
                kept.append(select(losses, batch.domains, asked.selection))
            method.config = exact
            shares.append(float((kept[0] & kept[1]).sum() / kept[1].sum()))
        run.step(batch, step)
    return float(np.mean(shares))


if __name__ == "__main__":
    tyro.cli(main)
