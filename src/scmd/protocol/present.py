"""What ``scmd tables`` prints: every table of every data set, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from scmd.errors import ScmdError
from scmd.finished import seen_by_teacher
from scmd.protocol.formats import Format, Table, number, percent, render
from scmd.protocol.model_selection import RULES, SCORES, Chosen, Rule, Score, choose
from scmd.protocol.plan import REFERENCES, SOUP, labels
from scmd.protocol.records import Record, check_comparable, read_runs
from scmd.protocol.tables import MEAN, Grid, class_means, compare, gap_closed, grid

MOST_MISSING = 10
ROWS = ("baseline", "teacher")
"""The options that name a row."""


@dataclass(frozen=True)
class TablesConfig:
    """Which tables, of which runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of scmd protocol, or of scmd train."""
    selection: Rule = "training"
    """Which step and draw stand for a method; oracle is cheating."""
    score: Score = "whole"
    """All images of the target, or the 80 % that DomainBed scores."""
    format: Format = "text"
    """How to write them."""
    baseline: str = "erm"
    """What every other method is tested against, and where the gap to the teacher begins."""
    teacher: str = "zero-shot"
    """Where the gap to the teacher ends."""
    per_class: bool = False
    """Print the accuracy of every class, too."""
    ddof: int = 1
    """Of the standard errors; 0 is what DomainBed and the paper print."""
    mix: bool = False
    """Compare runs that differ in more than method, hyper-parameters, domain and seed."""

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise ScmdError(f"ddof = {self.ddof}: give 0 or 1")


def tables_of(config: TablesConfig) -> str:
    """All tables, as text in the format that is asked for. Raises as ``tables_for_page``."""
    return render(tables_for_page(config), config.format)


def tables_for_page(config: TablesConfig) -> list[Table]:
    """All tables, of every data set.

    Raises:
        ScmdError: No run is there, or runs of one table differ where they must not.
    """
    if not config.runs:
        raise ScmdError("no folder given. Name folders that scmd protocol or scmd train wrote")
    for name in (getattr(config, option) for option in ROWS):
        if labels(name) != [name]:
            raise ScmdError(f"{name!r} is not a single method. Choose one")
    records, unfinished = read_runs(config.runs)
    if not records:
        raise ScmdError(
            f"no finished run in {', '.join(map(str, config.runs))}. Let scmd protocol finish some"
        )
    rows = dict.fromkeys(r.label for r in records if not r.label.endswith(SOUP))
    _check_rows(config, list(rows))
    tables: list[Table] = []
    for data in dict.fromkeys(record.data for record in records):
        own = [record for record in records if record.data == data]
        differing = check_comparable(own)
        if differing and not config.mix:
            raise ScmdError(
                f"the runs on {data} are not like for like: {'; '.join(differing[:5])}. Give "
                "others, or let scmd tables put them into one with --mix"
            )
        tables += _tables_of_data(config, data, own, unfinished, differing)
    return tables


def _check_rows(config: TablesConfig, there: Sequence[str]) -> None:
    """A row that is named is there; those of the defaults need not be."""
    for option in ROWS:
        name = getattr(config, option)
        if name not in there and name != getattr(TablesConfig, option):
            raise ScmdError(
                f"--{option} {name}: no run of it is there. Choose from {', '.join(there)}"
            )


def _tables_of_data(
    config: TablesConfig,
    data: str,
    records: Sequence[Record],
    unfinished: Sequence[str],
    differing: Sequence[str],
) -> list[Table]:
    chosen, missing = choose(records, config.selection)
    if not chosen:
        raise ScmdError(f"nothing to show of {data}: {missing[0] if missing else 'no target'}")
    score: Score = "domainbed" if config.selection == "oracle" else config.score
    table = grid(chosen, score)
    name = Path(data).name
    if config.format == "csv":
        return [_long(config, name, table, score)]
    notes = [
        f"Accuracy in per cent on {SCORES[score]}; ± standard error over trials (ddof "
        f"{config.ddof}); in parentheses a 95 % interval by Student's t.",
        f"Selection: {RULES[config.selection]}.",
        *([f"NOT LIKE FOR LIKE: {'; '.join(differing[:5])}."] if differing else []),
        *_seen(chosen),
        *_gaps(missing, unfinished),
    ]
    main = Table(
        f"{name}: accuracy", ["", *table.targets, _mean_name(table), "trials"], notes=notes
    )
    for label in table.labels:
        cells = [percent(table.estimate(label, t, config.ddof)) for t in table.targets]
        mean = percent(table.estimate(label, MEAN, config.ddof), interval=True)
        main.rows.append([label, *cells, mean, _trials(table, label)])
    tables = [main]
    if config.baseline in table.labels and len(table.labels) > 1:
        tables.append(_tests(config, name, table))
        if config.teacher in table.labels:
            tables.append(_gap_table(config, name, table, _seen(chosen)))
    if config.per_class:
        tables += _class_tables(name, chosen)
    return tables


def _mean_name(table: Grid) -> str:
    return "mean of targets" if "mean" in table.targets else "mean"


def _trials(table: Grid, label: str) -> str:
    counts = [len(table.trials(label, target)) for target in table.targets]
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def _gaps(missing: Sequence[str], unfinished: Sequence[str]) -> list[str]:
    notes = []
    if unfinished:
        more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
        notes.append(
            f"MISSING: {len(unfinished)} planned runs are not finished "
            f"({', '.join(unfinished[:3])}{more}); means are over what is there."
        )
    notes += [f"MISSING: {line}." for line in missing[:MOST_MISSING]]
    if len(missing) > MOST_MISSING:
        notes.append(f"MISSING: {len(missing) - MOST_MISSING} more.")
    return notes


def _tests(config: TablesConfig, name: str, table: Grid) -> Table:
    tests = Table(
        f"{name}: difference from {config.baseline}",
        ["", "pairs", "difference", "95 % interval", "p", "p (Holm)"],
        notes=[
            "Percentage points, paired by target and trial seed; two-sided paired t-test; Holm's "
            "correction for the number of rows."
        ],
    )
    for row in compare(table, config.baseline):
        difference = row.difference
        low, high = (number(100 * v, 1, sign=True) for v in (difference.low, difference.high))
        mean = number(100 * difference.mean, 1, sign=True)
        interval = "–" if low == "–" else f"{low} to {high}"
        p_values = (number(row.p, 3), number(row.p_holm, 3))
        tests.rows.append([row.label, str(row.pairs), mean, interval, *p_values])
    return tests


def _seen(chosen: Sequence[Chosen]) -> list[str]:
    """Of which rows the teacher is no stranger to a target."""
    rows: dict[str, dict[str, None]] = {}
    for record in (choice.record for choice in chosen):
        for target in seen_by_teacher(record.summary, [record.target]):
            rows.setdefault(target, {})[record.label] = None
    return [
        f"NOT UNSEEN: the teacher of {', '.join(rows[target])} was fitted on images of {target}."
        for target in sorted(rows)
    ]


def _gap_table(config: TablesConfig, name: str, table: Grid, seen: Sequence[str]) -> Table:
    gaps = Table(
        f"{name}: gap closed",
        ["", *table.targets, _mean_name(table)],
        notes=[
            f"(method - {config.baseline}) / ({config.teacher} - {config.baseline}), of means over "
            "trials; – where the teacher is not above.",
            *seen,
        ],
    )
    for label in table.labels:
        if label not in (config.baseline, config.teacher):
            cells = (
                number(gap_closed(table, label, target, config.baseline, config.teacher), 2, True)
                for target in (*table.targets, MEAN)
            )
            gaps.rows.append([label, *cells])
    return gaps


def _class_tables(name: str, chosen: Sequence[Chosen]) -> list[Table]:
    means = class_means(chosen)
    classes = list(dict.fromkeys(c for result in means.values() for c in result))
    tables = []
    for target in sorted({target for _, target in means}):
        table = Table(
            f"{name}, target {target}: accuracy of every class", ["", *classes],
            notes=["On all images of the target, of the weights that each run deployed."],
        )  # fmt: skip
        for (label, domain), result in means.items():
            if domain == target:
                table.rows.append([label, *(percent(result.get(c)) for c in classes)])
        tables.append(table)
    return tables


def _long(config: TablesConfig, name: str, table: Grid, score: Score) -> Table:
    """A row per method and target, with all digits, for further use."""
    header = ["data", "method", "reference", "target", "score", "selection", "trials", "mean",
              "standard_error", "ddof", "interval_low", "interval_high"]  # fmt: skip
    long = Table(name, header)
    for label in table.labels:
        for target in (*table.targets, MEAN):
            estimate = table.estimate(label, target, config.ddof)
            if estimate is not None:
                numbers = (estimate.mean, estimate.error)
                interval = (estimate.low, estimate.high)
                long.rows.append(
                    [
                        name, label, str(label in REFERENCES).lower(),
                        target or _mean_name(table), score, config.selection,
                        str(estimate.n), *(f"{v:.6f}" for v in numbers), str(config.ddof),
                        *(f"{v:.6f}" for v in interval),
                    ]
                )  # fmt: skip
    return long
