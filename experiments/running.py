"""Train what an experiment's file says and is not there yet."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from experiments import found
from experiments.found import Found
from experiments.materials import Materials
from experiments.methods import register
from experiments.plan import KEPT, Experiment, Run, load
from scmd.cache import Shared
from scmd.data.folder import load_domains
from scmd.deploy.evaluate import evaluate_teacher
from scmd.files import read_json, write_json
from scmd.loop import train
from scmd.machine import keep_memory
from scmd.run_folder import CHECKPOINTS, SUMMARY


@dataclass(frozen=True)
class Place:
    """Where things are read and written."""

    runs: Path
    """Folders of runs, what they are made of, and their numbers."""
    pacs: Path | None = None
    weights: Path | None = None

    @property
    def materials(self) -> Materials:
        """Data sets and teachers."""
        return Materials(self.runs / "materials", self.pacs, self.weights)

    @property
    def found(self) -> Path:
        """The numbers of the runs."""
        return self.runs / "found"

    def file(self, name: str) -> Path:
        """Of an experiment's numbers."""
        return self.found / f"{name}.csv"


def keep(name: str, place: Place, kept: Path = KEPT) -> str:
    """Put an experiment's numbers with those that are kept with the code, over those of old.

    Returns:
        How they are beside those of old, in words.
    """
    experiment, file = load(name), kept / f"{name}.csv"
    new, _ = found.current(experiment, found.read(place.file(name)))
    said = found.compared(found.read(file), new)
    found.add(file, new, place.runs / ".found")
    return said


def run_all(names: Sequence[str], target: str, seed: int, place: Place) -> int:
    """Train all rows of some experiments on a target with a seed, and write their numbers down.

    They share batches and teachers. Stopped at any moment and started again, it goes on where it
    was, with the same result to the bit.

    Returns:
        How many runs were not there before.
    """
    register()
    keep_memory()
    shared = Shared(2 * 10**9)
    return sum(_run_group(load(name), target, seed, place, shared) for name in names)


def _run_group(experiment: Experiment, target: str, seed: int, place: Place, shared: Shared) -> int:
    name = experiment.name
    there, _ = found.current(experiment, found.read(place.file(name)))
    done = {line.key for line in there}
    elsewhere = found.same_runs(place.found)
    new = []
    for run in experiment.runs(target, seed):
        if (run.row.name, run.choice, target, seed) not in done:
            known = elsewhere.get((run.digest, target, seed))
            if known is not None:
                line = replace(known, row=run.row.name, choice=run.choice)
            else:
                line = _found(run, place, shared)
            new.append(line)
            found.add(place.file(name), new[-1:], place.runs / ".found")
            print(f"{name}: {target} seed {seed} {line.row}: {line.accuracy:.3f}", flush=True)
    return len(new)


def groups(experiment: Experiment, place: Place) -> list[tuple[str, int]]:
    """Targets with seeds of which something is missing, in the order of training."""
    _, missing = found.current(experiment, found.read(place.file(experiment.name)))
    return list(dict.fromkeys((run.target, run.seed) for run in missing))


def _found(run: Run, place: Place, shared: Shared) -> Found:
    config = place.materials.resolve(run.config)
    if run.reference:
        accuracy = _zero_shot(run, place)
        return Found(
            run.row.name, run.choice, run.target, run.seed, accuracy, 0.0, 0, 0.0, run.digest
        )
    folder = place.runs / "runs" / run.folder
    if finished(run, place):  # perhaps with other settings that have no effect on it
        summary = read_json(folder / SUMMARY)
    else:
        summary = train(config, folder, folder.exists(), Console(quiet=True), shared)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    choice = summary["model_selection"]
    return Found(
        run.row.name, run.choice, run.target, run.seed,
        summary["results"][run.target]["accuracy"], choice["holdout_accuracy"], choice["step"],
        summary["training_seconds"], run.digest,
    )  # fmt: skip


def _zero_shot(run: Run, place: Place) -> float:
    """The teacher's accuracy on a target, through its own transform; asked once for all."""
    file = place.runs / "zero-shot" / f"{run.digest}.json"
    if not file.exists():
        config = place.materials.resolve(run.config)
        data = load_domains(config.data.path, one_is_enough=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        results = evaluate_teacher(config.teacher, data, workers=0)["results"]
        write_json(file, {domain: result["accuracy"] for domain, result in results.items()})
    return read_json(file)[run.target]


def finished(run: Run, place: Place) -> Path | None:
    """The folder of a run that has ended and is still on the disk."""
    folder = place.runs / "runs" / run.folder
    return folder if (folder / SUMMARY).exists() else None
