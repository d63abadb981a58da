"""The mean of the weights of several students of one target and seed: ``tried`` without training.

They share the first weights, the split and the batches. From runs that are still on the disk; what
their means give is kept in ``found/ensembles.csv``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from experiments.found import Key, Measures
from experiments.plan import Experiment, Run, load
from experiments.running import Place, finished
from experiments.tables import difference, with_half
from scmd.build import assign_roles
from scmd.config import load_config
from scmd.data.loader import evaluation_batches
from scmd.deploy.classifier import Classifier
from scmd.deploy.classifier import load as load_classifier
from scmd.evaluate import EVALUATION_BATCH, accuracy, collect_logits
from scmd.protocol.formats import Table
from scmd.protocol.statistics import estimate_mean
from scmd.run_folder import CONFIG
from scmd.soup import soup

ROWS = {
    "digits-main": {
        "KD and SCMD": ("KD", "SCMD"),
        "SCMD, with and without selection": ("SCMD", "SCMD, no selection"),
    },
    "pacs-standin": {
        "KD and SCMD, no selection": ("KD", "SCMD, no selection"),
        "ERM, KD, SCMD and SCMD, no selection": (
            "ERM", "KD", "SCMD, ρ 0.5", "SCMD, no selection",
        ),
    },
}  # fmt: skip
"""Per experiment, what a mean is of: all choices of so many rows."""


def update(known: Measures, place: Place) -> None:
    """Average the runs that are there."""
    for key, members in wanted():
        folders = [finished(run, place) for run in members]
        if all(folders):
            mean, best = averaged([folder for folder in folders if folder])
            known[key] = {"mean": mean, "best": best}


def wanted() -> Iterator[tuple[Key, list[Run]]]:
    """What ``ROWS`` says, for every target and seed."""
    for name, means in ROWS.items():
        experiment = load(name)
        for label, rows in means.items():
            for target in experiment.targets:
                for seed in range(experiment.seeds):
                    yield (name, label, target, seed), _members(experiment, rows, target, seed)


def _members(experiment: Experiment, rows: tuple[str, ...], target: str, seed: int) -> list[Run]:
    return [run for run in experiment.runs(target, seed) if run.row.name in rows]


def averaged(folders: list[Path]) -> tuple[float, float]:
    """Accuracies on the target: of the mean of the weights, and of the best by the holdout."""
    config = load_config(folders[0] / CONFIG)
    roles = assign_roles(config)
    target = config.data.target
    assert target is not None
    sources = [domain for domain in roles.data.domains if domain != target]
    models = [load_classifier(folder) for folder in folders]
    mean = load_classifier(folders[0])
    mean.load_state_dict(soup([model.state_dict() for model in models]))

    def score(model: Classifier, rows: np.ndarray) -> float:
        batches = evaluation_batches(roles.data, rows, model.image_size, EVALUATION_BATCH, 0)
        logits = collect_logits(model, batches, torch.device("cpu"))
        return accuracy(logits, torch.from_numpy(roles.data.labels[rows]).long())

    def holdout(model: Classifier) -> float:
        parts = [roles.rows(domain, "holdout") for domain in sources]
        return float(np.mean([score(model, rows) for rows in parts]))

    everything = roles.rows(target, "target", "target-holdout")
    best = max(models, key=holdout)
    return score(mean, everything), score(best, everything)


def table(known: Measures) -> Table:
    """Means over targets and seeds, and the paired difference."""
    found = Table("Means of weights", ["", "mean of the weights", "best of them", "difference"])
    for name, means in ROWS.items():
        for label in means:
            of_it = [values for key, values in known.items() if key[:2] == (name, label)]
            pairs = [(values["mean"], values["best"]) for values in of_it]
            if pairs:
                both = [with_half(estimate_mean(list(side))) for side in zip(*pairs, strict=True)]
                step = estimate_mean([one - other for one, other in pairs])
                shown = f"{label} ({name}, {len(pairs)} pairs)"
                found.rows.append([shown, *both, difference(step)])
    found.notes.append(
        "Accuracy on the target, mean over targets and seeds ± half of a 95 % interval; the best "
        "is that of the sources' holdout. Differences in percentage points, paired."
    )
    return found
