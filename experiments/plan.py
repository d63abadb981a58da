"""From an experiment's TOML file to the configuration of every run.

A file has a ``title``, the held-out ``targets``, a number of ``seeds``, ``settings`` of all runs
and a list ``row``: each a row of the table, with its own ``method`` and ``settings``. A row with
``choices``, a list of settings, has as many runs for each target and seed; the choice with the best
mean accuracy on the sources' holdout is what the table shows, for each target by its own sources.
Names that begin with @ are files that ``materials`` makes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from scmd.config import RunConfig, config_from
from scmd.errors import ScmdError
from scmd.toml_tables import flatten, merge, plain, read_toml

HERE = Path(__file__).parent
KEPT = HERE / "found"
"""The numbers that are kept with the code."""
ZERO_SHOT = "zero-shot"
_HOW_IT_RUNS = ("data.decode_once", "training.workers", "training.device", "training.tracker")
_KNOWN = {
    "title", "say", "data", "preset", "targets", "seeds", "quick", "baselines", "pairs",
    "over_domains", "erm", "teacher", "settings", "row",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[Mapping[str, Any], ...] = ({},)
    erm: str | None = None
    """The row that the gap is counted from, where it is another than the table's."""
    teacher: str | None = None
    """The row that the gap is counted to."""


@dataclass(frozen=True)
class Run:
    """One run: a row's choice on a target with a seed."""

    row: Row
    choice: int
    config: RunConfig
    """With names that begin with @."""

    @property
    def target(self) -> str:
        """The held-out domain."""
        return self.config.data.target or ""

    @property
    def seed(self) -> int:
        """The trial seed."""
        return self.config.training.seed

    @property
    def reference(self) -> bool:
        """Whether it is the teacher itself, and trains no student."""
        return self.row.method == ZERO_SHOT

    @property
    def digest(self) -> str:
        """Of everything that the result depends on and that is not a default.

        Only what is not, so that a new setting of the package leaves the old numbers valid.
        """
        what = _without_defaults(self.config)
        if self.reference:
            teacher = {k: v for k, v in what.items() if k.startswith("teacher.")}
            what = {"reference": True, "data.path": self.config.data.path, **teacher}
        text = json.dumps(what, sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=6).hexdigest()

    @property
    def folder(self) -> str:
        """Its place among all runs: the same run of two experiments is trained once."""
        return f"{self.target}-{self.config.method}-seed{self.seed}-{self.digest}"


@dataclass(frozen=True)
class Experiment:
    """A table and its runs."""

    name: str
    title: str
    targets: tuple[str, ...]
    seeds: int
    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    preset: str = "digits"
    say: tuple[str, ...] = ()
    """Notes below the table."""
    quick: int = 0
    """Of so many seeds ``make results`` trains it without being asked for more."""
    baselines: tuple[str, ...] = ()
    """Rows that all others are tested against."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Rows that are tested one against another."""
    over_domains: bool = False
    """Whether they are tested with the held-out domain as the unit, too."""
    erm: str = "ERM"
    """The row that the gap is counted from."""
    teacher: str = "teacher, zero-shot"
    """The row that the gap is counted to."""

    def runs(self, target: str, seed: int) -> list[Run]:
        """All rows with all their choices."""
        return [
            Run(
                row,
                number,
                replace(
                    config,
                    data=replace(config.data, target=target),
                    training=replace(config.training, seed=seed, workers=0),
                ),
            )
            for row, number, config in self._configs
        ]

    def all_runs(self) -> list[Run]:
        """In the order in which they are trained: seeds outside, so that every seed completes."""
        return [
            run
            for seed in range(self.seeds)
            for target in self.targets
            for run in self.runs(target, seed)
        ]

    @cached_property
    def _configs(self) -> list[tuple[Row, int, RunConfig]]:
        """Per row and choice its configuration, without target and seed."""
        found: list[tuple[Row, int, RunConfig]] = []
        for row in self.rows:
            method = "erm" if row.method == ZERO_SHOT else row.method
            where = f"experiments/{self.name}.toml, row {row.name!r}: "
            for number, choice in enumerate(row.choices):
                settings = merge(merge(self.settings, row.settings), choice)
                found.append((row, number, config_from(settings, self.preset, method, where)))
        return found


def load(name: str) -> Experiment:
    """Read ``experiments/NAME.toml``.

    Raises:
        ScmdError: There is none, or it says something that is not known.
    """
    file = HERE / f"{name}.toml"
    if not file.exists():
        known = ", ".join(names())
        raise ScmdError(f"there is no experiment {name!r}. Choose from {known}")
    given = read_toml(file)
    unknown = given.keys() - _KNOWN
    if unknown:
        raise ScmdError(f"{file}: {sorted(unknown)[0]!r} is not known")
    rows = tuple(_row(table, file) for table in given["row"])
    labels = [row.name for row in rows]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise ScmdError(f"{file}: two rows are called {twice.pop()!r}. Rename one of them")
    settings = merge({"data": {"path": f"@{given.get('data', 'digits')}"}}, given["settings"])
    experiment = Experiment(
        name, given["title"], tuple(given["targets"]), given["seeds"], rows, settings,
        given.get("preset", "digits"), tuple(given.get("say", ())), given.get("quick", 0),
        tuple(given.get("baselines", ())), tuple(map(tuple, given.get("pairs", ()))),
        given.get("over_domains", False),
        given.get("erm", "ERM"), given.get("teacher", "teacher, zero-shot"),
    )  # fmt: skip
    against = [*experiment.baselines, *chain.from_iterable(experiment.pairs)]
    missing = [label for label in against if label not in labels]
    if missing:
        raise ScmdError(f"{file}: {missing[0]!r}, to compare with, is no row")
    return experiment


def names() -> list[str]:
    """The experiments that there are."""
    return sorted(file.stem for file in HERE.glob("*.toml"))


def _row(table: Mapping[str, Any], file: Path) -> Row:
    try:
        values = {**table, "choices": tuple(table.get("choices", ({},)))}
        return Row(**values)
    except TypeError as error:
        raise ScmdError(f"{file}, row {table.get('name')!r}: {error}") from error


def _without_defaults(config: RunConfig) -> dict[str, Any]:
    values = flatten(plain(dataclasses.asdict(config)))
    default = RunConfig(method=config.method, hparams=type(config.hparams)())
    usual = flatten(plain(dataclasses.asdict(default)))
    decay = () if config.average.average == "ema" else ("average.ema_decay",)
    without_effect = (*_HOW_IT_RUNS, *decay)
    return {
        name: value
        for name, value in values.items()
        if name == "method" or (name not in without_effect and usual.get(name) != value)
    }
