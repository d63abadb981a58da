"""The mean of a method's weights over its trials, measured like a run of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from scmd.build import assign_roles
from scmd.cache import Shared
from scmd.config import save_config
from scmd.deploy.classifier import MODEL, WEIGHTS, load
from scmd.evaluate import EVALUATION_BATCH, collect_logits, measure, target_scores
from scmd.files import read_json, write_json, writing_aside
from scmd.models.weights import read_state_dict
from scmd.protocol.model_selection import choose
from scmd.protocol.plan import SOUP
from scmd.protocol.records import Record, read_runs
from scmd.protocol.runner import DONE, PLAN
from scmd.run_folder import CONFIG, METRICS, SUMMARY
from scmd.soup import soup


def make_soups(out: Path, shared: Shared) -> list[str]:
    """Average, for every method and target of a comparison, the weights that its trials chose.

    The row is called after the method, with ``+soup``, and has one trial. Its holdout accuracy is
    the mean of its ingredients': trials hold out different images, so that the soup has seen all
    of them: so none is left to check an export on, and a soup is used but not handed on.
    Ingredients are chosen by training-domain validation.

    Source: see ``scmd.soup``. DiWA's runs share the classifier's initial weights; trials here do
    not, nor does a student from scratch share any, and then the mean of networks is none.

    Args:
        out: The comparison's folder.
        shared: Where decoded images are kept.

    Returns:
        What was made, a line each.
    """
    records, _ = read_runs([out])
    chosen, _ = choose([r for r in records if not r.label.endswith(SOUP)], "training")
    groups: dict[tuple[str, str], list[Record]] = {}
    for choice in chosen:
        record = choice.record
        if (record.folder / WEIGHTS).exists():
            groups.setdefault((record.label, record.target), []).append(record)
    said = []
    for (label, target), ingredients in groups.items():
        if len(ingredients) < 2:
            continue
        names = sorted(record.folder.name for record in ingredients)
        digest = hashlib.blake2b("\n".join(names).encode(), digest_size=6).hexdigest()
        folder = out / f"{target}-{label}{SOUP}-{digest}".replace("/", "_")
        if not (folder / DONE).exists():
            _make(ingredients, folder, shared)
        _remember(out, folder.name, f"{label}{SOUP}", ingredients[0])
        found = read_json(folder / SUMMARY)["results"][target]["accuracy"]
        said.append(f"{label}{SOUP}, target {target}: {found:.3f}, of {len(ingredients)} trials")
    return said


def _make(ingredients: Sequence[Record], folder: Path, shared: Shared) -> None:
    first = ingredients[0]
    weights = soup([read_state_dict(record.folder / WEIGHTS) for record in ingredients])
    shutil.rmtree(folder, ignore_errors=True)  # of a soup that was interrupted
    folder.mkdir()
    with writing_aside(folder / WEIGHTS) as file:
        file.write(save({name: value.contiguous() for name, value in weights.items()}))
    description = read_json(first.folder / MODEL)
    of = [record.folder.name for record in ingredients]
    # The temperature was fitted to one run's weights.
    description.pop("temperature", None)
    write_json(folder / MODEL, description | {"soup_of": of, "step": 0})
    save_config(first.config, folder / CONFIG)
    line, result = _score(first, folder, shared)
    line["holdout_accuracy"] = float(
        np.mean([r.summary["model_selection"]["holdout_accuracy"] for r in ingredients])
    )
    with writing_aside(folder / METRICS) as file:
        file.write(json.dumps({"step": 0, **line}).encode() + b"\n")
    summary = {
        **{key: first.summary[key] for key in ("method", "target", "sources", "classes", "steps")},
        "seed": first.trial,
        "model_selection": {"rule": "the mean of the trials' weights", "step": 0},
        "soup_of": of,
        "results": {first.target: {"role": "target", **result}},
        "training_seconds": sum(r.summary["training_seconds"] for r in ingredients),
    }
    write_json(folder / SUMMARY, summary)
    write_json(folder / DONE, {"seconds": summary["training_seconds"]})


def _score(record: Record, folder: Path, shared: Shared) -> tuple[dict[str, Any], dict[str, Any]]:
    """The soup on the target, whole and by the first trial's parts."""
    config = record.config
    roles = assign_roles(config)
    rows = roles.rows(record.target, "target", "target-holdout")
    model = load(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    batches = shared.evaluation_batches(
        roles.data, rows, model.image_size, EVALUATION_BATCH, config.training.workers
    )
    logits = collect_logits(model, batches, device)
    labels = torch.from_numpy(roles.data.labels[rows]).long()
    domainbed = torch.from_numpy(roles.split[rows] == "target")
    scores = target_scores(logits, labels, domainbed)
    line = {"holdout": {}, "held_out": {record.target: scores}}
    return line, measure(logits, labels, roles.data.classes)


def _remember(out: Path, name: str, label: str, first: Record) -> None:
    known = read_json(out / PLAN)
    if name not in known:
        # A soup of fewer trials, made earlier, makes room for this one.
        old = [
            n
            for n, p in known.items()
            if p["label"] == label and p["target"] == first.target and p["draw"] == 0
        ]
        known = {n: p for n, p in known.items() if n not in old}
        known[name] = {
            "label": label,
            "method": first.config.method,
            "target": first.target,
            "also_held_out": [],
            "draw": 0,
            "drawn": {},
            "trial": first.trial,
        }
        write_json(out / PLAN, known)
