"""What sets each of the further baselines apart from ERM; what all have in common is tested with
the others, in ``test_baselines.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from test_baselines import (
    DOMAINS,
    LATE,
    assert_same,
    batch_of,
    build,
    features_and_logits,
    gradients,
    number,
    sample_losses,
    tensor,
    timm_backbone,
)
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from toys import CLASSES, FEATURES, ToyBackbone

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses_domains import KERNEL_RATES, coral_distance, mmd_distance
from scmd.methods import METHODS, Method
from scmd.methods.arm import ARM, in_context
from scmd.methods.causirl import CausIRL, random_mixtures
from scmd.methods.eqrm import EQRM, kernel_quantile
from scmd.methods.fishr import Fishr, gradient_variance, spread
from scmd.methods.layers import channel_place
from scmd.methods.mixstyle import EPS, MixStyle, mix_statistics, random_partners
from scmd.methods.per_domain import domain_risks, rows_by_domain
from scmd.methods.sagnet import (
    SagNet,
    content_and_style,
    randomize_content,
    randomize_style,
)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def alike(batch: Batch) -> Batch:
    """The images and labels of the first domain, for every domain."""
    size = len(batch.labels) // DOMAINS
    parts = [part[:size].repeat(DOMAINS, *[1] * (part.ndim - 1)) for part in batch]
    return Batch(*parts)._replace(domains=batch.domains)


def double(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()


# What they have in common with ERM.


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("causirl", {"penalty_weight": 0.0}),
        ("eqrm", {"burn_in": 1.0}),
        ("fishr", {"penalty_weight": 0.0}),
        ("fishr", {"anneal": 1.0}),
        ("mixstyle", {"probability": 0.0}),
        ("mmd", {"penalty_weight": 0.0}),
        ("sd", {"penalty_weight": 0.0}),
    ],
)
def test_without_what_sets_it_apart_it_is_erm(name: str, settings: dict[str, Any]):
    method, erm, batch = build(name, **settings), build("erm"), batch_of()
    output, expected = method(batch, LATE), erm(batch, LATE)
    assert number(output, "ce") == pytest.approx(number(expected), rel=1e-5)
    assert_same(gradients(method, tensor(output)), gradients(erm, tensor(expected)))


@pytest.mark.parametrize("name", ["arm", "eqrm", "fishr", "mixstyle", "mmd"])
def test_domains_that_are_alike_are_no_reason_to_act(name: str):
    """Of a batch whose domains hold the same images, the loss and its gradient are ERM's."""
    method, erm, batch = build(name), build("erm"), alike(batch_of())
    if name == "mixstyle":  # every image meets its own copy
        size = len(batch.labels) // DOMAINS
        partners = (torch.arange(len(batch.labels)) + size) % len(batch.labels)
        cast(Any, method).draw = lambda domains: (partners, torch.full((len(partners),), 0.3))
    output, expected = method(batch, LATE), erm(batch, LATE)
    assert number(output) == pytest.approx(number(expected), rel=1e-4)
    found, wanted = gradients(method, tensor(output)), gradients(erm, tensor(expected))
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["arm", "mixstyle", "sagnet"])
def test_predicting_is_backbone_and_classifier_and_draws_nothing(name: str):
    method, images = build(name), torch.rand(5, 3, 4, 4)
    state = torch.random.get_rng_state()
    found = method.predict(images)
    assert torch.equal(found, method.classifier(method.backbone(images)))
    assert torch.equal(found, method.eval().predict(images))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("arm", {"width": 0}, "width = 0: give a whole number from 1"),
        ("arm", {"width": 10**12}, "width = 1000000000000: give a whole number from 1 to 8192"),
        ("arm", {"width": 6.5}, "width = 6.5: give a whole number from 1 to 8192"),
        ("causirl", {"distance": "l2"}, "distance = 'l2': choose from coral, mmd"),
        ("causirl", {"penalty_weight": -1.0}, "penalty_weight = -1.0: give a number from 0"),
        ("eqrm", {"quantile": 1.0}, "quantile = 1.0: give a number between 0 and 1"),
        ("eqrm", {"burn_in": -0.1}, "burn_in = -0.1"),
        ("fishr", {"ema": 1.0}, r"ema = 1.0: give a number in \[0, 1\)"),
        ("fishr", {"anneal": math.nan}, "anneal = nan"),
        ("mixstyle", {"probability": 1.5}, r"probability = 1.5: give a number in \[0, 1\]"),
        ("mixstyle", {"alpha": 0.0}, "alpha = 0.0: give a number above 0"),
        ("mixstyle", {"alpha": 1e-60}, "alpha = 1e-60: give a number from 1.2e-38"),
        ("mmd", {"penalty_weight": math.inf}, "penalty_weight = inf"),
        ("sagnet", {"adversarial_weight": -1.0}, "adversarial_weight = -1.0"),
        ("sd", {"penalty_weight": -1.0}, "penalty_weight = -1.0"),
    ],
)
def test_settings_out_of_range_are_errors(name: str, settings: dict[str, Any], message: str):
    with pytest.raises(ScmdError, match=message):
        METHODS[name].Config(**settings)


@pytest.mark.parametrize("name", ["arm", "fishr"])
def test_a_buffer_of_features_wants_their_number(name: str):
    with pytest.raises(ScmdError, match=rf"{METHODS[name].__name__} needs .* num_features"):
        build(name, backbone=ToyBackbone(tells_features=False))


@pytest.mark.parametrize("name", ["causirl", "eqrm", "mixstyle", "mmd", "sagnet", "sd"])
def test_the_others_take_the_number_of_features_from_the_first_forward(name: str):
    method = build(name, backbone=ToyBackbone(9, tells_features=False))
    tensor(method(batch_of(), LATE)).backward()
    assert method.classifier.weight.shape == (CLASSES, 9)


def test_fishr_wants_images_of_every_source():
    with pytest.raises(ScmdError, match="batch is of 2 domains, the method was built for 3"):
        build("fishr")(batch_of(domains=2), LATE)


# Distances between groups of features.


@pytest.mark.parametrize("distance", [mmd_distance, coral_distance])
def test_a_distance_is_zero_for_equal_groups_and_positive_for_others(distance: Any):
    group = torch.randn(7, 5)
    assert distance([group, group[torch.randperm(7)]]).item() == pytest.approx(0, abs=1e-5)
    near, far = (distance([group, group + shift]).item() for shift in (0.1, 1.0))
    assert 0 < near < far
    groups = [torch.randn(n, 5) for n in (4, 6, 9)]
    pairs = [distance([groups[i], groups[j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(distance(groups), torch.stack(pairs).mean())
    torch.testing.assert_close(distance(groups[::-1]), distance(groups))


def test_mmd_by_hand():
    x, y = (torch.randn(n, 3) for n in (4, 6))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return sum(np.exp(-rate * squares).mean() for rate in KERNEL_RATES)

    a, b = double(x), double(y)
    expected = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
    assert mmd_distance([x, y]).item() == pytest.approx(expected, rel=1e-4)


def test_mmd_is_a_loss_with_a_gradient_where_images_coincide():
    x = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(mmd_distance([x, x.detach() + 0.5]), x)
    assert bool(gradient.isfinite().all())
    # A step against it brings the groups nearer.
    closer = x.detach() - 0.1 * gradient
    assert mmd_distance([closer, x.detach() + 0.5]) < mmd_distance([x, x.detach() + 0.5])


def test_mmd_adds_its_penalty_to_the_cross_entropy():
    method, batch = build("mmd", penalty_weight=0.7), batch_of()
    features, logits = features_and_logits(method, batch)
    penalty = mmd_distance([features[rows] for rows in rows_by_domain(batch.domains)])
    expected = F.cross_entropy(logits, batch.labels) + 0.7 * penalty
    torch.testing.assert_close(tensor(method(batch, 0.0)), expected)


# CausIRL.


def test_mixtures_share_no_image_and_hold_every_one():
    domains = torch.tensor([0, 1, 2] * 6)
    rows = rows_by_domain(domains)
    sizes = set()
    for _ in range(60):
        first, second = random_mixtures(rows)
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(18))
        counts = [int((domains[first] == d).sum()) for d in range(3)]
        assert max(counts) < 6  # the second has at least one of each
        sizes.add(tuple(counts))
    assert len(sizes) > 20  # the proportions differ, and from domain to domain


@pytest.mark.parametrize(("name", "distance"), [("coral", coral_distance), ("mmd", mmd_distance)])
def test_causirl_adds_the_distance_of_two_mixtures(
    name: Any, distance: Any, monkeypatch: pytest.MonkeyPatch
):
    method, batch = build("causirl", distance=name, penalty_weight=0.7), batch_of()
    halves = (torch.arange(0, 24, 2), torch.arange(1, 24, 2))
    monkeypatch.setattr("scmd.methods.causirl.random_mixtures", lambda rows: halves)
    features, logits = features_and_logits(method, batch)
    expected = F.cross_entropy(logits, batch.labels)
    expected = expected + 0.7 * distance([features[::2], features[1::2]])
    torch.testing.assert_close(tensor(method(batch, 0.0)), expected)
    # Two mixtures of the same images are no distance apart.
    same = batch._replace(images=batch.images[::2].repeat_interleave(2, 0))
    assert number(method(same, 0.0), "penalty") == pytest.approx(0, abs=1e-6)


def test_a_mixture_of_one_image_has_no_distance(monkeypatch: pytest.MonkeyPatch):
    method, batch = cast(CausIRL, build("causirl")), batch_of()
    for size in (0, 1):
        halves = (torch.arange(size), torch.arange(size, 24))
        monkeypatch.setattr("scmd.methods.causirl.random_mixtures", lambda rows, h=halves: h)
        output = method(batch, 0.0)
        assert number(output, "penalty") == 0
        assert number(output) == number(output, "ce")


# SD.


def test_the_penalty_of_sd_pulls_every_logit_to_zero():
    method, batch = build("sd", penalty_weight=0.3), batch_of()
    logits = features_and_logits(method, batch)[1]
    output = method(batch, 0.0)
    assert number(output, "penalty") == pytest.approx(float((double(logits) ** 2).mean()), rel=1e-5)
    n = len(batch.labels)
    found = gradients(method, tensor(output))["classifier.bias"]
    residual = logits.softmax(1) - F.one_hot(batch.labels, CLASSES)
    expected = residual.sum(0) / n + 0.3 * 2 * logits.sum(0) / (n * CLASSES)
    torch.testing.assert_close(found, expected.detach())


# EQRM.


def test_equal_risks_are_their_own_quantile():
    for level in (0.05, 0.5, 0.99):
        quantile = kernel_quantile(torch.full((4,), 1.7), level)
        assert quantile.item() == pytest.approx(1.7, abs=1e-5)


def test_a_quantile_leaves_its_share_of_the_estimate_below():
    risks = torch.tensor([0.3, 0.9, 1.0, 2.5])
    values = double(risks)
    width = 1.06 * values.std(ddof=1) * 4**-0.2
    before = -math.inf
    for level in (0.01, 0.25, 0.5, 0.75, 0.99):
        quantile = kernel_quantile(risks, level).item()
        below = [(1 + math.erf((quantile - v) / width / math.sqrt(2))) / 2 for v in values]
        assert np.mean(below) == pytest.approx(level, abs=1e-5)
        assert quantile > before
        before = quantile


def test_a_quantile_moves_and_grows_with_the_risks():
    risks = torch.tensor([0.3, 0.9, 1.0, 2.5])
    quantile = kernel_quantile(risks, 0.75)
    torch.testing.assert_close(kernel_quantile(risks + 2, 0.75), quantile + 2)
    torch.testing.assert_close(kernel_quantile(3 * risks, 0.75), 3 * quantile)
    torch.testing.assert_close(kernel_quantile(risks[[2, 0, 3, 1]], 0.75), quantile)


def test_the_gradient_of_a_quantile_is_its_own():
    risks = torch.tensor([0.3, 0.9, 1.0, 2.5], requires_grad=True)
    (found,) = torch.autograd.grad(kernel_quantile(risks, 0.9), risks)
    step = 1e-2
    for place in range(4):
        change = step * F.one_hot(torch.tensor(place), 4)
        up, down = (kernel_quantile(risks.detach() + sign * change, 0.9) for sign in (1, -1))
        assert found[place].item() == pytest.approx(((up - down) / (2 * step)).item(), abs=2e-3)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    equal = torch.full((3,), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(kernel_quantile(equal, 0.75), equal)
    torch.testing.assert_close(gradient, torch.full((3,), 1 / 3), rtol=1e-3, atol=1e-3)


def test_eqrm_is_the_mean_risk_and_then_the_quantile():
    method, batch = cast(EQRM, build("eqrm", quantile=0.9)), batch_of()
    risks = domain_risks(sample_losses(method, batch), batch.domains).detach()
    for progress in (0.0, 0.499):
        assert number(method(batch, progress)) == pytest.approx(risks.mean().item(), rel=1e-5)
    for progress in (0.5, 1.0):
        output = method(batch, progress)
        assert number(output) == pytest.approx(kernel_quantile(risks, 0.9).item(), rel=1e-5)
        assert number(output) > number(output, "ce")
    config = METHODS["eqrm"].Config
    assert config().phases() == (0.5,)
    assert config(burn_in=0.0).phases() == config(burn_in=1.0).phases() == ()  # type: ignore[call-arg]


# Fishr.


def test_the_closed_form_is_the_variance_of_the_images_own_gradients():
    classifier, features = nn.Linear(5, CLASSES), 2 * torch.randn(9, 5)
    labels = torch.randint(CLASSES, (9,))
    weights = {name: p.detach() for name, p in classifier.named_parameters()}

    def loss(weights: dict[str, Tensor], feature: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(classifier, weights, (feature[None],))
        return F.cross_entropy(logits, label[None])

    own = vmap(grad(loss), in_dims=(None, 0, 0))(weights, features, labels)
    expected = torch.cat([own["weight"], own["bias"][..., None]], 2).var(0, correction=0)
    found = gradient_variance(features, classifier(features), labels)
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-6)


def test_the_penalty_of_fishr_and_its_gradient_by_hand():
    method, batch = cast(Fishr, build("fishr", penalty_weight=3.0)), batch_of()
    features, logits = features_and_logits(method, batch)
    own = [
        gradient_variance(features[r], logits[r], batch.labels[r])
        for r in rows_by_domain(batch.domains)
    ]
    penalty = sum((v - torch.stack(own).mean(0)).square().mean() for v in own) / DOMAINS
    expected = F.cross_entropy(logits, batch.labels) + 3.0 * penalty
    output = method(batch, LATE)  # at the first step the average is the step's own
    torch.testing.assert_close(tensor(output), expected)
    assert_same(gradients(method, tensor(output)), gradients(method, expected))
    torch.testing.assert_close(spread(torch.stack(own)).detach(), tensor(output, "penalty"))


def test_fishr_remembers_the_variances_of_the_steps_before():
    method = cast(Fishr, build("fishr", ema=0.75))
    expected = torch.zeros_like(method.variances)
    assert method.variances.shape == (DOMAINS, CLASSES * (FEATURES + 1))
    for seed in range(3):
        batch = batch_of(seed)
        features, logits = features_and_logits(method, batch)
        own = torch.stack(
            [
                gradient_variance(features[r], logits[r], batch.labels[r])
                for r in rows_by_domain(batch.domains)
            ]
        ).detach()
        expected = 0.75 * expected + 0.25 * own
        penalty = number(method(batch, 0.0), "penalty")
        assert penalty == pytest.approx(spread(expected / 0.25).item(), rel=1e-4)
        method.after_step()
        torch.testing.assert_close(method.variances, expected)
        method.after_step()  # a second time there is nothing to keep
        torch.testing.assert_close(method.variances, expected)


def test_fishr_has_no_penalty_until_it_is_annealed():
    method, batch = build("fishr"), batch_of()
    for progress, weight in ((0.0, 0.0), (1499 / 5000, 0.0), (1500 / 5000, 1000.0)):
        output = method(batch, progress)
        total = number(output, "ce") + weight * number(output, "penalty")
        assert number(output) == pytest.approx(total, rel=1e-5)
        assert number(output, "penalty") > 0
    config = METHODS["fishr"].Config
    assert config().phases() == (0.3,)
    assert config(anneal=0.0).phases() == ()  # type: ignore[call-arg]


# MixStyle.


@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (6, 5, 3, 4), (6, 7, 4)])
def test_mixed_maps_have_mixed_statistics_and_the_content_of_the_image(shape: tuple[int, ...]):
    features, part = 2 * torch.randn(shape) + 1, torch.rand(6)
    partners = torch.randperm(6)
    place = channel_place(features, 4)
    assert place is not None
    mixed = mix_statistics(partners, part, features, 4)
    before, after = (double(f.movedim(place, 1).flatten(2)) for f in (features, mixed))
    own = double(part)[:, None]
    mean, deviation = before.mean(2), before.std(2)
    expected_mean = own * mean + (1 - own) * mean[partners]
    expected_deviation = own * deviation + (1 - own) * deviation[partners]
    np.testing.assert_allclose(after.mean(2), expected_mean, atol=1e-5)
    np.testing.assert_allclose(after.std(2), expected_deviation, rtol=1e-4)
    content, kept = ((f - f.mean(2)[..., None]) / f.std(2)[..., None] for f in (before, after))
    np.testing.assert_allclose(kept, content, atol=1e-4)


def test_an_image_that_keeps_its_statistics_or_whose_partner_has_the_same_is_left_alone():
    features, partners = torch.randn(6, 4, 5, 5), torch.randperm(6)
    kept = mix_statistics(partners, torch.ones(6), features, 4)
    torch.testing.assert_close(kept, features, rtol=1e-4, atol=1e-5)
    turned = torch.cat([features[:3], features[:3].flip(2)])  # other content, same statistics
    partners = torch.tensor([3, 4, 5, 0, 1, 2])
    torch.testing.assert_close(
        mix_statistics(partners, torch.rand(6), turned, 4), turned, rtol=1e-4, atol=1e-5
    )
    pooled = torch.randn(6, 4)
    assert mix_statistics(torch.randperm(6), torch.rand(6), pooled, 4) is pooled
    flat = mix_statistics(torch.randperm(6), torch.rand(6), torch.ones(6, 4, 1, 1), 4)
    torch.testing.assert_close(flat, torch.ones(6, 4, 1, 1))  # a single place has no deviation


def test_statistics_are_constants_for_the_gradient():
    features = torch.randn(6, 4, 5, 5, requires_grad=True)
    partners, part = torch.randperm(6), torch.rand(6)
    mixed = mix_statistics(partners, part, features, 4)
    weights = torch.randn_like(mixed)
    (found,) = torch.autograd.grad((weights * mixed).sum(), features)
    deviation = (features.detach().var((2, 3), correction=0, keepdim=True) + EPS).sqrt()
    own = part.view(-1, 1, 1, 1)
    expected = weights * (own * deviation + (1 - own) * deviation[partners]) / deviation
    torch.testing.assert_close(found, expected)


def test_partners_are_of_another_domain_and_each_image_is_one():
    domains = torch.tensor([2, 0, 1, 0, 2, 1, 1, 0, 2])
    seen = set()
    for _ in range(40):
        partners = random_partners(domains)
        assert sorted(partners.tolist()) == list(range(9))
        assert bool((domains[partners] != domains).all())
        seen.add(tuple(partners.tolist()))
    assert len(seen) > 20
    unequal = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    assert bool((unequal[random_partners(unequal)] != unequal).all())


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_the_own_part_is_drawn_from_the_beta_distribution(alpha: float):
    method = cast(MixStyle, build("mixstyle", alpha=alpha))
    _, drawn = method.draw(torch.arange(20_000) % 3)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_efficientnet", 32, ["model.blocks.1", "model.blocks.2", "model.blocks.3"]),
        ("test_resnet", 32, ["model.layer1", "model.layer2", "model.layer3"]),
        ("test_mambaout", 64, ["model.stages.0", "model.stages.1", "model.stages.2"]),
        ("test_vit", 160, ["model.blocks.1", "model.blocks.2", "model.blocks.3"]),
    ],
)
def test_the_three_stages_before_the_last_are_mixed(name: str, size: int, expected: list[str]):
    backbone = timm_backbone(name, size)
    method = cast(MixStyle, build("mixstyle", backbone=backbone, probability=1.0))
    assert list(method._stages) == expected
    batch = batch_of(size=6)._replace(images=torch.rand(6, 3, size, size))
    tensor(method(batch, 0.0)).backward()
    first = next(iter(backbone.parameters())).grad
    assert first is not None
    assert first.abs().sum() > 0
    assert not any(part._forward_hooks for part in method.modules())
    for part in backbone.modules():  # what differs from training to evaluation is left aside
        part.training = False
    plain = method.classifier(backbone(batch.images))
    loss = F.cross_entropy(plain, batch.labels).item()
    torch.testing.assert_close(method.predict(batch.images), plain)
    assert number(method(batch, 0.0)) != pytest.approx(loss, rel=1e-5)
    method.config = METHODS["mixstyle"].Config(probability=0.0)  # type: ignore[call-arg]
    assert number(method(batch, 0.0)) == pytest.approx(loss, rel=1e-5)


def test_without_stages_the_images_themselves_are_mixed():
    method, batch = cast(MixStyle, build("mixstyle", probability=1.0)), batch_of()
    assert method._stages == {}
    torch.manual_seed(3)
    method.mixes()
    partners, part = method.draw(batch.domains)
    mixed = mix_statistics(partners, part, batch.images / 255, 3)
    torch.manual_seed(3)
    expected = F.cross_entropy(method.predict(mixed), batch.labels)
    torch.testing.assert_close(tensor(method(batch, 0.0)), expected)


def test_mixing_happens_as_often_as_it_is_told():
    method = cast(MixStyle, build("mixstyle", probability=0.3))
    assert np.mean([method.mixes() for _ in range(3000)]) == pytest.approx(0.3, abs=0.03)


# SagNet.


def test_content_is_normalised_whatever_is_done_to_the_style():
    features, swap, part = 3 * torch.randn(6, 50) + 1, torch.randperm(6), torch.rand(6, 1)
    content, mean, variance = content_and_style(features)
    torch.testing.assert_close(content.mean(1), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(content.var(1), torch.ones(6), rtol=1e-4, atol=0)
    restyled = randomize_style(features, swap, part)
    torch.testing.assert_close(content_and_style(restyled)[0], content, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        restyled.mean(1, keepdim=True), part * mean + (1 - part) * mean[swap]
    )
    refilled = randomize_content(features, swap)
    new_content, new_mean, new_variance = content_and_style(refilled)
    torch.testing.assert_close(new_content, content[swap], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(new_mean, mean)
    torch.testing.assert_close(new_variance, variance, rtol=1e-3, atol=1e-4)
    alone = torch.arange(6)
    torch.testing.assert_close(randomize_style(features, alone, part), features)
    torch.testing.assert_close(randomize_content(features, alone), features)


def test_the_content_that_is_lent_is_a_constant():
    features, swap = torch.randn(6, 9, requires_grad=True), torch.randperm(6)
    weights = torch.randn(6, 9)
    content, mean, variance = content_and_style(features)
    own = content.detach()[swap] * (variance + 1e-5).sqrt() + mean
    (expected,) = torch.autograd.grad((weights * own).sum(), features)
    lent = randomize_content(features, swap)
    (found,) = torch.autograd.grad((weights * lent).sum(), features)
    torch.testing.assert_close(found, expected)


def parts_of(method: SagNet, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The three losses as plain graphs; the next draw is theirs."""
    features = method.backbone(batch.images / 255)
    swap, part = method.draw(len(batch.labels), features.device)
    swapped = method.style_classifier(randomize_content(features, swap))
    return (
        F.cross_entropy(method.classifier(randomize_style(features, swap, part)), batch.labels),
        F.cross_entropy(swapped, batch.labels),
        -swapped.log_softmax(1).mean(),
    )


def test_each_loss_of_sagnet_reaches_what_it_is_to_reach():
    """The style loss teaches the style classifier alone, the adversarial one the backbone alone."""
    method, batch = cast(SagNet, build("sagnet", adversarial_weight=0.3)), batch_of()
    torch.manual_seed(2)
    content, style, adversarial = parts_of(method, batch)
    torch.manual_seed(2)
    output = method(batch, 0.0)
    torch.testing.assert_close(tensor(output), content + style + 0.3 * adversarial)
    ofs = {
        "backbone.": content + 0.3 * adversarial,
        "classifier.": content,
        "style_classifier.": style,
    }
    for prefix, loss in ofs.items():
        weights = [p for name, p in method.named_parameters() if name.startswith(prefix)]
        found = torch.autograd.grad(tensor(output), weights, retain_graph=True)
        expected = torch.autograd.grad(loss, weights, retain_graph=True)
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_the_adversary_wants_the_style_classifier_undecided():
    method, batch = cast(SagNet, build("sagnet")), batch_of()
    assert number(method(batch, 0.0), "adversarial") >= math.log(CLASSES)
    with torch.no_grad():
        for parameter in method.style_classifier.parameters():
            parameter.zero_()
    output = method(batch, 0.0)
    assert number(output, "adversarial") == pytest.approx(math.log(CLASSES))  # the least it can be


# ARM.


def arm(**settings: Any) -> ARM:
    return cast(ARM, build("arm", **settings))


def test_a_context_is_of_the_domain_and_not_of_the_order_of_its_images():
    method, features = arm(width=7), torch.randn(9, FEATURES)
    context = method.context(features)
    assert context.shape == (2 * FEATURES,)
    torch.testing.assert_close(method.context(features[torch.randperm(9)]), context)
    torch.testing.assert_close(method.context(features.repeat(3, 1)), context)
    assert not torch.allclose(method.context(features + 1), context)


def test_the_context_scales_and_shifts_the_features_of_its_source():
    method, batch = arm(), batch_of()
    features, _ = features_and_logits(method, batch)
    rows_of = rows_by_domain(batch.domains)
    contexts = [method.context(features[rows]) for rows in rows_of]
    mean = torch.stack(contexts).mean(0)
    logits = torch.zeros(len(batch.labels), CLASSES)
    for rows, context in zip(rows_of, contexts, strict=True):
        scale, shift = (context - mean)[:FEATURES], (context - mean)[FEATURES:]
        logits[rows] = method.classifier(features[rows] * (1 + scale) + shift)
    output = method(batch, 0.0)
    torch.testing.assert_close(tensor(output), F.cross_entropy(logits, batch.labels))
    assert number(output, "context") > 0
    # The order of a batch's images, and so of its domains, changes nothing.
    order = torch.randperm(len(batch.labels))
    turned = method(Batch(*(part[order] for part in batch)), 0.0)
    assert number(turned) == pytest.approx(number(output), rel=1e-5)


def test_an_adapted_classifier_stands_for_the_context_of_its_images():
    method = arm()
    for step in range(3):
        method(batch_of(step), 0.0)
        method.after_step()
    assert bool(method.mean_context.any())
    images = torch.rand(8, 3, 4, 4)
    features = method.backbone(images)
    context = method.context(features) - method.mean_context
    expected = method.classifier(in_context(features, context))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    adapted = method.adapted_classifier(images)
    torch.testing.assert_close(adapted(features), expected)
    assert not torch.allclose(expected, method.predict(images))
    as_bytes = (images * 255).to(torch.uint8)
    torch.testing.assert_close(
        method.adapted_classifier(as_bytes).weight, adapted.weight, rtol=0.05, atol=0.01
    )
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name])
    # In the mean context of the sources it is the student's own.
    method.mean_context.copy_(method.context(features).detach())
    own = method.adapted_classifier(images)
    torch.testing.assert_close(own.weight, method.classifier.weight)
    torch.testing.assert_close(own.bias, method.classifier.bias)


def test_the_mean_context_follows_that_of_the_sources():
    method, batch = arm(), batch_of()
    features, _ = features_and_logits(method, batch)
    contexts = [method.context(features[rows]) for rows in rows_by_domain(batch.domains)]
    mean = torch.stack(contexts).mean(0).detach()
    for steps in range(1, 4):
        method(batch, 0.0)
        method.after_step()
        torch.testing.assert_close(method.mean_context, (1 - 0.9**steps) * mean)
    method.after_step()  # a second time there is nothing to follow
    torch.testing.assert_close(method.mean_context, (1 - 0.9**3) * mean)


# On a network.


@pytest.mark.parametrize(
    "name", ["arm", "causirl", "eqrm", "fishr", "mixstyle", "mmd", "sagnet", "sd"]
)
def test_a_step_on_a_timm_backbone_changes_weights_and_stays_finite(name: str):
    method: Method = build(name, backbone=timm_backbone("test_efficientnet"), lr=1e-3)
    batch = batch_of(size=12)._replace(images=torch.rand(12, 3, 32, 32))
    optimizer = torch.optim.Adam(method.param_groups())
    before = {key: value.clone() for key, value in method.state_dict().items()}
    for _ in range(2):
        tensor(method(batch, LATE)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step()
    assert all(bool(value.isfinite().all()) for value in method.state_dict().values())
    for key in ("backbone.model.conv_stem.weight", "classifier.weight"):
        assert not torch.equal(method.state_dict()[key], before[key])
    running = [key for key in before if "running_" in key]
    assert running
    assert all(torch.equal(method.state_dict()[key], before[key]) for key in running)  # frozen
