"""The evidence: what its files say, how numbers are kept, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import found, running, sureness
from experiments.figures import budget as draw_budget
from experiments.figures import gradient_samples
from experiments.found import Found
from experiments.methods import OWN
from experiments.page import fill
from experiments.plan import Experiment, Row, Run, load, names
from experiments.running import Place
from experiments.tables import chosen, complete, over_domains, pairs, table
from scmd.averaging import AverageConfig
from scmd.files import write_json
from scmd.methods import METHODS
from scmd.models.pretrained import EMBEDDED


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here: other tests go through all methods of the package."""
    for name, method in OWN.items():
        monkeypatch.setitem(METHODS, name, method)


def toy_experiment(*rows: Row) -> Experiment:
    targets = ("chalk", "ink")
    settings = {"data": {"path": "@digits"}}
    return Experiment("toy", "Toy", targets, 2, rows, settings, baselines=("ERM",))


def lines_of(experiment: Experiment, accuracy: float = 0.5) -> list[Found]:
    return [
        Found(run.row.name, run.choice, run.target, run.seed, accuracy, 0.9, 10, 1.0, run.digest)
        for run in experiment.all_runs()
    ]


# What the files say.


@pytest.mark.parametrize("name", names())
def test_every_file_is_a_plan_of_runs_that_differ(name: str) -> None:
    experiment = load(name)
    runs = experiment.runs(experiment.targets[0], 0)
    digests = [run.digest for run in runs]
    for place, run in enumerate(runs):
        assert run.target == experiment.targets[0]
        same = [runs[other] for other in range(place) if digests[other] == digests[place]]
        # Of a row with choices one may be another row's.
        assert all(len(run.row.choices) > 1 or len(other.row.choices) > 1 for other in same)
        for end in (run.row.erm, run.row.teacher):
            assert end is None or end in {row.name for row in experiment.rows}


def test_quick_experiments_need_no_other_data() -> None:
    quick = [load(name) for name in names() if load(name).quick]
    assert quick
    for experiment in quick:
        for run in experiment.runs(experiment.targets[0], 0):
            assert run.config.data.path == "@digits"
            assert run.config.teacher.name == EMBEDDED


def test_a_digest_depends_on_settings_that_have_an_effect_only() -> None:
    run = toy_experiment(Row("ERM", "erm")).all_runs()[0]
    training = run.config.training
    same = replace(run.config, training=replace(training, workers=7, device="cpu"))
    other = replace(run.config, training=replace(training, steps=7))
    assert replace(run, config=same).digest == run.digest
    assert replace(run, config=other).digest != run.digest
    averages = [
        (AverageConfig("none", ema_decay=0.9), AverageConfig("none", ema_decay=0.98), True),
        (AverageConfig("ema", ema_decay=0.9), AverageConfig("ema", ema_decay=0.98), False),
    ]
    for *both, equal in averages:
        one, two = (replace(run, config=replace(run.config, average=a)) for a in both)
        assert (one.digest == two.digest) == equal


# How numbers are kept.


def test_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    lines = lines_of(toy_experiment(Row("ERM", "erm")))
    found.add(tmp_path / "toy.csv", lines[2:], tmp_path)
    found.add(tmp_path / "toy.csv", lines[:2], tmp_path)
    assert found.read(tmp_path / "toy.csv") == sorted(lines)


def test_a_run_has_one_line_the_last_one(tmp_path: Path) -> None:
    line = lines_of(toy_experiment(Row("ERM", "erm")))[0]
    for accuracy in (0.25, 0.75):
        found.add(tmp_path / "toy.csv", [replace(line, accuracy=accuracy)], tmp_path)
    assert [x.accuracy for x in found.read(tmp_path / "toy.csv")] == [0.75]


def test_numbers_that_came_anew_are_compared_with_those_that_are_kept() -> None:
    lines = lines_of(toy_experiment(Row("ERM", "erm")))
    assert found.compared([], lines) == "nothing to compare with"
    assert found.compared(lines, lines) == "4 of 4 as kept, largest difference 0.000"
    other = [replace(lines[0], accuracy=0.75), replace(lines[1], config="another"), lines[2]]
    assert found.compared(lines, other) == "1 of 2 as kept, largest difference 0.250"


def test_a_run_of_two_experiments_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the settings says that it is one."""
    other = [replace(line, accuracy=0.5) for line in lines_of(load("digits-main"))]
    found.add(tmp_path / "found" / "digits-main.csv", other, tmp_path)
    trained: list[str] = []

    def train(run: Run, *_: object) -> Found:
        trained.append(run.row.name)
        return Found(run.row.name, run.choice, run.target, run.seed, 0.1, 0.9, 1, 1.0, run.digest)

    monkeypatch.setattr(running, "_found", train)
    wanted = load("digits-tuned").runs("ink", 1)
    assert running.run_all(["digits-tuned"], "ink", 1, Place(tmp_path)) == len(wanted)
    lines = found.read(tmp_path / "found" / "digits-tuned.csv")
    assert (
        len(trained) == len(wanted) - 5
    )  # the teacher, and four methods with the preset's settings
    assert sum(line.accuracy == 0.5 for line in lines) == 5
    kept = tmp_path / "kept"
    assert running.keep("digits-tuned", Place(tmp_path), kept) == "nothing to compare with"
    assert found.read(kept / "digits-tuned.csv") == lines


def test_a_finished_run_is_read_and_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has the digest; a setting without effect may be another than it was."""
    monkeypatch.setattr(running, "train", None)
    summary = {
        "model_selection": {"holdout_accuracy": 0.9, "step": 3},
        "results": {"ink": {"accuracy": 0.6}},
        "training_seconds": 1.0,
    }
    experiment = toy_experiment(Row("ERM", "erm", {"average": {"average": "swad"}}))
    monkeypatch.setattr(running, "load", lambda _: experiment)
    (run,) = experiment.runs("ink", 0)
    folder = tmp_path / "runs" / run.folder
    folder.mkdir(parents=True)
    write_json(folder / "summary.json", summary)
    assert running.run_all(["toy"], "ink", 0, Place(tmp_path)) == 1
    (line,) = found.read(tmp_path / "found" / "toy.csv")
    assert (line.accuracy, line.holdout, line.step) == (0.6, 0.9, 3)


def test_measures_are_read_as_they_were_written(tmp_path: Path) -> None:
    known = {("toy", "SCMD", "ink", seed): {"kept": 0.5, "right": 0.25 * seed} for seed in range(2)}
    found.write_measures(tmp_path / "measures.csv", known)
    assert found.read_measures(tmp_path / "measures.csv") == known
    found.write_measures(tmp_path / "none.csv", {})
    assert found.read_measures(tmp_path / "none.csv") == {}


def test_numbers_of_other_settings_do_not_count() -> None:
    before = toy_experiment(Row("ERM", "erm"))
    after = toy_experiment(Row("ERM", "erm", {"hparams": {"lr": 0.5}}))
    there, missing = found.current(after, lines_of(before))
    assert not there
    assert len(missing) == 4


def test_a_choice_is_made_by_the_sources_and_not_by_the_target() -> None:
    choices = ({"hparams": {"lr": 0.1}}, {"hparams": {"lr": 0.2}})
    experiment = toy_experiment(Row("ERM", "erm", choices=choices))
    lines = [
        replace(line, holdout=0.9 - 0.1 * line.choice, accuracy=0.2 + 0.5 * line.choice)
        for line in lines_of(experiment)
    ]
    assert set(chosen(experiment, lines).accuracy.values()) == {0.2}


def test_a_pair_is_tested_as_one_row_against_its_baseline_is() -> None:
    rows = (Row("ERM", "erm"), Row("KD", "kd"))
    experiment = replace(toy_experiment(*rows), baselines=("ERM",), pairs=(("KD", "ERM"),))
    lines = [
        replace(line, accuracy=0.5 + (line.row == "KD") * (0.1 + 0.02 * line.seed))
        for line in lines_of(experiment)
    ]
    made = pairs(experiment, lines)
    assert made is not None
    beside = table(experiment, lines)
    assert made.rows == [["KD − ERM", *beside.rows[1][-2:]]]
    assert pairs(replace(experiment, pairs=()), lines) is None


def test_with_the_domain_as_unit_seeds_count_for_nothing() -> None:
    experiment = replace(toy_experiment(Row("ERM", "erm"), Row("KD", "kd")), over_domains=True)
    gain = {"chalk": 0.1, "ink": 0.2}
    lines = [
        replace(line, accuracy=0.5 + gain[line.target] + line.seed / 100)
        if line.row == "KD"
        else line
        for line in lines_of(experiment)
    ]
    made = over_domains(experiment, lines)
    assert made is not None
    # 10.5 and 20.5 points: a mean of 15.5, and 12.706 · 7.071 / √2 around it
    assert made.rows == [["ERM", ""], ["KD", "+15.5 ± 63.5"]]
    assert over_domains(replace(experiment, over_domains=False), lines) is None


def test_a_table_says_what_is_missing() -> None:
    experiment = toy_experiment(Row("ERM", "erm"), Row("KD", "kd"))
    lines = lines_of(experiment)
    assert not any("MISSING" in note for note in table(experiment, lines).notes)
    assert any("MISSING: 1 of 8" in note for note in table(experiment, lines[1:]).notes)


def test_a_page_changes_within_its_places_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- made by make results: one -->\nold\n<!-- end -->\nb\n")
    for _ in range(2):
        assert fill(page, {"one": "new", "two": "other"}) == ["one"]
        text = page.read_text()
        assert text.startswith("a\n<!-- made by make results: one -->\n\nnew\n\n<!-- end -->")
        assert text.endswith("\nb\n")


def test_seeds_that_are_not_complete_are_left_out_where_one_is() -> None:
    experiment = toy_experiment(Row("ERM", "erm"), Row("KD", "kd"))
    lines = lines_of(experiment)
    less = [line for line in lines if (line.row, line.target, line.seed) != ("KD", "ink", 1)]
    assert {line.seed for line in complete(experiment, less)} == {0}
    assert complete(experiment, less[:1]) == less[:1]


def test_a_teacher_is_not_tested() -> None:
    experiment = toy_experiment(Row("ERM", "erm"), Row("KD", "kd"), Row("zero", "zero-shot"))
    lines = [
        replace(line, accuracy=line.accuracy + 0.1 * (line.row == "KD") * (1 + line.seed))
        for line in lines_of(experiment)
    ]
    rows = {row[0]: row[1:] for row in table(experiment, lines).rows}
    assert rows["zero"][-2:] == ["", ""]
    alone = toy_experiment(*experiment.rows[:2])
    assert rows["KD"][-1] == {r[0]: r for r in table(alone, lines).rows}["KD"][-1]


def test_a_gradient_is_computed_of_as_many_samples_as_steps_and_selection_say() -> None:
    runs = {run.row.name: run for run in load("digits-budget").runs("chalk", 0)}
    assert gradient_samples(runs["ρ 1, 250 steps"]) == 250 * 48
    # Beside 250 steps on whole batches: as many, to half of a per cent.
    for name in ("ρ 0.5, 400 steps", "ρ 0.2, 625 steps"):
        assert abs(gradient_samples(runs[name]) / (250 * 48) - 1) < 0.005


def test_figures_are_drawn_of_the_seeds_that_have_all_their_runs(tmp_path: Path) -> None:
    experiment = load("digits-budget")
    first, *_, last = range(experiment.seeds)
    full = [line for line in lines_of(experiment, 0.5) if line.seed == first]
    lacking = [line for line in lines_of(experiment, 0.9) if line.seed == last][1:]
    file = tmp_path / "digits-budget.csv"
    found.add(file, lacking, tmp_path)
    assert draw_budget(tmp_path) is None
    found.add(file, full, tmp_path)
    figure = draw_budget(tmp_path)
    assert figure is not None
    heights = {float(y) for line in figure.axes[0].get_lines() for y in np.ravel(line.get_ydata())}
    assert heights == {0.5}


def test_a_sure_teacher_leaves_little_and_a_teacher_that_is_too_sure_is_found_out() -> None:
    labels = torch.arange(4).repeat(50)
    logits = torch.nn.functional.one_hot(labels, 4).float()
    sure, unsure = (sureness.measured(scale * logits, labels) for scale in (30.0, 3.0))
    assert sure["left"] < 0.001 < unsure["left"]
    assert unsure["ratio"] == pytest.approx(1 / 3)
    wrong = labels.clone()
    wrong[::10] = (labels[::10] + 1) % 4
    found = sureness.measured(30.0 * logits, wrong)
    assert found["right"] == pytest.approx(0.9)
    # Where a tenth is wrong, the likeliest temperature gives each class that has not won p / 3.
    won = (30.0 / torch.tensor(found["temperature"]) * logits[:1]).softmax(-1).max()
    assert won.item() == pytest.approx(0.9, abs=0.01)


def test_a_teacher_is_asked_once_and_only_where_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(sureness, "_asked", lambda run, _: asked.append(run.target) or {"right": 1})
    known: found.Measures = {}
    for _ in range(2):
        sureness.update(known, Place(tmp_path))
    assert len(asked) == len(known) == 8  # the embedded one: of two experiments, four domains
    assert not any("pacs" in experiment for experiment, *_ in known)
