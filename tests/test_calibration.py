"""The temperature that makes probabilities mean what they say."""

from __future__ import annotations

import math

import pytest
import torch

from scmd.deploy.calibration import HIGHEST, at_limit, calibrate, cross_entropy, fit_temperature
from scmd.evaluate import measure


def calibrated(repeats: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose probabilities, 1/6 to 1/2, are the labels' shares exactly."""
    logits = torch.tensor([3.0, 2.0, 1.0]).log().repeat(6 * repeats, 1)
    return logits, torch.tensor([0, 0, 0, 1, 1, 2]).repeat(repeats)


def noise(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(200, 5, generator=generator)
    labels = torch.randint(0, 5, (200,), generator=generator)
    return logits, torch.where(labels == 0, labels, logits.argmax(1))  # many right, not all


def test_what_is_calibrated_already_keeps_temperature_1():
    assert fit_temperature(*calibrated()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("factor", [0.25, 0.7, 1.5, 4.0])
def test_a_scale_of_the_logits_is_undone(factor: float):
    logits, labels = calibrated()
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=1e-3)
    logits, labels = noise()
    ratio = fit_temperature(factor * logits, labels) / fit_temperature(logits, labels)
    assert ratio == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_no_temperature_is_better(seed: int):
    logits, labels = noise(seed)
    best = cross_entropy(logits, labels, fit_temperature(logits, labels))
    for other in torch.logspace(-1, 1, 101).tolist():
        assert best <= cross_entropy(logits, labels, other) + 1e-9
    before, after = calibrate(logits, labels)["holdout"]["cross_entropy"]
    assert before == cross_entropy(logits, labels)
    assert after <= before


def test_a_holdout_without_a_mistake_leaves_1():
    logits, _ = noise()
    assert fit_temperature(logits, logits.argmax(1)) == 1


def test_a_holdout_without_a_right_answer_leaves_the_least_sure():
    logits, _ = noise()
    temperature = fit_temperature(logits, logits.argmin(1))
    assert temperature == pytest.approx(HIGHEST, rel=1e-3)
    assert at_limit(temperature)


def test_a_temperature_that_was_found_is_at_no_limit():
    assert not at_limit(fit_temperature(*noise()))


def test_what_is_reported():
    logits, labels = calibrated()
    report = calibrate(3 * logits, labels)
    assert report["temperature"] == pytest.approx(3, rel=1e-3)
    assert report["n"] == len(labels)
    before, after = report["holdout"]["ece"]
    assert before == pytest.approx(27 / 36 - 1 / 2, abs=1e-5)  # 27 : 8 : 1 is said, 3 : 2 : 1 is
    assert after == pytest.approx(0, abs=1e-3)
    result = measure(3 * logits, labels, ("a", "b", "c"), report["temperature"])
    assert [result["ece"], result["ece_calibrated"]] == pytest.approx([before, after])
    assert "ece_calibrated" not in measure(logits, labels, ("a", "b", "c"))


def test_cross_entropy_in_closed_form():
    logits = torch.tensor([[math.log(4.0), 0.0]])
    assert cross_entropy(logits, torch.tensor([1])) == pytest.approx(math.log(5))
    assert cross_entropy(logits, torch.tensor([1]), 2.0) == pytest.approx(math.log(3))
