"""One page of HTML that stands alone."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import jinja2
import numpy as np

from scmd.config import RunConfig, differences
from scmd.errors import ScmdError
from scmd.files import cannot_write, writing_aside
from scmd.methods import METHODS
from scmd.models.teacher import TeacherConfig
from scmd.report.gather import RunPage

PAGE = "index.html"
_WRITTEN_BY = "Written by scmd "
WORST = 8
MOST_CONFUSED = 40
"""Classes up to which a confusion matrix can be read on a page."""


class TableLike(Protocol):
    """A table that is shown as it is."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def write_page(
    path: Path, title: str, pages: Sequence[RunPage], tables: Sequence[TableLike] = ()
) -> None:
    """Write the page, and each run's list of labels to review.

    Args:
        path: The HTML file.
        title: On top.
        pages: The runs, in order; with several of one target they are compared. Those of one
            name are told apart by ``distinct_names``.
        tables: A comparison's, above the runs.
    """
    names = distinct_names([page.folder for page in pages])
    pages = [replace(page, name=name) for page, name in zip(pages, names, strict=True)]
    for page in pages:
        _write_review(page)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource), autoescape=True, trim_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )  # fmt: skip
    text = environment.get_template("page.html.j2").render(
        title=title,
        version=version("scmd"),
        css=_resource("page.css"),
        js=_resource("explorer.js"),
        pages=[_view(page) for page in pages],
        tables=tables,
        overview=_overview(pages),
        overview_notes=_gaps(pages),
    )
    with writing_aside(path) as file:
        file.write(text.encode())


def _write_review(page: RunPage) -> None:
    """Write a run's list of labels to review, or remove an earlier report's where it has none.

    Raises:
        ScmdError: The folder cannot be written.
    """
    path = page.out / f"label-review-{page.name}.csv"
    if not page.review:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        return
    text = io.StringIO(newline="")
    names = [name for name in page.review[0] if name != "row"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(page.review)
    with writing_aside(path) as file:
        file.write(text.getvalue().encode())


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """What runs are called: as their folders, and where that repeats, with the folder above.

    Runs that are still alike, as one that is given twice, are numbered. Names of files are made
    of them, so that they have no slash.
    """
    paths = [folder.resolve() for folder in folders]
    times = Counter(path.name for path in paths)
    names: list[str] = []
    for path in paths:
        name = path.name if times[path.name] == 1 else f"{path.parent.name}-{path.name}"
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        names.append(next(n for n in itertools.chain([name], numbered) if n not in names))
    return names


def check_page(path: Path) -> None:
    """See that a page which is there already is a report, and not somebody's own.

    Raises:
        ScmdError: It is not.
    """
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if _WRITTEN_BY not in text:
            raise ScmdError(f"{path} is there and is no report. Choose another --out")


def _resource(name: str) -> str:
    return (files("scmd.report") / name).read_text(encoding="utf-8")


def _view(page: RunPage) -> dict[str, Any]:
    view: dict[str, Any] = {**vars(page), "target": page.target}
    if page.explorer is not None:
        # Whatever a path or class is called, it must not end the script that holds it.
        text = json.dumps(page.explorer, separators=(",", ":"))
        view["explorer_json"] = text.replace("<", "\\u003c")
    if page.target:
        result = page.summary["results"][page.target]
        classes = page.summary["classes"]
        view["worst"] = _worst(result, classes)
        if len(classes) <= MOST_CONFUSED:
            view["confusion"] = _shaded(np.asarray(result["confusion"]))
    return view


def _worst(result: dict[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    confusion = np.asarray(result["confusion"]).copy()
    np.fill_diagonal(confusion, 0)
    ordered = sorted(result["per_class"].items(), key=lambda item: item[1]["accuracy"])
    rows = []
    for name, found in ordered[:WORST]:
        wrong = confusion[classes.index(name)]
        taken_for = f"{classes[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "–"
        rows.append({"name": name, **found, "taken_for": taken_for})
    return rows


def _shaded(confusion: np.ndarray) -> list[list[dict[str, int]]]:
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    return [
        [{"n": int(n), "shade": round(70 * share)} for n, share in zip(row, part, strict=True)]
        for row, part in zip(confusion, shares, strict=True)
    ]


def _overview(pages: Sequence[RunPage]) -> list[dict[str, Any]]:
    """A row per run, and one per zero-shot teacher and target."""
    rows = []
    teachers: dict[tuple[str, str], dict[str, Any]] = {}
    for target, own in _by_target(pages).items():
        for page in own:
            cost = page.summary["cost"]
            result = page.summary["results"][page.target]
            rows.append(_row(page.name, target, result, cost["student"]))
            if page.teacher:
                name = f"teacher {page.config.teacher.name}, zero-shot"
                tower = cost.get("teacher, image tower", {})
                key = (_asked(page), target)
                teachers.setdefault(key, _row(name, target, page.teacher, tower))
    return [*teachers.values(), *rows]


def _by_target(pages: Sequence[RunPage]) -> dict[str, list[RunPage]]:
    """The pages of each target, which is called after its data, too, where those are several."""
    several = len({page.data for page in pages}) > 1
    found: dict[tuple[str, Path], list[RunPage]] = {}
    for page in pages:
        if page.target:
            found.setdefault((page.target, page.data), []).append(page)
    return {
        f"{target} of {data.name}" if several else target: own
        for (target, data), own in found.items()
    }


def _asked(page: RunPage) -> str:
    """Which teacher it is, and what it is asked with."""
    teacher = page.config.teacher
    return f"{teacher.name}, {teacher.prompts}"


def _comparable(config: RunConfig) -> RunConfig:
    """What has to be alike where a gap is closed; ERM asks no teacher."""
    training = replace(config.training, score_held_out=False)
    erm = METHODS["erm"].Config()
    return replace(config, method="erm", hparams=erm, teacher=TeacherConfig(), training=training)


def _row(name: str, target: str, result: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    parameters = f"{cost['parameters'] / 1e6:.2f} M" if "parameters" in cost else ""
    return {
        "name": name,
        "target": target,
        "accuracy": result["accuracy"],
        "interval": result["interval"],
        "macro": result["macro_accuracy"],
        "ece": result["ece"],
        "parameters": parameters,
    }


def _gaps(pages: Sequence[RunPage]) -> list[str]:
    """How much of the gap from ERM to the teacher each run closes, where all three are there."""
    notes = []
    for target, own in _by_target(pages).items():
        erm = [page for page in own if page.config.method == "erm"]
        ceilings = {_asked(page): page.teacher["accuracy"] for page in own if page.teacher}
        if len(erm) != 1 or len(ceilings) != 1:
            continue
        (ceiling,) = ceilings.values()
        low = erm[0].summary["results"][erm[0].target]["accuracy"]
        if ceiling <= low:
            notes.append(f"On {target} the teacher is not above ERM: there is no gap to close.")
            continue
        closed = []
        for page in own:
            unlike = differences(_comparable(erm[0].config), _comparable(page.config))
            if unlike:
                pair = f"{page.name} is not compared with {erm[0].name}"
                notes.append(f"{pair} in the gap closed: {unlike[0]}.")
            elif page is not erm[0]:
                gain = page.summary["results"][page.target]["accuracy"] - low
                closed.append(f"{page.name} {gain / (ceiling - low):+.2f}")
        if closed:
            notes.append(f"Gap from ERM to the teacher closed on {target}: {', '.join(closed)}.")
    if any(page.target for page in pages):
        notes.append(
            "One run is one seed. Differences within the intervals say nothing, and intervals do "
            "not cover what another seed would change."
        )
    return notes
