"""Everything that a report says about one run, as plain values for its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from scmd.build import Roles, assign_roles
from scmd.config import RunConfig, load_config
from scmd.data.listing import named
from scmd.deploy.classifier import load
from scmd.errors import ScmdError
from scmd.evaluate import measure
from scmd.finished import held_out, read_log, read_object, read_summary, seen_by_teacher
from scmd.methods import METHODS
from scmd.records import check_samples
from scmd.report.explorer import (
    SampleHistory,
    histories,
    read_selecting_steps,
    windows,
)
from scmd.report.figures import curves_svg, reliability, reliability_svg
from scmd.report.opinions import Opinions, student_opinions, teacher_opinions
from scmd.report.thumbnails import thumbnail
from scmd.run_folder import CONFIG, SAMPLES, SELECTION, SUMMARY

MOST_ERRORS = 24
MOST_THUMBNAILS = 700
CERTAIN = 0.7
"""A teacher that is this sure of another class than the label's is worth a look."""


@dataclass
class RunPage:
    """A run's part of a report."""

    folder: Path
    out: Path
    """Where its list of labels to review goes."""
    name: str
    """Its folder's; a page of several runs tells those of one name apart."""
    config: RunConfig
    summary: dict[str, Any]
    figures: dict[str, str]
    """Name to SVG."""
    teacher: dict[str, Any] | None
    """The zero-shot teacher on the target, as ``scmd.evaluate.measure`` says."""
    errors: list[dict[str, Any]]
    """The most confident errors on the target."""
    review: list[dict[str, Any]]
    """Source images whose labels the teacher doubts, the surest first."""
    explorer: dict[str, Any] | None
    notes: list[str]

    @property
    def target(self) -> str:
        """The held-out domain; empty where there is none."""
        return self.config.data.target or ""

    @property
    def data(self) -> Path:
        """The data set's folder or manifest."""
        return Path(self.config.data.path).resolve()

    @property
    def seen_by_teacher(self) -> list[str]:
        """The held-out domains that the teacher was fitted on."""
        return seen_by_teacher(self.summary, held_out(self.summary))


def gather(run: Path, out: Path, console: Console) -> RunPage:
    """Read a finished run, ask student and teacher about its images, and condense it.

    Args:
        run: The run's folder; opinions are kept in it.
        out: Where ``write_page`` puts ``label-review-RUN.csv``.
        console: Where it is said what is being done.

    Raises:
        ScmdError: No finished run is there.
    """
    config, summary, lines = check_run(run)
    step = summary["model_selection"]["step"]
    alt = f"Training losses and holdout accuracy of {run.name} over steps"
    figures = {"curves": curves_svg(lines, step, alt)}
    name = run.resolve().name
    page = RunPage(run, out, name, config, summary, figures, None, [], [], None, [])
    try:
        roles = assign_roles(config)
    except ScmdError as error:
        page.notes.append(f"The images could not be read, so no picture is shown: {error}")
        return page
    try:
        _check_data(run, roles, summary["classes"])
    except ScmdError as error:
        page.notes.append(f"Only what the run itself wrote is shown: {error}")
        return page
    teacher = None
    try:
        if METHODS[config.method].needs_teacher:
            teacher = _ask_teacher(page, roles, console)
        if roles.target:
            _target(page, roles, teacher, console)
        if (run / SELECTION).exists():
            _explorer(page, roles, teacher)
    except ScmdError as error:
        page.notes.append(f"Not everything could be shown: {error}")
    return page


def check_run(run: Path) -> tuple[RunConfig, dict[str, Any], list[dict[str, Any]]]:
    """A finished run's configuration, summary and log.

    Raises:
        ScmdError: No finished run is there, or a file of it is damaged.
    """
    if not (run / SUMMARY).exists():
        raise ScmdError(f"{run} holds no finished run. Give a folder that scmd train wrote")
    config = load_config(run / CONFIG)
    method = read_object(run / SUMMARY).get("method")
    if isinstance(method, str) and method not in METHODS:
        raise ScmdError(
            f"{run} measures the teacher ({method}), and trained no student: it has rows in scmd "
            "tables and no page. Give a run of a method, or the comparison's folder"
        )
    return config, read_summary(run, "pages", config.data.target), read_log(run)


def _check_data(run: Path, roles: Roles, classes: Sequence[str]) -> None:
    """See that a data set is still the run's: predictions are places among the run's classes.

    Raises:
        ScmdError: Its classes, its samples or their roles have changed, or it is not known what
            they were.
    """
    data = roles.data
    if list(data.classes) != classes:
        raise ScmdError(
            f"{data.source} has changed since the run began: it has other classes "
            f"({named(sorted({*data.classes} ^ {*classes}))}). Restore it, or train anew"
        )
    check_samples(run / SAMPLES, data, roles.split)


def _target(page: RunPage, roles: Roles, teacher: Opinions | None, console: Console) -> None:
    """Errors, calibration, and the teacher, on the held-out domain."""
    assert roles.target is not None
    data, rows = roles.data, roles.rows(roles.target, "target", "target-holdout")
    labels = data.labels[rows].astype(np.int64)
    said = f"{page.name}: the student on {len(rows):,} images of {roles.target}"
    console.print(said, markup=False)
    model = load(page.folder)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    workers = page.config.training.workers
    student = student_opinions(page.folder, model, data, rows, workers)
    found = {"student": reliability(student.confidence, student.predicted == labels)}
    opinion = None
    if teacher is not None:
        place = {row: i for i, row in enumerate(teacher.rows.tolist())}
        own = np.array([place[row] for row in rows.tolist()])
        opinion = Opinions(rows, teacher.probabilities[own])
        logits = torch.from_numpy(np.log(np.maximum(opinion.probabilities, 1e-30)))
        page.teacher = measure(logits, torch.from_numpy(labels), data.classes)
        found["teacher"] = reliability(opinion.confidence, opinion.predicted == labels)
    alt = f"Accuracy over confidence on {roles.target}"
    page.figures["reliability"] = reliability_svg(found, alt)
    wrong = np.flatnonzero(student.predicted != labels)
    order = wrong[np.argsort(-student.confidence[wrong])][:MOST_ERRORS]
    for i in order.tolist():
        row = int(rows[i])
        error = {
            "picture": thumbnail(data.root / data.paths[row]),
            "path": data.paths[row],
            "label": data.classes[labels[i]],
            "predicted": data.classes[student.predicted[i]],
            "confidence": float(student.confidence[i]),
        }
        if opinion is not None:
            error["teacher"] = data.classes[opinion.predicted[i]]
            error["teacher_confidence"] = float(opinion.confidence[i])
        page.errors.append(error)


def _ask_teacher(page: RunPage, roles: Roles, console: Console) -> Opinions | None:
    """About all images at once: sources for the explorer, the target for comparison."""
    rows = np.flatnonzero(roles.split != "bad")
    console.print(f"{page.name}: the teacher on {len(rows):,} images", markup=False)
    try:
        return teacher_opinions(page.folder, page.config, roles.data, rows)
    except ScmdError as error:
        page.notes.append(f"The teacher could not be asked: {error}")
        return None


def _explorer(page: RunPage, roles: Roles, teacher: Opinions | None) -> None:
    """Selections over time, and the samples worth looking at, with their pictures."""
    data = roles.data
    table = read_selecting_steps(page.folder / SELECTION, data)
    history = histories(table)
    page.review = review = _review(teacher, roles) if teacher is not None else []
    groups = {
        "always hard": history.always_hard(),
        "never hard": history.never_hard(),
        "learned and forgotten": history.forgotten(),
    }
    shown = _hardest_of_each_cell(history, roles)
    places = dict.fromkeys([*shown, *(int(p) for group in groups.values() for p in group)])
    opinion_of = {} if teacher is None else {row: i for i, row in enumerate(teacher.rows.tolist())}
    samples: dict[int, dict[str, Any]] = {}

    def describe(row: int) -> dict[str, Any]:
        sample: dict[str, Any] = {
            "picture": thumbnail(data.root / data.paths[row]),
            "path": data.paths[row],
            "domain": int(data.domain_index[row]),
            "class": int(data.labels[row]),
        }
        if teacher is not None and row in opinion_of:
            place = opinion_of[row]
            sample["teacher"] = data.classes[teacher.predicted[place]]
            sample["sure"] = round(float(teacher.confidence[place]), 3)
        return sample

    for place in places:
        row = int(history.rows[place])
        loss = float(history.loss[place])
        samples[row] = describe(row) | {
            "drawn": int(history.drawn[place]),
            "kept": int(history.kept[place]),
            "loss": round(loss, 3) if math.isfinite(loss) else None,  # JSON has no NaN
            "relapses": int(history.relapses[place]),
        }
    for item in review[:MOST_ERRORS]:
        samples.setdefault(item["row"], describe(item["row"]))
    page.explorer = {
        "domains": list(data.domains),
        "classes": list(data.classes),
        "sources": [data.domains.index(d) for d in roles.sources],
        "selections": table.num_rows,
        **windows(table, data),
        "samples": samples,
        "groups": {name: [int(history.rows[p]) for p in group] for name, group in groups.items()}
        | {"teacher disagrees with the label": [i["row"] for i in review[:MOST_ERRORS]]},
        "review": len(review),
    }


def _hardest_of_each_cell(history: SampleHistory, roles: Roles) -> list[int]:
    """Places of the most selected samples of every domain and class, as many as a page holds."""
    data = roles.data
    cell = data.domain_index[history.rows].astype(np.int64) * len(data.classes)
    cell = cell + data.labels[history.rows]
    cells = np.unique(cell)
    each = max(1, min(12, MOST_THUMBNAILS // max(1, len(cells))))
    order = np.lexsort((-history.loss, -history.share))
    taken: dict[int, int] = {}
    places = []
    for place in order.tolist():
        key = int(cell[place])
        if taken.get(key, 0) < each and len(places) < MOST_THUMBNAILS:
            taken[key] = taken.get(key, 0) + 1
            places.append(place)
    return places


def _review(teacher: Opinions, roles: Roles) -> list[dict[str, Any]]:
    """Source images of whose label the teacher is sure that it is another, the surest first."""
    data = roles.data
    source = np.isin(roles.split[teacher.rows], ("train", "holdout"))
    labels = data.labels[teacher.rows]
    odd = source & (teacher.predicted != labels) & (teacher.confidence >= CERTAIN)
    order = np.flatnonzero(odd)[np.argsort(-teacher.confidence[odd], kind="stable")]
    return [
        {
            "row": int(teacher.rows[i]),
            "path": data.paths[int(teacher.rows[i])],
            "domain": data.domains[data.domain_index[teacher.rows[i]]],
            "label": data.classes[labels[i]],
            "teacher": data.classes[teacher.predicted[i]],
            "teacher_confidence": round(float(teacher.confidence[i]), 4),
            "teacher_probability_of_label": round(float(teacher.probabilities[i, labels[i]]), 4),
        }
        for i in order.tolist()
    ]
