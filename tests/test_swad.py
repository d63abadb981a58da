from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from test_loop import StopError, config_for, outcome
from torch import Tensor, nn

import scmd.loop as training
from scmd.averaging import Average, AverageConfig
from scmd.deploy.classifier import load
from scmd.errors import ScmdWarning
from scmd.loop import train
from scmd.stepping import Stepper
from scmd.swad import SWAD

QUIET = Console(quiet=True)


class Number(nn.Module):
    """One weight and one buffer, both the number of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def set(self, value: float) -> None:
        self.weight.data.fill_(value)
        self.get_buffer("seen").fill_(value)


class Walk:
    """Steps 1, 2, ... with an evaluation after each segment of so many steps."""

    def __init__(self, converge: int = 3, tolerance: int = 6, ratio: float = 0.3) -> None:
        self.swad, self.method = SWAD(converge, tolerance, ratio), Number()
        self.taken = 0
        self.segments: list[list[int]] = []

    def go(self, losses: list[float], steps: int = 2) -> Walk:
        for loss in losses:
            self.segments.append([])
            for _ in range(steps):
                self.taken += 1
                self.method.set(self.taken)
                self.swad.step(self.method)
                self.segments[-1].append(self.taken)
            self.swad.evaluated(loss, self.method)
        return self

    def averaged(self) -> list[int]:
        """The evaluations whose segments are averaged, as the mean and the number tell."""
        found = copy.deepcopy(self.swad).finish()
        mean, last = float(found.weights["weight"]), int(found.buffers["seen"])
        end = next(i for i, steps in enumerate(self.segments) if steps[-1] == last)
        for start in range(end + 1):
            steps = [step for segment in self.segments[start : end + 1] for step in segment]
            if len(steps) == found.steps:
                assert mean == pytest.approx(sum(steps) / len(steps))
                return list(range(start, end + 1))
        raise AssertionError("no row of segments has this number of steps")


def test_a_valley_is_found():
    # The smallest of three that begin with it: 2.0 at index 2. The limit is 1.3 · 2.1 = 2.73.
    losses = [5.0, 3.0, 2.0, 2.2, 2.1, 2.7, 2.8, 2.5, 3, 3, 3, 3, 3, 3, 2, 2]
    walk = Walk().go(losses)
    assert walk.swad.limit == pytest.approx(2.73)
    # Up to 2.5 at index 7, 2.8 included; after it, six in a row are above.
    assert walk.averaged() == [2, 3, 4, 5, 6, 7]
    assert walk.swad.ended


def test_a_valley_lasts_until_six_evaluations_in_a_row_are_above():
    start = [1.0, 1.0, 1.0]
    for above in range(5):
        walk = Walk().go([*start, *[9.0] * above, 1.0])
        assert walk.averaged() == list(range(4 + above))
    walk = Walk().go([*start, *[9.0] * 5])
    assert walk.averaged() == list(range(8))  # the run ends before the valley does
    walk = Walk().go([*start, *[9.0] * 6])
    assert walk.averaged() == [0, 1, 2]


def test_convergence_may_come_late():
    falling = [10.0 - i for i in range(9)]
    walk = Walk().go(falling)
    assert not walk.swad.begun
    walk.go([1.0, 2.0])
    assert not walk.swad.begun
    walk.go([1.0, 1.5])  # 1.0 at index 9 is the smallest of its three
    assert walk.swad.begun
    assert walk.averaged() == [9, 10, 11, 12]


def test_a_run_that_never_converges_has_its_last_segment():
    walk = Walk().go([5.0, 4.0, 3.0, 2.0, 1.0])
    assert not walk.swad.begun
    assert walk.averaged() == [4]


def test_the_first_evaluations_may_be_the_valley():
    assert Walk().go([1.0, 2.0, 3.0]).averaged() == [0, 1, 2]
    assert Walk(converge=1).go([1.0]).averaged() == [0]


def test_every_step_weighs_the_same_whatever_the_length_of_its_segment():
    walk = Walk(converge=2).go([1.0], steps=1).go([1.0], steps=5).go([1.1], steps=3)
    found = walk.swad.finish()
    assert found.steps == 9
    assert float(found.weights["weight"]) == pytest.approx(sum(range(1, 10)) / 9)


def test_the_buffers_are_those_at_the_end_of_the_valley():
    walk = Walk().go([1.0, 1.0, 1.0, *[9.0] * 8])
    assert int(walk.swad.finish().buffers["seen"]) == 6


def algorithm_1(losses: list[float], converge: int, tolerance: int, ratio: float) -> list[int]:
    """The evaluations in the valley, as the paper's algorithm has it, on a list."""
    start, limit = None, 0.0
    for i in range(converge - 1, len(losses)):
        if start is None:
            window = losses[i - converge + 1 : i + 1]
            if window[0] == min(window):
                start, limit = i - converge + 1, (1 + ratio) * sum(window) / converge
        elif limit < min(losses[max(0, i - tolerance + 1) : i + 1]):
            return list(range(start, i - tolerance + 1))
    return [len(losses) - 1] if start is None else list(range(start, len(losses)))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 8),
    st.sampled_from([0.1, 0.3, 1.0]),
)
@example([1, 9, 1, 1], 3, 1, 0.3)  # it does not end where it is not yet known to begin
@example([1, 1, 1, 9, 9], 4, 2, 0.3)  # what it begins with counts as what is above, too
def test_it_is_the_papers_algorithm(values: list[int], converge: int, tolerance: int, ratio: float):
    losses = [value + 0.01 for value in values]
    walk = Walk(converge, tolerance, ratio).go(losses)
    assert walk.averaged() == algorithm_1(losses, converge, tolerance, ratio)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(0, 19), st.booleans())
def test_a_state_dict_continues_to_the_bit(values: list[int], stop: int, in_segment: bool):
    losses = [float(value) for value in values]
    stop = min(stop, len(losses) - 1)
    whole = Walk(converge=2, tolerance=2).go(losses)
    first = Walk(converge=2, tolerance=2).go(losses[:stop])
    if in_segment:  # one step of the next segment is taken already
        first.method.set(first.taken + 1)
        first.swad.step(first.method)
    second = Walk(converge=2, tolerance=2)
    second.swad.load_state_dict(
        copy.deepcopy(first.swad.state_dict()), next(first.method.parameters()).device
    )
    second.taken = first.taken
    if in_segment:
        second.taken += 1
        second.method.set(second.taken + 1)
        second.swad.step(second.method)
        second.taken += 1
        second.swad.evaluated(losses[stop], second.method)
        stop += 1
    second.go(losses[stop:])
    found, expected = second.swad.finish(), whole.swad.finish()
    assert found.steps == expected.steps
    assert torch.equal(found.weights["weight"], expected.weights["weight"])
    assert torch.equal(found.buffers["seen"], expected.buffers["seen"])


def test_the_copies_of_the_weights_are_few():
    walk = Walk(converge=3)
    for loss in [9 - i / 10 for i in range(40)] + [5.1, 5.1] + [9.0, 5.0] * 5:
        walk.go([loss])
        state = walk.swad.state_dict()
        assert len([name for name in state if name.endswith(".weights.weight")]) <= 3


# In a run.


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=10)


def config_of(images: Path):
    return replace(
        config_for(images, None, "erm", steps=9, evaluate_every=2),
        average=AverageConfig(
            "swad", swad_converge=1, swad_tolerance=2, swad_tolerance_ratio=0.001
        ),
    )


def test_what_is_deployed_is_the_mean_over_the_valley(images, tmp_path, monkeypatch):
    weights: list[dict[str, Tensor]] = []
    losses: list[tuple[int, float]] = []
    told = [5.0, 1.0, 1.2, 9.0, 9.0]
    update, scored = Average.update, Average.scored

    def updating(self, step):
        update(self, step)
        live = self._live.named_parameters()
        weights.append({name: value.detach().clone().double() for name, value in live})

    def scoring(self, loss):
        losses.append((len(weights), loss))
        scored(self, told[len(losses) - 1])

    monkeypatch.setattr(Average, "update", updating)
    monkeypatch.setattr(Average, "scored", scoring)
    config = replace(config_of(images), average=AverageConfig("swad", 300, 0.9, 2, 2, 0.3))
    summary = train(config, tmp_path / "run", console=QUIET)
    assert [step for step, _ in losses] == [1, 3, 5, 7, 9]
    valley = algorithm_1(told, 2, 2, 0.3)
    assert valley == [1, 2]
    ends = [0, *(step for step, _ in losses)]
    inside = weights[ends[valley[0]] : ends[valley[-1] + 1]]
    deployed = dict(load(tmp_path / "run").named_parameters())
    assert set(deployed) == set(inside[0])
    for name, value in deployed.items():
        expected = torch.stack([step[name] for step in inside]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    # It is the last line that tells of it; the lines before tell of the live weights.
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    scores = [line for line in lines if "holdout" in line]
    assert [line["step"] for line in scores] == [0, 2, 4, 6, 8]
    assert [line["holdout_loss"] for line in scores[:-1]] == [loss for _, loss in losses[:-1]]
    assert summary["model_selection"]["step"] == 8
    accuracies = [summary["results"][name]["accuracy"] for name in ("art", "photo")]
    assert summary["model_selection"]["holdout_accuracy"] == pytest.approx(sum(accuracies) / 2)


def test_resumed_equals_uninterrupted(images, tmp_path, monkeypatch):
    config = config_of(images)
    train(config, tmp_path / "whole", console=QUIET)
    step = Stepper.step

    def stopping(self, batch, number, *rest):
        if number == 7:
            raise StopError
        return step(self, batch, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stopping)
        with pytest.raises(StopError):
            train(config, tmp_path / "stopped", console=QUIET)
    train(config, tmp_path / "stopped", resume=True, console=QUIET)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
    # After the last checkpoint, only what follows the steps is done again.
    (tmp_path / "stopped" / "summary.json").unlink()
    train(config, tmp_path / "stopped", resume=True, console=QUIET)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_a_run_without_a_valley_warns(images, tmp_path):
    config = config_of(images)
    config = replace(config, average=replace(config.average, swad_converge=6))
    with pytest.warns(ScmdWarning, match="swad found no valley.*--evaluate-every"):
        train(config, tmp_path / "run", console=QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScmdWarning)
        train(config_of(images), tmp_path / "other", console=QUIET)


def test_other_averages_log_what_they_did(images, tmp_path):
    config = replace(config_of(images), average=AverageConfig(average_start=4))
    train(config, tmp_path / "run", console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert {tuple(line) for line in lines if "holdout" in line} == {
        ("step", "holdout", "holdout_accuracy")
    }


def test_the_loop_reestimates_batch_norm_that_is_not_frozen(tmp_path, image_folder):
    """The deployed statistics are the means over the last batches, of the averaged weights."""
    from dataclasses import replace

    from rich.console import Console

    from scmd.averaging import AverageConfig
    from scmd.build import assign_roles
    from scmd.cache import Shared
    from scmd.config import DataConfig, RunConfig, TrainingConfig
    from scmd.methods import METHODS
    from scmd.models.student import StudentConfig

    images = image_folder(("art", "photo"), ("cat", "dog"), 6, size=24)
    config = RunConfig(
        method="erm",
        data=DataConfig(str(images), image_size=24),
        student=StudentConfig("test_efficientnet", pretrained=False, freeze_batch_norm=False),
        hparams=METHODS["erm"].Config(lr=1e-3),
        training=TrainingConfig(
            steps=4, batch_per_domain=4, evaluate_every=1, checkpoint_every=4, workers=0
        ),
        average=AverageConfig("swad", swad_converge=1),
    )
    quiet = Console(quiet=True)
    statistics = {}
    for frozen in (False, True):
        own = replace(config, student=replace(config.student, freeze_batch_norm=frozen))
        out = tmp_path / str(frozen)
        training.train(own, out, console=quiet)
        run = training.Run(Stepper(own, assign_roles(own), out, quiet, Shared(0)), out)
        loaded = training.load_checkpoint(out / "checkpoints")
        assert loaded is not None
        run._restore(loaded)
        name = "backbone.model.bn1.num_batches_tracked"
        statistics[frozen] = int(run.stepper.average.model.state_dict()[name])
    assert statistics == {False: 4, True: 0}  # one for each of the four steps' batches
