"""Train what is missing and print the tables: ``python -m experiments``, or ``make results``.

    python -m experiments                     the quick ones: 224 runs
    python -m experiments --all               every experiment on the digits: many hours
    python -m experiments pacs-standin --pacs FOLDER --weights FILE
    python -m experiments --report-only       the tables, from the numbers in experiments/found

Numbers go to runs/evidence/found as they come, and over those in experiments/found in the
end; how they are beside those is said. It can be killed at any moment and started
again. With OMP_NUM_THREADS=1 two processes share two cores.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import tyro

from experiments import found, selected, sureness
from experiments.methods import register
from experiments.page import fill
from experiments.plan import KEPT, load, names
from experiments.running import Place, groups, keep, run_all
from experiments.tables import choices_made, over_domains, pairs, table
from scmd.errors import ScmdError
from scmd.protocol.formats import render
from scmd.protocol.jobs import stop_with_parent

ELSEWHERE = ("pacs", "gpu")
"""How the names of experiments begin that need more than the embedded digits."""


def main(
    experiments: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    all: bool = False,
    report_only: bool = False,
    processes: int = 1,
    seeds: int | None = None,
    runs: Path = Path("runs/evidence"),
    page: Path | None = None,
    pacs: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Run what is missing of some experiments, then print their tables.

    Args:
        experiments: Their names, in order. Default: the quick ones; to report, all with numbers.
        all: All that need no data but the embedded digits.
        report_only: Run nothing.
        processes: So many targets and seeds side by side.
        seeds: Run only the first so many seeds.
        runs: Where runs are kept.
        page: A page of the documentation to put the tables into.
        pacs: The folder of PACS.
        weights: ImageNet weights of timm's mobilenetv2_100 (mean and std 0.5, pad_type=same).
    """
    register()
    place = Place(runs, pacs, weights)
    chosen = experiments or tuple(_default(all or report_only, report_only))
    began = time.perf_counter()
    if not report_only:
        of_quick = {name: load(name).quick for name in chosen if not (all or experiments)}
        first = {name: of_quick.get(name) if seeds is None else seeds for name in chosen}
        _run(first, place, processes)
        for name in chosen:
            print(f"{name}: {keep(name, place)}")
        print(f"trained for {(time.perf_counter() - began) / 60:.0f} minutes")
    texts = {}
    for name in chosen:
        experiment, lines = load(name), found.read(KEPT / f"{name}.csv")
        if lines:
            makers = (table, pairs, over_domains, choices_made)
            tables = [made for make in makers if (made := make(experiment, lines))]
            texts[name] = render(tables, "markdown")
            print(render(tables, "text"))
    if not experiments:
        for measures in (selected, sureness):
            name = measures.__name__.rpartition(".")[2]
            file = KEPT / f"{name}.csv"
            known = found.read_measures(file)
            if not report_only:
                measures.update(known, place)
                found.write_measures(file, known)
            if known:
                texts[name] = render([measures.table(known)], "markdown")
                print(render([measures.table(known)], "text"))
    if page:
        print(f"{page}: filled {', '.join(fill(page, texts)) or 'nothing'}")


def _default(all_of_digits: bool, everything: bool) -> list[str]:
    usual = [name for name in names() if everything or not name.startswith(ELSEWHERE)]
    return [name for name in usual if all_of_digits or load(name).quick]


def _run(chosen: Mapping[str, int | None], place: Place, processes: int) -> None:
    """Train, of each experiment, the first so many seeds; None: all of them."""
    names_of: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name, seeds in chosen.items():
        experiment = load(name)
        for run in experiment.runs(experiment.targets[0], 0):
            place.materials.resolve(run.config)  # made once, before processes want it
        for target, seed in groups(experiment, place):
            if seeds is None or seed < seeds:
                names_of[seed, target].append(name)
    tasks = [(names_of[key], key[1], key[0], place) for key in sorted(names_of)]
    if processes == 1:
        for task in tasks:
            run_all(*task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, stop_with_parent) as pool:
        for future in [pool.submit(run_all, *task) for task in tasks]:
            future.result()


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except ScmdError as error:
        sys.exit(f"error: {error}")
