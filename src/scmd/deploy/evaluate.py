"""A trained student, or a teacher, measured on every domain of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from scmd.data.folder import DomainImages, load_domains
from scmd.data.loader import evaluation_batches
from scmd.deploy.classifier import load
from scmd.errors import ScmdError
from scmd.evaluate import EVALUATION_BATCH, collect_logits, measure
from scmd.machine import keep_memory
from scmd.models.teacher import TeacherConfig, load_teacher
from scmd.report.tables import class_table, domain_table


def evaluate_run(run: str | Path, path: str | Path, workers: int = 2) -> dict[str, Any]:
    """Measure a run's student on a data set whose classes are among its own.

    Args:
        run: The folder of a finished run.
        path: A folder ``domain/class/image`` or a manifest.
        workers: Processes that decode images.

    Returns:
        ``model``, ``data`` and, per domain under ``results``, what ``scmd.evaluate.measure`` says.

    Raises:
        ScmdError: No model there, bad data, or a class that the model does not know.
    """
    keep_memory()
    model = load(run)
    data = load_domains(path, "union", one_is_enough=True)
    unknown = [name for name in data.classes if name not in model.classes]
    if unknown:
        raise ScmdError(
            f"{data.source} has the class {unknown[0]!r}, which {run} was not trained on "
            f"(it knows {', '.join(model.classes[:8])}). Rename or remove it"
        )
    labels = np.array([model.classes.index(name) for name in data.classes])[data.labels]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    results = {}
    for domain in data.domains:
        rows = data.rows(domain)
        batches = evaluation_batches(data, rows, model.image_size, EVALUATION_BATCH, workers)
        logits = collect_logits(model, batches, device)
        results[domain] = measure(
            logits,
            torch.from_numpy(labels[rows]).long(),
            model.classes,
            model.description.get("temperature"),
        )
        if domain in model.description.get("trained_on", ()):
            results[domain]["role"] = "trained on"
    return {"model": str(run), "data": str(path), "results": results}


def evaluate_teacher(
    config: TeacherConfig, data: DomainImages, workers: int = 2, mask: np.ndarray | None = None
) -> dict[str, Any]:
    """Zero-shot accuracy of a teacher on every domain, with its own image transform.

    Args:
        config: The teacher.
        data: The data set.
        workers: Processes that decode images.
        mask: Which samples count, bool [N]; domains without any are left out. Default: all.

    Returns:
        As ``evaluate_run``.

    Raises:
        ScmdError: As ``load_teacher``.
    """
    keep_memory()
    teacher = load_teacher(config, data.classes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    results = {}
    for domain in data.domains:
        rows = data.rows(domain)
        rows = rows if mask is None else rows[mask[rows]]
        if not len(rows):
            continue
        batches = evaluation_batches(
            data, rows, teacher.image_size, EVALUATION_BATCH, workers, teacher.preprocess
        )
        logits = collect_logits(teacher.normalized_logits, batches, device)
        labels = torch.from_numpy(data.labels[rows]).long()
        results[domain] = measure(logits, labels, data.classes)
    return {"model": config.name, "data": str(data.source), "results": results}


def print_results(results: dict[str, Any], console: Console) -> None:
    """A table of domains, and one of classes."""
    title = f"{results['model']} on {results['data']}"
    console.print(domain_table(results["results"], title))
    console.print(class_table(results["results"]))
