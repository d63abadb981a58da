"""How often teachers are right, how sure they are, and what that leaves for a student to learn.

Of whole domains, through the teacher's own transform; kept in ``found/sureness.csv``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.found import Key, Measures
from experiments.plan import Run, load
from experiments.running import Place
from scmd.data.folder import load_domains
from scmd.data.loader import evaluation_batches
from scmd.evaluate import EVALUATION_BATCH, collect_logits
from scmd.models.teacher import load_teacher
from scmd.protocol.formats import Table

EXPERIMENTS = ("digits-main", "digits-teachers", "pacs-standin")
"""Whose teachers are asked: the rows that are zero-shot."""
MEASURES = {
    "right": "right",
    "sure": "p of the class",
    "left": "p of the others, τ 3",
    "ratio": "of it on the likeliest",
    "temperature": "T that fits the labels",
}
TITLE = "What teachers know, and how sure they are"
NOTE = (
    "Means over the domains. p of the class: of the right one, without temperature. p of the "
    "others: at τ = 3, all that is not on the teacher's first choice, which is what a student can "
    "learn beyond labels; then the part of it that is on the second choice. T: the temperature at "
    "which the teacher makes the labels likeliest; above 1 it is too sure."
)
GRID = torch.logspace(-1.5, 1.5, 601, base=10.0)
"""Temperatures that are tried."""


def update(known: Measures, place: Place) -> None:
    """Ask the teachers that are there and were not asked."""
    for key, run in wanted():
        names = (run.config.data.path, run.config.teacher.name)
        if key not in known and all(map(place.materials.there, names)):
            known[key] = _asked(run, place)


def wanted() -> Iterator[tuple[Key, Run]]:
    """Teachers of ``EXPERIMENTS`` and the domains that they are asked about."""
    for name in EXPERIMENTS:
        experiment = load(name)
        for target in experiment.targets:
            for run in experiment.runs(target, 0):
                if run.reference:
                    yield (name, run.row.name, target, 0), run


def _asked(run: Run, place: Place) -> dict[str, float]:
    data = load_domains(place.materials.path(run.config.data.path))
    config = replace(run.config.teacher, name=place.materials.path(run.config.teacher.name))
    teacher = load_teacher(config, data.classes)
    rows = data.rows(run.target)
    batches = evaluation_batches(
        data, rows, teacher.image_size, EVALUATION_BATCH, 0, teacher.preprocess
    )
    logits = collect_logits(teacher.normalized_logits, batches, torch.device("cpu"))
    return measured(logits, torch.from_numpy(data.labels[rows]).long())


def measured(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The ``MEASURES`` of logits [N, C] and labels int64 [N]."""
    p, soft = logits.softmax(-1), (logits / 3).softmax(-1)
    first, second = soft.topk(2, -1).values.T
    nll = torch.stack([F.cross_entropy(logits / t, labels) for t in GRID])
    return {
        "right": (logits.argmax(-1) == labels).float().mean().item(),
        "sure": p.gather(1, labels[:, None]).mean().item(),
        "left": (1 - first).mean().item(),
        "ratio": (second.sum() / (1 - first).sum()).item(),
        "temperature": GRID[nll.argmin()].item(),
    }


def table(known: Measures) -> Table:
    """Means over domains."""
    found = Table(TITLE, ["", *MEASURES.values()])
    for name in EXPERIMENTS:
        rows: dict[str, list[dict[str, float]]] = defaultdict(list)
        for (experiment, row, *_), values in known.items():
            if experiment == name:
                rows[row].append(values)
        for row, values in rows.items():
            cells = [f"{np.mean([each[m] for each in values]):.3f}" for m in MEASURES]
            found.rows.append([f"{name}: {row.removesuffix(', zero-shot')}", *cells])
    found.notes.append(NOTE)
    return found
