"""What a student's text space is worth: its classes as texts, other words, classes left out.

    python scripts/promptable.py digits
    python scripts/promptable.py pacs
    python scripts/promptable.py left-out

The first two read runs that are there (see docs/asking.md for how they were made); the third
trains a student of the digits without two of its classes. Nothing is chosen by what is printed.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scmd.config import load_config
from scmd.data.digits import NAMES
from scmd.data.folder import DomainImages, load_domains
from scmd.data.loader import evaluation_batches
from scmd.demo import demo_config, digits_folder
from scmd.deploy.classifier import load
from scmd.deploy.promptable import load_promptable, prompts_for, text_embeddings
from scmd.evaluate import EVALUATION_BATCH, accuracy, collect_logits
from scmd.loop import train
from scmd.losses import cross_modality_logits
from scmd.models.teacher import TeacherConfig, load_teacher

CPU = torch.device("cpu")
NUMERALS = {name: str(number) for number, name in enumerate(NAMES)}
FRENCH = {
    "zero": "zéro", "one": "un", "two": "deux", "three": "trois", "four": "quatre",
    "five": "cinq", "six": "six", "seven": "sept", "eight": "huit", "nine": "neuf",
}  # fmt: skip
WORDS: dict[str, dict[str, Callable[[str], str]]] = {
    "digits": {
        "trained names": str,
        "the number seven": lambda name: f"the number {name}",
        "a handwritten seven": lambda name: f"a handwritten {name}",
        "numerals: 7": NUMERALS.__getitem__,
        "French: sept": FRENCH.__getitem__,
    },
    "pacs": {
        "trained names": str,
        "a drawing of a dog": lambda name: f"a drawing of a {name}",
        "near words: puppy, pony, ...": {
            "dog": "puppy", "elephant": "mammoth", "giraffe": "okapi", "guitar": "violin",
            "horse": "pony", "house": "building", "person": "human",
        }.__getitem__,
        "descriptions": {
            "dog": "a pet that barks", "elephant": "a big grey animal with a trunk",
            "giraffe": "a tall animal with a long neck",
            "guitar": "a musical instrument with strings", "horse": "an animal that people ride",
            "house": "a building to live in", "person": "a human",
        }.__getitem__,
    },
}  # fmt: skip
PAIRS = tuple(zip(NAMES[::2], NAMES[1::2], strict=True))


class Views(NamedTuple):
    """What a student and its teacher make of the same images."""

    labels: Tensor
    head: Tensor
    """The student's class logits, [N, C]."""
    student: Callable[[Sequence[Sequence[str]]], Tensor]
    """From prompts of T texts to g · cos(P f(x), t), [N, T]."""
    teacher: Callable[[Sequence[Sequence[str]]], Tensor]
    """The same of the teacher's image tower, without its scale."""
    trained: tuple[str, ...]


def main(
    what: tyro.conf.Positional[Literal["digits", "pacs", "left-out"]],
    runs: Path | None = None,
    out: Path = Path("runs/promptable"),
    pairs: int = 1,
    steps: int = 400,
    target: str = "photo",
    pattern: str = "*-scmd-*",
) -> None:
    """Measure, and print a table.

    Args:
        what: Which.
        runs: Of digits and pacs, the folder of the runs.
        pattern: Of digits and pacs, which runs.
        out: Of left-out, where its students are kept.
        pairs: Of left-out, how many pairs of classes are left out in turn; 5 is all.
        steps: Of left-out, the students' steps.
        target: Of left-out, the held-out domain.
    """
    if what == "left-out":
        left_out(out, PAIRS[:pairs], steps, target)
    else:
        folder = runs or Path("runs", "digits-results" if what == "digits" else "pacs-standin")
        other_words(what, sorted(folder.glob(pattern)))


def other_words(what: str, runs: Sequence[Path]) -> None:
    """Accuracy on every target of the head, and of the texts, by the student and by the teacher."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        config = load_config(run / "config.toml")
        target = str(config.data.target)
        data = load_domains(config.data.path)
        views = look(run, data, target, config.teacher)
        found["student", "its classifier"][target].append(accuracy(views.head, views.labels))
        for name, word in WORDS[what].items():
            prompts = prompts_for([word(c) for c in views.trained], views.trained)
            for who, ask in (("student", views.student), ("teacher", views.teacher)):
                found[who, name][target].append(accuracy(ask(prompts), views.labels))
        print(f"{run.name}: measured", flush=True)
    targets = sorted({target for row in found.values() for target in row})
    table = Table(title=f"{what}: accuracy on the target, mean over its runs", box=SIMPLE)
    for name in ("", "texts", *targets, "mean"):
        table.add_column(name, justify="left" if name in ("", "texts") else "right")
    for (who, name), row in sorted(found.items(), key=lambda item: item[0][0]):
        means = [float(np.mean(row[target])) for target in targets]
        table.add_row(who, name, *(f"{mean:.3f}" for mean in (*means, np.mean(means))))
    Console().print(table)


def left_out(out: Path, pairs: Sequence[tuple[str, str]], steps: int, target: str) -> None:
    """Students that were trained without two classes, asked about all ten by text."""
    out.mkdir(parents=True, exist_ok=True)
    folder = digits_folder(out)
    data = load_domains(folder)
    table = Table(title=f"digits, target {target}: accuracy by text", box=SIMPLE)
    columns = (
        "left out", "", "left out, of ten", "left out, of the two", "trained, of ten",
        "trained, of eight", "trained, classifier",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right" if name not in columns[:2] else "left")
    rows: dict[str, list[list[float]]] = {"student": [], "teacher": []}
    for pair in pairs:
        manifest = out / f"without-{'-'.join(pair)}.csv"
        write_manifest(manifest, data, pair)
        run = out / f"{manifest.stem}-{target}-steps{steps}"
        config = demo_config("scmd", manifest, target, 0, steps)
        train(config, run, resume=run.exists(), console=Console(quiet=True))
        views = look(run, data, target, config.teacher)
        unseen = torch.tensor([data.classes[label] in pair for label in views.labels])
        for who, ask in (("student", views.student), ("teacher", views.teacher)):
            logits = ask(prompts_for(data.classes, views.trained))
            head = views.head if who == "student" else None
            rows[who].append(shares(logits, views, data.classes, unseen, pair, head))
            table.add_row(", ".join(pair), who, *map(cell, rows[who][-1]))
    if len(pairs) > 1:
        for who, values in rows.items():
            table.add_row("mean", who, *map(cell, np.mean(values, axis=0)))
    Console().print(table)


def cell(value: float) -> str:
    """Of a table; the teacher has no classifier."""
    return "" if np.isnan(value) else f"{value:.3f}"


def shares(
    logits: Tensor,
    views: Views,
    classes: Sequence[str],
    unseen: Tensor,
    pair: Sequence[str],
    head: Tensor | None,
) -> list[float]:
    """The table's numbers for one student, or for its teacher."""
    two = [classes.index(name) for name in pair]
    eight = [classes.index(name) for name in views.trained]

    def score(rows: Tensor, among: list[int], given: Tensor = logits) -> float:
        answers = torch.tensor(among)[given[rows][:, : len(among)].argmax(1)]
        return float((answers == views.labels[rows]).float().mean())

    return [
        score(unseen, list(range(len(classes)))),
        score(unseen, two, logits[:, two]),
        score(~unseen, list(range(len(classes)))),
        score(~unseen, eight, logits[:, eight]),
        score(~unseen, eight, head) if head is not None else float("nan"),
    ]


def look(run: Path, data: DomainImages, target: str, teacher: TeacherConfig) -> Views:
    """Embed a domain's images with a run's student and with its teacher."""
    rows = data.rows(target)
    student = load(run)
    text = load_promptable(run, student.classes)
    batches = evaluation_batches(data, rows, student.image_size, EVALUATION_BATCH, 0)
    with torch.inference_mode():
        features = collect_logits(student.backbone, batches, CPU)
        head, projected = student.classifier(features), text.projection(features)
    seen = seen_by(teacher, data.source, target)
    return Views(
        torch.from_numpy(data.labels[rows]).long(),
        head,
        lambda p: cross_modality_logits(
            projected, text_embeddings(teacher.name, p), text.log_scale.exp()
        ).detach(),
        lambda p: seen @ text_embeddings(teacher.name, p).T,
        student.classes,
    )


@cache
def seen_by(config: TeacherConfig, source: Path, target: str) -> Tensor:
    """The teacher's embeddings of a domain's images; the same for all runs."""
    data = load_domains(source)
    teacher = load_teacher(config, data.classes)
    batches = evaluation_batches(
        data, data.rows(target), teacher.image_size, EVALUATION_BATCH, 0, teacher.preprocess
    )
    return collect_logits(teacher.normalized_embeddings, batches, CPU)


def write_manifest(file: Path, data: DomainImages, without: Sequence[str]) -> None:
    """The data set without some of its classes."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("path", "domain", "class"))
        for sample in map(data.__getitem__, range(len(data))):
            if sample.class_name not in without:
                writer.writerow((sample.path.resolve(), sample.domain, sample.class_name))


if __name__ == "__main__":
    tyro.cli(main)
