"""The benchmark: the two sides do the same work, ours is not slower, and the tables are right."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scmd.bench.compare import Timings, compare, mixed, ratio
from scmd.bench.ours import Ours
from scmd.bench.predicting import Predictor
from scmd.bench.present import BEGIN, END, comparison_table, loader_table, table, write_between
from scmd.bench.processes import seconds_of_mean_step
from scmd.bench.reference import Reference, phases_of
from scmd.bench.run import BenchConfig
from scmd.bench.turns import Turn, side
from scmd.bench.work import Work, write_photographs
from scmd.errors import ScmdError

TEACHER = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    data = write_photographs(tmp_path_factory.mktemp("bench") / "photographs", 2, 2, 5)
    return Work(data, student="resnet18", teacher=TEACHER, batch_per_domain=5, workers=0)


def test_photographs_are_real_and_the_same_every_time(tmp_path: Path):
    for name in ("a", "b"):
        write_photographs(tmp_path / name, 2, 2, 1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jpg"))
    assert len(files) == 4
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    assert len({(tmp_path / "a" / f).read_bytes() for f in files}) == 4


def test_a_mean_step_is_the_mix_of_the_phases():
    assert Work(Path(), last_fraction=0.25).mix(1.0, 5.0) == 2.0
    assert phases_of(Work(Path(), last_fraction=0.25), 4) == ("select",) * 3 + ("whole",)
    times = Timings(select=[1.0, 2.0], whole=[5.0, 2.0])
    assert mixed(Work(Path()), times) == [2.0, 2.0]


def test_a_ratio_is_of_the_same_rounds():
    found = ratio([2.0, 4.0, 9.0], [1.0, 1.0, 3.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)
    assert str(found) == "3.00 (2.00 – 4.00)"


def test_both_sides_train_on_as_many_samples(work: Work):
    """Of a batch of 10 both keep 2, and with the same network, classes and teacher."""
    reference, ours = Reference(work), Ours(work)
    reference.step("select")
    kept = []
    forward = ours.runner.method.forward
    ours.runner.method.forward = lambda *a: kept.append(out := forward(*a)) or out  # type: ignore[method-assign,func-returns-value]
    ours.step("select")
    ours.step("whole")
    assert [int(output["kept"]) for output in kept] == [2, 10]  # type: ignore[arg-type]
    assert len(reference.labels) == len(ours.batch.labels) == 10
    ours_model = ours.runner.method.backbone.model
    assert isinstance(ours_model, torch.nn.Module)
    assert sum(p.numel() for p in reference.backbone.parameters()) == sum(
        p.numel() for p in ours_model.parameters()
    )
    assert reference.classes == list(ours.runner.roles.data.classes)
    assert all(torch.isfinite(p).all() for p in reference.network.parameters())


def test_ours_is_not_slower_than_the_reference(work: Work):
    """A wide margin: it is half as slow again on a quiet machine, and more with many classes."""
    data = write_photographs(work.data.parent / "many-classes", 2, 30, 5)
    its_work = replace(work, data=data)
    times = compare(its_work, 1, lambda _: None, more=False, same_allocator=False)
    found = ratio(mixed(its_work, times["reference"]), mixed(its_work, times["ours"]))
    assert found.median > 1.3
    page = comparison_table(its_work, 2, times)
    assert "mean step of a run" in page
    assert str(found) in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="each process needs a GPU of its own")
def test_two_processes_share_a_step(work: Work):
    assert seconds_of_mean_step(replace(work, batch_per_domain=4), 2) > 0


def test_predicting_classifies_every_picture(work: Work):
    assert Predictor(work).predict() == 20


class Failing:
    def step(self) -> None:
        raise ValueError("of its own")

    def die(self) -> None:
        import os

        os._exit(1)


def test_a_side_that_fails_says_why():
    with side("mine", Failing) as at_work, pytest.raises(RuntimeError, match="of its own"):
        at_work.turn("step")
    with side("mine", Failing) as at_work, pytest.raises(ScmdError, match="'mine' was killed"):
        at_work.turn("die")


class Counting:
    def __init__(self) -> None:
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        time.sleep(0.02)

    def count(self) -> int:
        return self.steps


def test_a_turn_of_many_calls_gives_the_time_of_one():
    with side("mine", Counting) as at_work:
        assert 0.02 <= at_work.turn("step", times=5).seconds < 0.1
        assert at_work.ask("count") == 5


def test_tables():
    assert table(["a", "b"], [["1", "2"], ["3"]]) == (
        "| a | b |\n| --- | ---: |\n| 1 | 2 |\n| 3 |  |\n"
    )
    turns = {"reference": [Turn(4.0, 8.0)], "ours": [Turn(2.0, 1.0)]}
    page = loader_table(8, turns)
    assert "| by the clock | 2 | 4 | 2.00 (2.00 – 2.00) |" in page
    assert "| per CPU second | 1 | 8 | 8.00 (8.00 – 8.00) |" in page


def test_what_was_written_by_hand_stays(tmp_path: Path):
    page = tmp_path / "page.md"
    write_between(page, "first")
    assert page.read_text() == f"# Benchmarks\n\n{BEGIN}\n\nfirst\n{END}\n"
    page.write_text(f"# Mine\n\nabove\n\n{BEGIN}\nold\n{END}\n\nbelow\n")
    write_between(page, "new")
    assert page.read_text() == f"# Mine\n\nabove\n\n{BEGIN}\n\nnew\n{END}\n\nbelow\n"
    page.write_text("# Mine\n")
    with pytest.raises(ScmdError, match="no lines"):
        write_between(page, "new")
    assert page.read_text() == "# Mine\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, "rounds = 0"),
        ({"students": ()}, "no student"),
        ({"students": ("resnet5",)}, "timm has no model 'resnet5'"),
        ({"data": Path("nowhere")}, "no such folder: nowhere"),
    ],
)
def test_what_cannot_be_timed_is_said_before_anything_runs(given: dict, message: str):
    with pytest.raises(ScmdError, match=message):
        BenchConfig(**given)


@pytest.mark.parametrize("field", ["batch_per_domain", "image_size"])
def test_bad_settings_are_said(field: str):
    with pytest.raises(ScmdError, match=f"{field} = 0"):
        replace(Work(Path()), **{field: 0})  # type: ignore[arg-type]
