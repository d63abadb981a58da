"""What selection keeps: hard samples, wrong labels, and what the teacher knows of them.

From the selections of runs that are still on the disk; their means are kept in
``found/selected.csv``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from experiments.flips import flipped
from experiments.found import Key, Measures
from experiments.plan import Run, load
from experiments.running import Place, finished
from scmd.data.folder import load_domains
from scmd.data.loader import evaluation_batches
from scmd.evaluate import EVALUATION_BATCH, collect_logits
from scmd.models.pretrained import EMBEDDED
from scmd.models.teacher import TeacherConfig, load_teacher
from scmd.protocol.formats import Table
from scmd.run_folder import SELECTION

ROWS = {
    "digits-main": ("SCMD", "SCMD, random selection", "SCMD, selection by L_logits"),
    "digits-selection": ("ρ 0.2", "warm-up 0, ρ 0.2 (the paper's)"),
    "flipped-labels": (
        "SCMD", "SCMD, ρ 0.2", "SCMD, random selection", "SCMD, cap at 2 ln C", "SCMD, cap at ln C",
        "SCMD, selects where the teacher agrees",
    ),
}  # fmt: skip
MEASURES = {
    "kept": "kept, of all",
    "flipped": "wrong labels, of all",
    "flipped kept": "wrong labels, of what is kept",
    "right kept": "teacher right, kept",
    "right left": "teacher right, left out",
    "sure kept": "teacher's p of the class, kept",
    "sure left": "teacher's p of the class, left out",
}
TITLE = "Embedded digits: what the steps that select keep"
NOTE = (
    "Means over the decisions of all steps that select, then over {runs} of all targets. The "
    "teacher is asked about the clean image and its right class; p is without temperature. In the "
    "rows that are said to be so, one training label in ten is wrong."
)


def update(known: Measures, place: Place) -> None:
    """Measure the runs that are there."""
    opinions: dict[int, tuple[bool, float]] | None = None
    for key, run in wanted():
        folder = finished(run, place)
        if folder is None:
            continue
        opinions = opinions or teacher_on(place.materials.resolve(run.config).data.path)
        known[key] = measured(folder, opinions, key[0] == "flipped-labels")


def wanted() -> Iterator[tuple[Key, Run]]:
    """The runs of ``ROWS``."""
    for name, rows in ROWS.items():
        for run in load(name).all_runs():
            if run.row.name in rows:
                yield (name, run.row.name, run.target, run.seed), run


def teacher_on(path: str) -> dict[int, tuple[bool, float]]:
    """Per sample id, whether the embedded teacher is right, and its probability of the class."""
    data = load_domains(path)
    teacher = load_teacher(TeacherConfig(EMBEDDED), data.classes)
    rows = np.arange(len(data))
    batches = evaluation_batches(
        data, rows, teacher.image_size, EVALUATION_BATCH, 0, teacher.preprocess
    )
    says = collect_logits(teacher.normalized_logits, batches, torch.device("cpu")).softmax(-1)
    right = says.argmax(-1).numpy() == data.labels
    sure = says.numpy()[rows, data.labels]
    return {int(i): (bool(r), float(s)) for i, r, s in zip(data.ids, right, sure, strict=True)}


def measured(
    folder: Path, opinions: dict[int, tuple[bool, float]], has_flips: bool
) -> dict[str, float]:
    """The ``MEASURES`` of a run."""
    log = pq.read_table(folder / SELECTION)
    step = log["step"].to_numpy()
    kept = log["kept"].to_numpy(zero_copy_only=False)
    ids = log["sample_id"].to_numpy()
    steps, place = np.unique(step, return_inverse=True)
    whole = np.bincount(place, ~kept, len(steps)) == 0
    chosen = ~whole[place]  # decisions of steps that leave something out
    kept, ids = kept[chosen], ids[chosen]
    right = np.array([opinions[int(i)][0] for i in ids])
    sure = np.array([opinions[int(i)][1] for i in ids])
    wrong = flipped(torch.from_numpy(ids.copy())).numpy() & has_flips
    return {
        "kept": kept.mean(), "flipped": wrong.mean(), "flipped kept": wrong[kept].mean(),
        "right kept": right[kept].mean(), "right left": right[~kept].mean(),
        "sure kept": sure[kept].mean(), "sure left": sure[~kept].mean(),
    }  # fmt: skip


def table(known: Measures) -> Table:
    """Means over targets and seeds."""
    rows: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for (name, row, *_), values in known.items():
        rows[name, row].append(values)
    found = Table(TITLE, ["", *MEASURES.values()])
    for name, labels in ROWS.items():
        for label in labels:
            if runs := rows.get((name, label)):
                said = f"{label}, wrong labels" if name == "flipped-labels" else label
                cells = [f"{np.mean([run[m] for run in runs]):.3f}" for m in MEASURES]
                found.rows.append([said, *cells])
    counts = sorted({len(runs) for runs in rows.values()})
    said = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "no"
    found.notes.append(NOTE.format(runs=f"{said} runs a row"))
    return found
