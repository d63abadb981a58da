"""What a temperature that was fitted on the sources does to the target's calibration.

    python scripts/calibration.py runs/digits-results/photo-scmd-seed*

Of every finished run: the temperature, and the expected calibration error before and after, on the
sources' holdout and on the target.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console

from scmd.build import assign_roles
from scmd.config import load_config
from scmd.data.loader import evaluation_batches
from scmd.deploy.calibration import before_and_after, fit_temperature
from scmd.deploy.classifier import load
from scmd.evaluate import EVALUATION_BATCH, collect_logits
from scmd.run_folder import CONFIG


def main(runs: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Print a line for every run.

    Args:
        runs: Folders of finished runs that have a target.
    """
    print("run  temperature  holdout before/after  target before/after")
    raised = []
    for run in runs:
        config = load_config(run / CONFIG)
        roles = assign_roles(config, Console(quiet=True))
        assert roles.target is not None, f"{run} has no target"
        model = load(run)
        holdout = np.concatenate([roles.rows(domain, "holdout") for domain in roles.sources])
        target = roles.rows(roles.target, "target", "target-holdout")
        found = []
        for rows in (holdout, target):
            batches = evaluation_batches(
                roles.data, rows, model.image_size, EVALUATION_BATCH, config.training.workers
            )
            logits = collect_logits(model, batches, torch.device("cpu"))
            found.append((logits, torch.from_numpy(roles.data.labels[rows]).long()))
        (logits, labels), _ = found
        temperature = fit_temperature(logits, labels)
        errors = [before_and_after(z, y, temperature) for z, y in found]
        raised.append(errors[1][1] > errors[1][0])
        cells = "  ".join(f"{before:.3f} / {after:.3f}" for before, after in errors)
        print(f"{run.name}  {temperature:.3f}  {cells}", flush=True)
    print(f"raised on the target in {sum(raised)} of {len(raised)} runs")


if __name__ == "__main__":
    tyro.cli(main)
