"""The end of a run: the chosen weights measured, and what is left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from scmd.build import Roles
from scmd.cache import Shared
from scmd.config import RunConfig
from scmd.deploy.calibration import at_limit, before_and_after, calibrate
from scmd.deploy.classifier import (
    WEIGHTS,
    Classifier,
    load,
    save_classifier,
    save_temperature,
)
from scmd.efficiency import cost
from scmd.evaluate import EVALUATION_BATCH, accuracy, accuracy_interval, collect_logits, measure
from scmd.files import write_json
from scmd.methods import Method
from scmd.models.remembered import tower_of
from scmd.models.teacher import seen_domains
from scmd.provenance import provenance, versions
from scmd.records import read_metrics
from scmd.report.plots import plot_confusion, plot_curves
from scmd.report.tables import domain_table
from scmd.run_folder import METRICS, SUMMARY


def finish(
    config: RunConfig,
    roles: Roles,
    method: Method,
    best_step: int,
    best_weights: dict[str, torch.Tensor],
    out: Path,
    seconds: float,
    shared: Shared,
    precision: str,
    plots: bool = True,
) -> dict[str, Any]:
    """Save the chosen weights, measure them on every domain, and write the summary and plots."""
    classes = roles.data.classes
    about = {
        "method": config.method,
        "trained_on": list(roles.sources),
        "held_out_domain": roles.target,
        "step": best_step,
    }
    if method.needs_teacher:
        about["teacher"] = config.teacher.name
    save_classifier(out, method, best_weights, config.student, classes, about)
    device = next(method.parameters()).device
    model = load(out).to(device)  # what is measured is what is deployed
    lines = read_metrics(out / METRICS)
    chosen = next(line for line in lines if line.get("step") == best_step and "holdout" in line)
    summary: dict[str, Any] = {
        "method": config.method,
        "target": roles.target,
        "sources": list(roles.sources),
        "classes": list(classes),
        "seed": config.training.seed,
        "steps": config.training.steps,
        "precision": precision,
        "model_selection": {
            "rule": "SWAD: the mean over the valley of the sources' holdout loss"
            if config.average.average == "swad"
            else "highest mean accuracy on the sources' holdout",
            "step": best_step,
            "holdout_accuracy": chosen["holdout_accuracy"],
            "holdout": chosen["holdout"],
        },
        "results": {},
        "training_seconds": round(seconds, 1),
        "images": {split: int((roles.split == split).sum()) for split in sorted(set(roles.split))},
        "versions": versions(),
        "provenance": provenance(roles.data, device),
    }
    if method.needs_teacher:
        seen = seen_domains(config.teacher.name)
        summary["teacher"] = {
            "name": config.teacher.name,
            "fitted_on_domains": seen,
            "view": config.teacher.view,
        }
    holdout = {
        domain: _predict(model, roles, roles.rows(domain, "holdout"), config, shared)
        for domain in roles.sources
    }
    logits, labels = map(torch.cat, zip(*holdout.values(), strict=True))
    calibration = summary["calibration"] = calibrate(logits, labels)
    temperature = calibration["temperature"]
    save_temperature(out, temperature)
    for domain, predicted in holdout.items():
        summary["results"][domain] = {
            "role": "source holdout",
            **measure(*predicted, classes, temperature),
        }
    for domain in roles.left_out:
        rows = roles.rows(domain, "left-out")
        summary["results"][domain] = {
            "role": "left out",
            **measure(*_predict(model, roles, rows, config, shared), classes, temperature),
        }
    if roles.target:
        rows = roles.rows(roles.target, "target", "target-holdout")
        logits, labels = _predict(model, roles, rows, config, shared)
        part = torch.from_numpy(roles.split[rows] == "target")
        calibration["target"] = {"ece": before_and_after(logits, labels, temperature)}
        result = summary["results"][roles.target] = {
            "role": "target",
            **measure(logits, labels, classes, temperature),
        }
        if part.any():  # not where all of it was left out as undecodable
            result["domainbed_part"] = {
                "what": f"the {1 - config.data.holdout:.0%} that DomainBed scores",
                "n": int(part.sum()),
                "accuracy": accuracy(logits[part], labels[part]),
                "interval": list(accuracy_interval(logits[part], labels[part])),
            }
    summary["cost"] = {
        "student": shared.once(
            ("cost", config.student, model.image_size, len(classes)),
            lambda: cost(model, model, model.image_size),
        )
        | {"file_megabytes": (out / WEIGHTS).stat().st_size / 1e6}
    }
    teacher = tower_of(method.teacher) if method.needs_teacher else None
    if teacher is not None:
        teacher.to(device)
        summary["cost"]["teacher, image tower"] = shared.once(
            ("cost", config.teacher),
            lambda: cost(teacher.model.visual, teacher.logits, teacher.image_size),
        )
    if plots:
        _plot(config, roles, summary, lines, out)
    write_json(out / SUMMARY, summary)
    return summary


def _plot(
    config: RunConfig,
    roles: Roles,
    summary: dict[str, Any],
    lines: list[dict[str, Any]],
    out: Path,
) -> None:
    title = f"{config.method}, target {roles.target or 'none'}"
    if roles.target:
        confusion = summary["results"][roles.target]["confusion"]
        plot_confusion(out / "confusion.png", confusion, roles.data.classes, title)
    plot_curves(
        out / "curves.png",
        lines,
        title,
        summary["model_selection"]["step"],
        [round(part * config.training.steps) for part in config.hparams.phases()],
    )


def print_summary(summary: dict[str, Any], out: Path, console: Console) -> None:
    """The summary, for a person."""
    title = f"{summary['method']}: accuracy of the chosen weights"
    console.print(domain_table(summary["results"], title))
    target = summary["results"].get(summary["target"], {})
    if "domainbed_part" in target:
        part = target["domainbed_part"]
        low, high = part["interval"]
        console.print(
            f"{summary['target']}, {part['what']}: {part['accuracy']:.3f} "
            f"({low:.3f} – {high:.3f}), n = {part['n']:,}",
            markup=False,
        )
    selection = summary["model_selection"]
    console.print(
        f"chosen: step {selection['step']}, {selection['rule']} "
        f"({selection['holdout_accuracy']:.3f}; as it chose, a little too high)"
    )
    if calibration := summary.get("calibration"):  # earlier versions had none
        before, after = calibration["holdout"]["ece"]
        temperature = calibration["temperature"]
        limit = " (as far as is searched)" if at_limit(temperature) else ""
        console.print(
            f"calibration: temperature {temperature:.3g}{limit}, fitted on the sources' holdout, "
            f"whose ECE it takes from {before:.3f} to {after:.3f}"
        )
    for name, costs in summary["cost"].items():
        console.print(
            f"{name}: {costs['parameters'] / 1e6:.2f} M parameters, {costs['flops'] / 1e9:.2f} "
            f"GFLOPs, {costs['megabytes']:.1f} MB, {costs['latency_ms']:.1f} ms an image"
        )
    console.print(f"{out}: model.safetensors, summary.json, curves.png and more", markup=False)


def _predict(
    model: Classifier, roles: Roles, rows: Any, config: RunConfig, shared: Shared
) -> tuple[torch.Tensor, torch.Tensor]:
    batches = shared.evaluation_batches(
        roles.data, rows, model.image_size, EVALUATION_BATCH, config.training.workers
    )
    device = next(model.parameters()).device
    logits = collect_logits(model, batches, device)
    return logits, torch.from_numpy(roles.data.labels[rows]).long()
