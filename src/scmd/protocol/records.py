"""What finished runs say about themselves, read for tables."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmd.config import RunConfig, differences, load_config
from scmd.errors import ScmdError
from scmd.finished import read_log, read_plan, read_summary
from scmd.methods import METHODS
from scmd.protocol.plan import REFERENCES, SOUP
from scmd.protocol.runner import DONE, PLAN
from scmd.run_folder import CONFIG, SUMMARY


@dataclass(frozen=True)
class Record:
    """A finished run."""

    folder: Path
    label: str
    draw: int
    config: RunConfig
    lines: list[dict[str, Any]]
    """The lines of its log that score the holdout, in the order of steps."""
    summary: dict[str, Any]

    @property
    def data(self) -> str:
        """The data set's folder or manifest."""
        return str(Path(self.config.data.path).resolve())

    @property
    def target(self) -> str:
        """The domain that is measured."""
        return self.config.data.target or ""

    @property
    def held_out(self) -> frozenset[str]:
        """All domains that it was not trained on: the target, or a pair."""
        return frozenset((self.target, *self.config.data.also_held_out))

    @property
    def trial(self) -> int:
        """The trial seed."""
        return self.config.training.seed

    def line(self, step: int) -> dict[str, Any] | None:
        """What was scored after a step."""
        return next((line for line in self.lines if line["step"] == step), None)


def check_comparison_folder(out: Path) -> None:
    """Raise a ScmdError if a folder holds anything but a comparison, or a damaged plan."""
    if out.is_file():
        raise ScmdError(f"{out} is a file. Choose another --out")
    if (out / PLAN).exists():
        read_plan(out / PLAN)
    elif not out.is_dir():
        return
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise ScmdError(f"{out} is not empty and holds no comparison. Choose another --out")


def read_runs(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Read the finished runs of comparisons, and single runs.

    Args:
        folders: Folders of ``scmd protocol`` or of ``scmd train``.

    Returns:
        The records, and the names of planned runs that are not finished.

    Raises:
        ScmdError: A folder is neither, or a finished run's files are damaged.
    """
    records: list[Record] = []
    unfinished: list[str] = []
    for folder in folders:
        if (folder / PLAN).exists():
            for name, planned in read_plan(folder / PLAN).items():
                if (folder / name / DONE).exists():
                    records.append(_read(folder / name, planned["label"], planned["draw"]))
                else:
                    unfinished.append(name)
        elif (folder / SUMMARY).exists():
            records.append(_read(folder, *_planned(folder)))
        elif (folder / CONFIG).exists():
            unfinished.append(folder.name)
        else:
            raise ScmdError(
                f"{folder} holds neither a comparison nor a run. Give a folder that scmd protocol "
                "or scmd train wrote"
            )
    return records, unfinished


def _planned(folder: Path) -> tuple[str | None, int]:
    """A single run's label and draw, where it is one of a comparison."""
    run = folder.resolve()
    file = run.parent / PLAN
    planned = read_plan(file).get(run.name) if file.exists() else None
    return (planned["label"], planned["draw"]) if planned else (None, 0)


def _read(folder: Path, label: str | None, draw: int) -> Record:
    config = load_config(folder / CONFIG)
    lines = [line for line in read_log(folder) if "holdout_accuracy" in line]
    if config.average.average == "swad":  # earlier lines are of the live weights
        lines = lines[-1:]
    summary = read_summary(folder, "tables", config.data.target)
    return Record(folder, label or config.method, draw, config, lines, summary)


def check_comparable(records: Sequence[Record]) -> list[str]:
    """What differs, besides method, hyper-parameters, domain and seed, among runs of one data set.

    An average that a label names is meant to differ. Of a reference, its teacher and images count.
    """
    students = [record for record in records if record.label not in REFERENCES]
    references = [record for record in records if record.label in REFERENCES]
    ordered = [*students, *references]
    found: dict[str, None] = {}
    plain = [record for record in students if "@" not in record.label]
    for record in ordered[1:]:
        first, other = (_common(r, (plain or ordered)[0], ordered[0]) for r in (ordered[0], record))
        for difference in differences(first, other):
            found[f"{difference} ({ordered[0].label}, {record.label})"] = None
    counts: dict[int, list[str]] = {}
    # A soup is of the draws that were chosen.
    for label in dict.fromkeys(r.label for r in students if not r.label.endswith(SOUP)):
        own = [record for record in students if record.label == label]
        counts.setdefault(_number_of_draws(own), []).append(label)
    if len(counts) > 1:
        said = "; ".join(f"{n} for {', '.join(labels)}" for n, labels in counts.items())
        found[f"draws of hyper-parameters: {said}"] = None
    return list(found)


def _number_of_draws(records: Sequence[Record]) -> int:
    """Of one label: the defaults are the same in all trials, what is drawn is of a trial."""
    defaults = {repr(record.config.hparams) for record in records if record.draw == 0}
    drawn = {(r.trial, r.draw, repr(r.config.hparams)) for r in records if r.draw > 0}
    return len(defaults) + max(Counter(trial for trial, *_ in drawn).values(), default=0)


def _common(record: Record, plain: Record, first: Record) -> RunConfig:
    """What has to be alike; what may differ is ``plain``'s average, of references ``first``'s."""
    config = record.config
    if record.label in REFERENCES:
        images = {n: getattr(config.data, n) for n in ("path", "classes", "holdout", "skip_bad")}
        data = dataclasses.replace(first.config.data, **images)
        first_teacher = first.config.teacher  # a reference is asked about clean images anyway
        teacher = dataclasses.replace(
            config.teacher, view=first_teacher.view, views=first_teacher.views
        )
        config = dataclasses.replace(first.config, data=data, teacher=teacher)
    named = "@" in record.label or record.label in REFERENCES
    return dataclasses.replace(
        config,
        method="erm",
        hparams=METHODS["erm"].Config(),
        data=dataclasses.replace(config.data, target=None, also_held_out=()),
        training=dataclasses.replace(config.training, seed=0, score_held_out=False),
        average=plain.config.average if named else config.average,
    )
