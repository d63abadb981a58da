from __future__ import annotations

import math
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.efficiency import cost
from scmd.evaluate import accuracy, accuracy_interval, bootstrap_intervals, collect_logits, measure

NAMES = ("ant", "bee", "cat")


def decided(predictions: list[int], classes: int = 3) -> Tensor:
    return 10 * F.one_hot(torch.tensor(predictions), classes).float()


def confident(probability: float, hits: int, misses: int) -> tuple[Tensor, Tensor]:
    """Two classes; every prediction is class 0 with that probability."""
    logits = torch.tensor([math.log(probability / (1 - probability)), 0.0])
    labels = torch.tensor([0] * hits + [1] * misses)
    return logits.repeat(hits + misses, 1), labels


# Logits, gathered.


def test_logits_come_in_the_order_of_the_batches_and_of_scaled_pixels():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    seen: list[Tensor] = []

    def predict(batch: Tensor) -> Tensor:
        seen.append(batch)
        assert torch.is_inference_mode_enabled()
        return batch.mean((2, 3)).bfloat16()

    logits = collect_logits(predict, (images[:2], images[2:4], images[4:]), torch.device("cpu"))
    assert logits.dtype == torch.float32
    assert [len(batch) for batch in seen] == [2, 2, 1]
    torch.testing.assert_close(logits[:, 0], torch.arange(5) / 255, rtol=1e-2, atol=1e-4)
    assert not logits.requires_grad


# Metrics.


def test_accuracy_is_the_share_of_hits():
    assert accuracy(decided([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0])) == 0.75
    assert accuracy(decided([1]), torch.tensor([0])) == 0.0


def test_accuracy_does_not_depend_on_the_order_or_on_the_scale_of_logits():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    expected = accuracy(logits, labels)
    order = torch.randperm(50, generator=generator)
    assert accuracy(logits[order], labels[order]) == expected
    assert accuracy(3 * logits + 1, labels) == expected


def test_measures_in_closed_form():
    # ant: 3 of 4; bee: 1 of 2; no cat, though one is predicted.
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    result = measure(decided([0, 0, 0, 1, 1, 2]), labels, NAMES)
    assert result["n"] == 6
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["macro_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    found = {name: (r["accuracy"], r["n"]) for name, r in result["per_class"].items()}
    assert found == {"ant": (0.75, 4), "bee": (0.5, 2)}
    for part in (result["per_class"]["ant"], result["per_class"]["bee"]):
        low, high = part["interval"]
        assert low <= part["accuracy"] <= high
    assert result["confusion"] == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_macro_accuracy_of_balanced_classes_is_the_accuracy():
    result = measure(decided([0, 1, 1, 1, 2, 0]), torch.tensor([0, 0, 1, 1, 2, 2]), NAMES)
    assert result["macro_accuracy"] == pytest.approx(result["accuracy"])


@pytest.mark.parametrize(
    ("probability", "hits", "misses", "error"),
    [
        (0.75, 75, 25, 0.0),  # right as often as it is sure
        (0.95, 50, 50, 0.45),  # over-confident
        (0.6, 100, 0, 0.4),  # under-confident
    ],
)
def test_calibration_error_in_closed_form(probability: float, hits: int, misses: int, error: float):
    result = measure(*confident(probability, hits, misses), ("a", "b"))
    assert result["ece"] == pytest.approx(error, abs=1e-5)


def test_calibration_error_weighs_its_bins_by_their_size():
    sure, unsure = confident(0.95, 30, 0), confident(0.55, 5, 5)
    logits, labels = (torch.cat(parts) for parts in zip(sure, unsure, strict=True))
    result = measure(logits, labels, ("a", "b"))
    assert result["ece"] == pytest.approx(0.75 * 0.05 + 0.25 * 0.05, abs=1e-5)


# The interval.


@pytest.mark.parametrize(("hits", "misses"), [(90, 10), (5, 5), (400, 600)])
def test_the_interval_is_that_of_a_share(hits: int, misses: int):
    logits, labels = confident(0.9, hits, misses)
    low, high = accuracy_interval(logits, labels)
    n, share = hits + misses, hits / (hits + misses)
    assert low < share < high
    half = 1.96 * math.sqrt(share * (1 - share) / n)
    assert high - low == pytest.approx(2 * half, rel=0.2)


def test_the_interval_of_what_is_always_right_or_wrong_has_no_width():
    assert accuracy_interval(*confident(0.9, 20, 0)) == (1.0, 1.0)
    assert accuracy_interval(*confident(0.9, 0, 20)) == (0.0, 0.0)
    assert accuracy_interval(*confident(0.9, 1, 0)) == (1.0, 1.0)


def test_the_interval_is_the_same_each_time_and_leaves_the_generators_alone():
    logits, labels = confident(0.9, 13, 8)
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first = accuracy_interval(logits, labels)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]
    torch.manual_seed(2)
    assert accuracy_interval(logits, labels) == first
    assert accuracy_interval(logits.flip(0), labels.flip(0)) == first


# Costs.


def test_the_cost_of_a_linear_layer():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    result = cost(network, network, 8, repeats=5)
    assert result["parameters"] == 192 * 10 + 10
    assert result["flops"] == 2 * 192 * 10  # additions of the bias are not counted
    assert result["megabytes"] == pytest.approx(4 * (192 * 10 + 10) / 1e6)
    low, high = result["latency_ms_range"]
    assert 0 < low <= result["latency_ms"] <= high


def test_the_cost_of_a_convolution():
    network = nn.Conv2d(3, 16, 5, stride=2, padding=2, groups=1).bfloat16()
    result = cost(network, lambda images: network(images.bfloat16()), 32, repeats=1)
    assert result["parameters"] == 16 * 3 * 25 + 16
    assert result["flops"] == 2 * (16 * 16) * 16 * 3 * 25
    assert result["megabytes"] == pytest.approx(2 * result["parameters"] / 1e6)


def test_the_cost_of_a_depthwise_convolution():
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    result = cost(network, network, 16, repeats=1)
    assert result["flops"] == 2 * 16 * 16 * (8 * 3 + 8 * 9)


def transformer_flops(tokens: int, width: int, hidden: int) -> int:
    """Of one block: queries, keys, values and output; both layers of the MLP; attention."""
    linear = 2 * tokens * (4 * width * width + 2 * width * hidden)
    return linear + 2 * 2 * tokens * tokens * width


def test_the_cost_of_attention_is_counted():
    model: Any = timm.create_model("test_vit", num_classes=0).eval()
    tokens, width = 10 * 10 + 1, model.num_features
    patches = 2 * 100 * width * 3 * 16 * 16
    blocks = len(model.blocks) * transformer_flops(tokens, width, 3 * width)
    assert cost(model, model, 160, repeats=1)["flops"] == patches + blocks


def test_the_cost_of_open_clips_attention_is_counted():
    vision = open_clip.CLIPVisionCfg(
        image_size=32, patch_size=16, layers=2, width=64, head_width=32
    )
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=50, width=32, heads=2, layers=1)
    model = open_clip.CLIP(16, vision, text).eval()
    patches = 2 * 4 * 64 * 3 * 16 * 16
    expected = patches + 2 * transformer_flops(5, 64, 4 * 64) + 2 * 64 * 16
    fused = torch.backends.mha.get_fastpath_enabled()
    assert cost(model, model.encode_image, 32, repeats=1)["flops"] == expected
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_intervals_are_those_of_resampling_the_samples():
    """Against a plain bootstrap that draws samples, for accuracy, macro accuracy and classes."""
    rng = np.random.default_rng(3)
    labels = rng.choice(3, size=120, p=[0.6, 0.3, 0.1])
    right = rng.random(120) < np.array([0.9, 0.6, 0.4])[labels]
    totals = np.bincount(labels, minlength=3)
    hits = np.bincount(labels, weights=right, minlength=3)
    overall, macro, each = bootstrap_intervals(hits, totals)
    rows = rng.integers(120, size=(20_000, 120))
    drawn, drawn_right = labels[rows], right[rows]
    accuracies = drawn_right.mean(1)
    classes = np.stack(
        [(drawn_right & (drawn == c)).sum(1) / np.maximum((drawn == c).sum(1), 1) for c in range(3)]
    )
    expected = np.quantile(accuracies, (0.025, 0.975))
    np.testing.assert_allclose(overall, expected, atol=0.012)
    np.testing.assert_allclose(macro, np.quantile(classes.mean(0), (0.025, 0.975)), atol=0.02)
    np.testing.assert_allclose(each, np.quantile(classes, (0.025, 0.975), axis=1).T, atol=0.06)
