"""The teacher itself, measured as a run is: zero-shot, with a linear probe, and fine-tuned."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from scmd.build import Roles, assign_roles
from scmd.cache import Shared
from scmd.data.loader import evaluation_batches
from scmd.evaluate import EVALUATION_BATCH, accuracy, collect_logits, measure, target_scores
from scmd.files import read_json, write_json, writing_aside
from scmd.machine import open_accelerator
from scmd.models.teacher import CARD, CLIPTeacher, load_teacher, seen_domains
from scmd.protocol.fine_tuning import TEACHER, fine_tuned
from scmd.protocol.plan import PlannedRun
from scmd.protocol.settings import FINE_TUNED
from scmd.run_folder import METRICS, SUMMARY, opened

PROBE_C = 1.0


def measure_reference(run: PlannedRun, out: Path, shared: Shared) -> dict[str, Any]:
    """Measure the teacher as the students of a comparison are, and write a run's folder.

    ``zero-shot`` is the teacher's opinion. ``linear-probe`` is a logistic regression (L2,
    strength 1/c; Radford et al. 2021, arXiv:2103.00020, section 3.2) on its standardised image
    embeddings of the sources' training part. ``fine-tuned`` is the opinion of the teacher that is
    fitted on that part (``fine_tuning``); it is removed when it is measured, and never sees an
    image of the target before. Images go through the teacher's own transform.

    Returns:
        What ``summary.json`` holds: as far as it applies, that of a trained run.
    """
    config = run.config
    roles = assign_roles(config)
    if run.label == FINE_TUNED:
        return _measure_fine_tuned(run, roles, out)
    teacher = shared.teacher(config.teacher, roles.data.classes)
    teacher.to(open_accelerator("fp32", config.training.device).device)
    with opened(out, config):
        embeddings = shared.once(
            ("embeddings", config.teacher, roles.data.root.resolve(), roles.data.ids.tobytes()),
            lambda: embed(teacher, roles, config.training.workers),
        )
        if run.label == "zero-shot":
            logits = teacher.opinion(embeddings).cpu()
        else:
            logits = _probe(embeddings.numpy(), roles, run.drawn.get("c", PROBE_C))
        summary = _summary(run, roles, logits)
        _write(out, summary)
    return summary


def _measure_fine_tuned(run: PlannedRun, roles: Roles, out: Path) -> dict[str, Any]:
    config = run.config
    began = time.perf_counter()
    with opened(out, config), ExitStack() as stack:
        if (out / SUMMARY).exists():  # of an attempt that ended while it removed the teacher
            shutil.rmtree(out / TEACHER, ignore_errors=True)
            return read_json(out / SUMMARY)
        folder = stack.enter_context(fine_tuned(run, roles, out))
        seconds = time.perf_counter() - began
        teacher = load_teacher(replace(config.teacher, name=str(folder)), roles.data.classes)
        teacher.to(open_accelerator("fp32", config.training.device).device)
        logits = teacher.opinion(embed(teacher, roles, config.training.workers)).cpu()
        summary = _summary(run, roles, logits)
        summary["teacher"]["fitted_on_domains"] = seen_domains(str(folder))
        summary["teacher"]["card"] = read_json(folder / CARD)
        summary["training_seconds"] = round(seconds, 1)
        _write(out, summary)
    return summary


def _write(out: Path, summary: dict[str, Any]) -> None:
    line = {"step": 0, **summary["model_selection"]["line"]}
    with writing_aside(out / METRICS) as file:
        file.write(json.dumps(line).encode() + b"\n")
    write_json(out / SUMMARY, summary)


def embed(teacher: CLIPTeacher, roles: Roles, workers: int) -> Tensor:
    """The teacher's normalised embeddings of all images: float32 [N, E], on the CPU.

    Those of bad images, which are left out, are 0.
    """
    rows = np.flatnonzero(roles.split != "bad")
    batches = evaluation_batches(
        roles.data, rows, teacher.image_size, EVALUATION_BATCH, workers, teacher.preprocess
    )
    device = teacher.text_embeddings.device
    known = collect_logits(teacher.normalized_embeddings, batches, device)
    embeddings = torch.zeros(len(roles.data), known.shape[1])
    embeddings[torch.from_numpy(rows)] = known
    return embeddings


def _probe(embeddings: np.ndarray, roles: Roles, c: float) -> Tensor:
    rows = np.concatenate(roles.train_rows())
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    probe.fit(embeddings[rows], roles.data.labels[rows])
    found = probe[-1].classes_  # classes without a training image have no column
    logits = np.full((len(embeddings), len(roles.data.classes)), -1e9, dtype=np.float32)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf, as it should be
        logits[:, found] = probe.predict_log_proba(embeddings)
    return torch.from_numpy(logits)


def _summary(run: PlannedRun, roles: Roles, logits: Tensor) -> dict[str, Any]:
    data, config = roles.data, run.config
    labels = torch.from_numpy(data.labels).long()

    def score(rows: np.ndarray) -> float:
        return accuracy(logits[rows], labels[rows])

    holdout = {domain: score(roles.rows(domain, "holdout")) for domain in roles.sources}
    target = run.target
    rows = roles.rows(target, "target", "target-holdout")
    domainbed = torch.from_numpy(roles.split[rows] == "target")
    scores = target_scores(logits[rows], labels[rows], domainbed)
    line = {
        "holdout": holdout,
        "holdout_accuracy": float(np.mean(list(holdout.values()))),
        "held_out": {target: scores},
    }
    return {
        "method": run.label,
        "target": target,
        "sources": list(roles.sources),
        "classes": list(data.classes),
        "seed": run.trial,
        "steps": 0,
        "model_selection": {"rule": "nothing to choose", "step": 0, "line": line},
        "results": {
            target: {"role": "target", **measure(logits[rows], labels[rows], data.classes)}
        },
        "teacher": {
            "name": config.teacher.name,
            "fitted_on_domains": seen_domains(config.teacher.name),
        },
        "training_seconds": 0.0,
    }
