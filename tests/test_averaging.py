from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from toys import ToyBackbone, ToyTeacher, make_batch

from scmd.averaging import Average, AverageConfig, reestimate_batch_norm
from scmd.errors import ScmdError
from scmd.methods import SCMD
from scmd.methods.scmd import SCMDConfig

Kind = Literal["sma", "ema", "swad", "none", "sma-released"]
STEPS = 7
LOSSES = [math.nan, 3.0, 2.0, 2.1, 2.2, 5.0, 2.0, 2.0]
"""Of the holdout after steps 1, 2, ...: a valley from step 2 on, step 5 included."""


def method_for_test(seed: int = 0) -> SCMD:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        backbone = ToyBackbone(batch_norm=True)
        return SCMD(backbone, ToyTeacher(), SCMDConfig(lr=0.02, lr_scale=0.02)).train()


class Training:
    """A training run that remembers the weights after every step, from step 1 on."""

    def __init__(self, method: SCMD, average: Average) -> None:
        self.method, self.average = method, average
        self.optimizer = torch.optim.Adam(method.param_groups())
        self.recorded: list[dict[str, Tensor]] = []

    def run(self, *steps: int) -> None:
        for step in steps:
            loss = self.method(make_batch(seed=step), 0.0)["loss"]
            assert isinstance(loss, Tensor)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.method.after_step()
            self.average.update(step)
            self.average.scored(LOSSES[step])
            self.recorded.append(weights(self.method))

    def mean(self, first: int) -> dict[str, Tensor]:
        """Of the weights after step ``first`` and all later ones."""
        rest = self.recorded[first - 1 :]
        return {name: torch.stack([w[name] for w in rest]).mean(0) for name in rest[0]}


def weights(method: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone().double() for n, p in method.named_parameters()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def start(kind: Kind = "sma", average_start: int = 3, **settings: Any) -> Training:
    method = method_for_test()
    config = AverageConfig(average=kind, average_start=average_start, **settings)
    return Training(method, Average(method, config))


@pytest.mark.parametrize("first", [1, 3, STEPS])
def test_sma_is_the_mean_of_the_weights_from_its_first_step_on(first: int):
    run = start(average_start=first)
    for step in range(1, STEPS + 1):
        run.run(step)
        if step < first:
            assert run.average.model is run.method
        else:
            assert run.average.model is not run.method
            assert_equal(weights(run.average.model), run.mean(first))


def test_sma_covers_all_that_is_trained():
    run = start(average_start=1)
    run.run(1, 2, 3)
    averaged, live = weights(run.average.model), weights(run.method)
    assert {"backbone.linear.weight", "classifier.bias", "projection.weight", "log_scale"} <= set(
        averaged
    )
    for name, value in averaged.items():
        assert not torch.equal(value, live[name]), name


def test_sma_keeps_the_running_statistics_of_the_live_network():
    run = start(average_start=1)
    run.run(1, 2, 3)
    live = dict(run.method.named_buffers())
    for name, value in run.average.model.named_buffers():
        assert torch.equal(value, live[name]), name


def test_averaging_leaves_training_alone():
    plain, averaged = start("none"), start("sma", average_start=1)
    for run in (plain, averaged):
        run.run(*range(1, STEPS + 1))
    for mine, other in zip(plain.recorded, averaged.recorded, strict=True):
        for name, value in mine.items():
            assert torch.equal(value, other[name]), name


def test_released_sma_begins_a_step_early_and_leaves_the_projection_live():
    run = start("sma-released", average_start=4)
    run.run(1, 2)
    assert run.average.model is run.method
    run.run(3, 4)
    # At its first step, 4, it holds the mean of that step's weights and the previous step's.
    assert_equal(weights(run.average.model), run.mean(3) | projection(run.method))
    run.run(5, 6, 7)
    assert_equal(weights(run.average.model), run.mean(3) | projection(run.method))


def projection(method: SCMD) -> dict[str, Tensor]:
    return {n: w for n, w in weights(method).items() if n.startswith("projection.")}


def test_ema_in_closed_form():
    decay, first = 0.6, 3
    run = start("ema", average_start=first, ema_decay=decay)
    run.run(1, 2)
    assert run.average.model is run.method
    run.run(*range(3, STEPS + 1))
    included = run.recorded[first - 1 :]
    n = len(included) - 1
    shares = [decay**n] + [(1 - decay) * decay ** (n - i) for i in range(1, n + 1)]
    assert sum(shares) == pytest.approx(1)
    expected = {
        name: torch.stack([s * w[name] for s, w in zip(shares, included, strict=True)]).sum(0)
        for name in included[0]
    }
    assert_equal(weights(run.average.model), expected)


def test_none_is_always_the_live_network():
    run = start("none", average_start=1)
    run.run(*range(1, STEPS + 1))
    assert run.average.model is run.method
    assert run.average.state_dict() == {}


def test_swad_is_there_at_the_end_and_not_before():
    run = start("swad")
    run.run(*range(1, STEPS + 1))
    assert run.average.chooses
    assert run.average.model is run.method
    run.average.finish()
    assert run.average.model is not run.method
    assert_equal(weights(run.average.model), run.mean(2))
    assert not any(module.training for module in run.average.model.modules())
    assert not any(parameter.requires_grad for parameter in run.average.model.parameters())
    assert run.average.model.teacher is run.method.teacher


def test_swad_has_the_running_statistics_of_the_end_of_its_valley():
    run = start("swad", swad_converge=1, swad_tolerance=1, swad_tolerance_ratio=0.5)
    run.run(1)
    expected = {name: value.clone() for name, value in run.method.named_buffers()}
    run.average.scored(99.0)  # no segment has ended: it counts for nothing
    run.method.get_submodule("backbone.norm").reset_running_stats()  # type: ignore[operator]
    for step in range(2, 5):
        run.average.update(step)
        run.average.scored(99.0)
    run.average.finish()
    for name, value in run.average.model.named_buffers():
        assert torch.equal(value, expected[name]), name


def test_a_finished_swad_continues_to_the_bit():
    run = start("swad")
    run.run(*range(1, STEPS + 1))
    run.average.finish()
    other = Average(method_for_test(seed=9), AverageConfig(average="swad"))
    other.load_state_dict(copy.deepcopy(run.average.state_dict()))
    assert other.model is not other._live
    for name, value in run.average.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["sma", "ema", "none", "sma-released"])
def test_the_other_averages_do_not_look_at_losses_and_need_no_end(kind: Kind):
    run = start(kind)
    run.run(*range(1, STEPS + 1))
    before = weights(run.average.model)
    run.average.finish()
    assert not run.average.chooses
    assert all(torch.equal(w, before[name]) for name, w in weights(run.average.model).items())


def test_batch_norm_is_reestimated_where_it_is_not_frozen():
    backbone = ToyBackbone(batch_norm=True, dropout=0.5).eval()
    norm = backbone.norm
    assert isinstance(norm, torch.nn.BatchNorm1d)
    norm.running_mean = torch.full((6,), 50.0)
    batches = [make_batch(seed).images / 255 for seed in range(3)]
    features = [backbone.linear(images.flatten(1)) for images in batches]
    momentum = norm.momentum
    reestimate_batch_norm(backbone, batches)
    torch.testing.assert_close(
        norm.running_mean, torch.stack([f.mean(0) for f in features]).mean(0)
    )
    torch.testing.assert_close(norm.running_var, torch.stack([f.var(0) for f in features]).mean(0))
    assert norm.momentum == momentum
    assert not any(module.training for module in backbone.modules())


def test_frozen_batch_norm_keeps_what_it_has():
    class Frozen(ToyBackbone):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

    backbone = Frozen(batch_norm=True).train()
    before = copy.deepcopy(backbone.state_dict())
    reestimate_batch_norm(backbone, [make_batch().images / 255])
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training
    assert not backbone.norm.training


@pytest.mark.parametrize("kind", ["sma", "ema", "swad", "sma-released", "none"])
@pytest.mark.parametrize("stop", [1, 3, 5])  # before the average begins, at its start, later
def test_a_state_dict_continues_to_the_bit(kind: Kind, stop: int):
    whole = start(kind, ema_decay=0.7)
    whole.run(*range(1, STEPS + 1))
    first = start(kind, ema_decay=0.7)
    first.run(*range(1, stop + 1))
    saved = copy.deepcopy(
        (first.method.state_dict(), first.optimizer.state_dict(), first.average.state_dict())
    )
    method = method_for_test(seed=9)  # other weights than the run's: all must come from the state
    config = AverageConfig(average=kind, average_start=3, ema_decay=0.7)
    second = Training(method, Average(method, config))
    second.method.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    second.average.load_state_dict(saved[2])
    second.run(*range(stop + 1, STEPS + 1))
    whole.average.finish()
    second.average.finish()
    for name, value in second.average.model.state_dict().items():
        assert torch.equal(value, whole.average.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["sma", "ema", "swad", "sma-released"])
def test_the_teacher_is_neither_copied_nor_saved(kind: Kind):
    run = start(kind, average_start=1)
    run.run(1, 2, 3, 4)
    assert not any("teacher" in name or "table" in name for name in run.average.state_dict())
    run.average.finish()
    model = run.average.model
    assert model is not run.method
    assert model.teacher is run.method.teacher
    own = ("n_averaged", "module.backbone.", "module.classifier.", "module.projection.")
    names = run.average.state_dict().keys() - {"module.log_scale"}
    assert all(name.startswith(own) for name in names)


def test_the_averaged_network_predicts_and_is_not_trained():
    run = start(average_start=1)
    run.run(1, 2)
    model = run.average.model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average_start": 0}, "average_start = 0: give a whole number from 1"),
        ({"swad_converge": 0}, "swad_converge = 0: give a whole number from 1"),
        ({"swad_tolerance": 0}, "swad_tolerance = 0"),
        ({"average": "swa"}, "average = 'swa': choose from sma, ema, swad, none, sma-released"),
        ({"average_start": math.nan}, "average_start = nan: give a whole number from 1"),
        ({"swad_converge": 2.5}, "swad_converge = 2.5: give a whole number from 1"),
        ({"swad_tolerance": 10**12}, "swad_tolerance = 1000000000000: give a whole number from 1"),
        ({"swad_tolerance_ratio": -0.1}, "swad_tolerance_ratio = -0.1: give a number from 0"),
        ({"swad_tolerance_ratio": float("nan")}, "swad_tolerance_ratio = nan"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0"),
        ({"ema_decay": -0.1}, "ema_decay = -0.1"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], message: str):
    with pytest.raises(ScmdError, match=message):
        AverageConfig(**settings)
