"""The baselines of domain generalization: for each, what sets it apart from ERM."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import CLASSES, FEATURES, ToyBackbone, make_batch

from scmd.averaging import Average, AverageConfig
from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.methods import ERM, METHODS, Method
from scmd.methods.base import Output
from scmd.methods.coral import coral_distance
from scmd.methods.dann import DANN
from scmd.methods.groupdro import GroupDRO
from scmd.methods.irm import IRM, invariance_penalty, scale_gradients
from scmd.methods.layers import channel_place, layer_features, stages
from scmd.methods.miro import MIRO, VARIANCE_MIN, information_bound
from scmd.methods.mixup import Mixup
from scmd.methods.mldg import MLDG
from scmd.methods.per_domain import domain_risks, random_pairs, rows_by_domain
from scmd.methods.rsc import RSC, largest
from scmd.methods.vrex import VREx, variance
from scmd.models.images import Normalize
from scmd.models.student import StudentConfig, TimmBackbone, create_backbone

BASELINES = (
    "arm", "causirl", "coral", "dann", "eqrm", "fishr", "groupdro", "irm", "miro", "mixstyle",
    "mixup", "mldg", "mmd", "rsc", "sagnet", "sd", "vrex",
)  # fmt: skip
PER_DOMAIN = (
    "arm", "causirl", "coral", "eqrm", "fishr", "groupdro", "irm", "mixup", "mldg", "mmd", "vrex",
)  # fmt: skip
DOMAINS = 3
LATE = 0.9


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def build(
    name: str, domains: int = DOMAINS, backbone: nn.Module | None = None, **settings: Any
) -> Method:
    torch.manual_seed(1)
    config = METHODS[name].Config(**settings)
    return METHODS[name](backbone or ToyBackbone(), None, config, CLASSES, domains).train()


def batch_of(seed: int = 0, size: int = 24, domains: int = DOMAINS) -> Batch:
    return make_batch(seed, size, domains)


def tensor(output: Output, name: str = "loss") -> Tensor:
    value = output[name]
    assert isinstance(value, Tensor)
    return value


def number(output: Output, name: str = "loss") -> float:
    return tensor(output, name).item()


def features_and_logits(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    features = method.backbone(batch.images / 255)
    return features, method.classifier(features)


def sample_losses(method: Method, batch: Batch) -> Tensor:
    return F.cross_entropy(features_and_logits(method, batch)[1], batch.labels, reduction="none")


def gradients(method: Method, loss: Tensor) -> dict[str, Tensor]:
    """Of the part that is deployed."""
    named = {
        name: parameter
        for name, parameter in method.named_parameters()
        if name.startswith(("backbone.", "classifier."))
    }
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def take_step(method: Method, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """As the training loop does: every step has its own random numbers."""
    torch.manual_seed(step)
    tensor(method(batch_of(step), step / steps)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    method.after_step()


# What all of them have in common.


@pytest.mark.parametrize("name", BASELINES)
def test_the_average_is_that_of_the_weights_and_predicts(name: str):
    method = build(name, lr=1e-2)
    average = Average(method, AverageConfig(average_start=2))
    optimizer = torch.optim.Adam(method.param_groups())
    recorded = []
    for step in range(4):
        take_step(method, optimizer, step, 4)
        average.update(step + 1)
        recorded.append(copy.deepcopy(method.state_dict()))
    expected = ERM(ToyBackbone(), None, num_classes=CLASSES)
    expected.load_state_dict(
        {key: torch.stack([r[key] for r in recorded[1:]]).mean(0) for key in expected.state_dict()}
    )
    images = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(average.model.predict(images), expected.predict(images))
    assert not torch.equal(average.model.predict(images), method.predict(images))
    again = Average(build(name), AverageConfig())
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.model.predict(images), average.model.predict(images))


@pytest.mark.parametrize("name", BASELINES)
def test_resumed_equals_uninterrupted(name: str):
    steps, stop = 6, 3
    method = build(name, lr=1e-2)
    optimizer = torch.optim.Adam(method.param_groups())
    for step in range(stop):
        take_step(method, optimizer, step, steps)
    state = copy.deepcopy((method.state_dict(), optimizer.state_dict()))
    for step in range(stop, steps):
        take_step(method, optimizer, step, steps)
    resumed = build(name, lr=1e-2)
    again = torch.optim.Adam(resumed.param_groups())
    resumed(batch_of(7), 0.5)  # a trial, as the estimate of a run's duration makes
    resumed.load_state_dict(state[0])
    again.load_state_dict(state[1])
    for step in range(stop, steps):
        take_step(resumed, again, step, steps)
    expected = method.state_dict()
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", BASELINES)
def test_a_forward_changes_nothing(name: str):
    method = build(name)
    before = copy.deepcopy(method.state_dict())
    tensor(method(batch_of(), LATE)).backward()
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", BASELINES)
def test_a_loss_is_in_float32_in_half_precision_too(name: str):
    method = build(name)
    whole = number(method(batch_of(), LATE))
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(batch_of(), LATE)
    assert all(tensor(output, key).dtype == torch.float32 for key in output)
    assert number(output) == pytest.approx(whole, rel=0.3)  # the draws of some differ
    tensor(output).backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("coral", {"penalty_weight": 0.0}),
        ("dann", {"reversal": 0.0}),
        ("groupdro", {"eta": 0.0}),
        ("irm", {"penalty_weight": 0.0}),
        ("miro", {"penalty_weight": 0.0}),
        ("mixup", {}),
        ("mldg", {"meta_weight": 0.0}),
        ("rsc", {"feature_fraction": 0.0}),
        ("rsc", {"batch_fraction": 0.0}),
        ("vrex", {"penalty_weight": 0.0}),
    ],
)
def test_without_what_sets_it_apart_it_is_erm(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Mixup, "draw", lambda self, number: torch.ones(number))
    method, erm, batch = build(name, **settings), build("erm"), batch_of()
    output, expected = method(batch, LATE), erm(batch, LATE)
    assert number(output, "ce") == pytest.approx(number(expected), rel=1e-5)
    assert_same(gradients(method, tensor(output)), gradients(erm, tensor(expected)))


@pytest.mark.parametrize("name", BASELINES)
def test_with_its_defaults_it_is_not_erm(name: str):
    method, erm = build(name), build("erm")
    for step in range(2):  # MIRO pulls back only once there is something to pull back from
        take_step(method, torch.optim.Adam(method.param_groups(), lr=1e-2), step, 20)
    erm.load_state_dict({key: method.state_dict()[key] for key in erm.state_dict()})
    found = gradients(method, tensor(method(batch_of(), LATE)))
    expected = gradients(erm, tensor(erm(batch_of(), LATE)))
    distance = sum((found[key] - expected[key]).abs().sum() for key in found)
    assert float(distance) > 1e-3


@pytest.mark.parametrize("name", BASELINES)
def test_all_that_a_search_draws_is_a_configuration(name: str):
    rng = np.random.RandomState(0)
    method = METHODS[name]
    for _ in range(50):
        drawn = {key: values.draw(rng) for key, values in method.search_space.items()}
        assert isinstance(build(name, **drawn), method)
    assert {"lr", "weight_decay"} < method.search_space.keys()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("coral", {"penalty_weight": -1.0}, "penalty_weight = -1.0: give a number from 0"),
        ("dann", {"reversal": -1.0}, "reversal = -1.0: give a number from 0"),
        ("dann", {"gradient_penalty": math.nan}, "gradient_penalty = nan"),
        ("dann", {"lr_discriminator": 0.0}, "lr_discriminator = 0.0: give a number above 0"),
        ("dann", {"depth": 1}, "depth = 1: give a whole number from 2"),
        ("dann", {"depth": 3.5}, "depth = 3.5: give a whole number from 2 to 32"),
        ("dann", {"width": 0}, "width = 0: give a whole number from 1"),
        ("dann", {"width": 10**12}, "width = 1000000000000: give a whole number from 1 to 8192"),
        ("dann", {"dropout": 1.0}, r"dropout = 1.0: give a number in \[0, 1\)"),
        ("groupdro", {"eta": -0.1}, "eta = -0.1"),
        ("irm", {"penalty_weight": math.inf}, "penalty_weight = inf"),
        ("vrex", {"anneal": -0.1}, "anneal = -0.1"),
        ("miro", {"penalty_weight": -1.0}, "penalty_weight = -1.0"),
        ("miro", {"encoder_lr_factor": 0.0}, "encoder_lr_factor = 0.0"),
        ("mixup", {"alpha": 0.0}, "alpha = 0.0"),
        ("mixup", {"alpha": 1e-60}, "alpha = 1e-60: give a number from 1.2e-38"),
        ("mldg", {"meta_weight": -1.0}, "meta_weight = -1.0"),
        ("mldg", {"inner_lr": -1.0}, "inner_lr = -1.0"),
        ("rsc", {"feature_fraction": 1.0}, r"feature_fraction = 1.0: give a number in \[0, 1\)"),
        ("rsc", {"batch_fraction": -0.1}, "batch_fraction = -0.1"),
    ],
)
def test_settings_out_of_range_are_errors(name: str, settings: dict[str, Any], message: str):
    with pytest.raises(ScmdError, match=message):
        METHODS[name].Config(**settings)


# Telling the domains of a batch apart.


def test_rows_and_risks_of_domains_in_any_order():
    domains = torch.tensor([2, 0, 1, 0, 2, 1])
    losses = torch.tensor([5.0, 1.0, 3.0, 2.0, 6.0, 4.0])
    assert [rows.tolist() for rows in rows_by_domain(domains)] == [[1, 3], [2, 5], [0, 4]]
    torch.testing.assert_close(domain_risks(losses, domains), torch.tensor([1.5, 3.5, 5.5]))


def test_every_domain_is_once_the_first_and_once_the_second_of_a_pair():
    seen = set()
    for _ in range(50):
        pairs = random_pairs(4)
        assert sorted(i for i, _ in pairs) == sorted(j for _, j in pairs) == [0, 1, 2, 3]
        assert all(i != j for i, j in pairs)
        seen.add(frozenset(pairs))
    assert len(seen) == 6  # all rings of four


@pytest.mark.parametrize("name", PER_DOMAIN)
def test_a_single_domain_is_an_error(name: str):
    with pytest.raises(ScmdError, match=r"of a single domain.*Add a source"):
        build(name, domains=1)(batch_of(domains=1), 0.0)


def test_one_source_leaves_a_discriminator_nothing_to_tell_apart():
    with pytest.raises(ScmdError, match=r"there is a single source.*Add a source"):
        build("dann", domains=1)


@pytest.mark.parametrize("name", ["coral", "irm"])
def test_two_images_of_a_domain_are_needed(name: str):
    with pytest.raises(ScmdError, match=r"1 image of a domain.*needs 2.*--batch-per-domain"):
        build(name)(batch_of(size=DOMAINS), 0.0)


@pytest.mark.parametrize("name", ["dann", "groupdro"])
def test_the_number_of_sources_has_to_be_told(name: str):
    with pytest.raises(ScmdError, match=f"{METHODS[name].__name__} needs num_domains"):
        METHODS[name](ToyBackbone(), None, num_classes=CLASSES)


# Mixup.


def test_mixup_mixes_images_and_losses_of_different_domains(monkeypatch: pytest.MonkeyPatch):
    part = torch.tensor([0.3, 0.6, 0.9])
    monkeypatch.setattr(Mixup, "draw", lambda self, number: part)
    monkeypatch.setattr("scmd.methods.mixup.random_pairs", lambda number: [(1, 0), (0, 2), (2, 1)])
    method, batch = build("mixup"), batch_of()
    rows = rows_by_domain(batch.domains)
    expected = []
    for (i, j), own in zip([(1, 0), (0, 2), (2, 1)], part, strict=True):
        mixed = (own * batch.images[rows[i]] + (1 - own) * batch.images[rows[j]]) / 255
        logits = method.predict(mixed)
        one_hot = F.one_hot(batch.labels, CLASSES).float()
        target = own * one_hot[rows[i]] + (1 - own) * one_hot[rows[j]]
        expected.append(F.cross_entropy(logits, target))
    output = method(batch, 0.0)
    torch.testing.assert_close(tensor(output), torch.stack(expected).mean())


def test_mixup_draws_from_the_beta_distribution():
    for alpha in (0.1, 0.2, 10.0):
        method = cast(Mixup, build("mixup", alpha=alpha))
        drawn = method.draw(20_000)
        assert float(drawn.min()) >= 0
        assert float(drawn.max()) <= 1
        assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(drawn.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


# CORAL.


def test_coral_is_zero_for_domains_that_are_alike():
    features = torch.randn(8, FEATURES)
    shuffled = features[torch.randperm(8)]
    assert float(coral_distance([features, shuffled, features])) == pytest.approx(0, abs=1e-6)
    method, batch = build("coral"), batch_of()
    alike = batch._replace(images=batch.images[:8].repeat(3, 1, 1, 1))
    assert number(method(alike, 0.0), "penalty") == pytest.approx(0, abs=1e-6)
    assert number(method(batch, 0.0), "penalty") > 1e-4


def test_coral_equals_its_closed_form():
    domains = [torch.randn(n, FEATURES) * scale for n, scale in ((5, 1.0), (7, 2.0), (9, 0.5))]
    means = [d.numpy().mean(0) for d in domains]
    covariances = [np.cov(d.numpy(), rowvar=False) for d in domains]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean(
        [
            ((means[i] - means[j]) ** 2).mean() + ((covariances[i] - covariances[j]) ** 2).mean()
            for i, j in pairs
        ]
    )
    assert float(coral_distance(domains)) == pytest.approx(expected, rel=1e-4)
    shifted = [domains[0], domains[0] + 3]
    assert float(coral_distance(shifted)) == pytest.approx(9, rel=1e-4)


# GroupDRO.


def test_groupdro_raises_the_weight_of_the_worst_domain():
    eta = 0.7
    method, batch = cast(GroupDRO, build("groupdro", eta=eta)), batch_of()
    assert method.q.tolist() == pytest.approx([1 / 3] * 3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.0)
    log_q = torch.zeros(3)
    risks = sample_losses(method, batch).detach().view(3, -1).mean(1)
    for _ in range(3):
        output = method(batch, 0.0)
        optimizer.step()
        method.after_step()
        log_q = log_q + eta * risks
        torch.testing.assert_close(method.q, log_q.softmax(0))
        assert number(output) == pytest.approx(float((log_q.softmax(0) * risks).sum()), rel=1e-5)
        assert number(output, "worst") == pytest.approx(float(risks.max()))
        assert number(output, "largest_q") == pytest.approx(float(method.q.max()))
    assert int(method.q.argmax()) == int(risks.argmax())


def test_groupdro_takes_no_gradient_through_its_weights():
    method, batch = cast(GroupDRO, build("groupdro", eta=0.7)), batch_of()
    found = gradients(method, tensor(method(batch, 0.0)))
    risks = sample_losses(method, batch).view(3, -1).mean(1)
    q = (0.7 * risks.detach()).softmax(0)
    assert_same(found, gradients(method, (q * risks).sum()))


def test_groupdro_averages_have_the_live_weights_of_the_domains():
    method = cast(GroupDRO, build("groupdro", eta=0.7))
    average = Average(method, AverageConfig(average_start=1))
    optimizer = torch.optim.Adam(method.param_groups())
    for step in range(2):
        take_step(method, optimizer, step, 2)
        average.update(step + 1)
    assert torch.equal(cast(GroupDRO, average.model).q, method.q)


def test_groupdro_wants_all_its_domains():
    with pytest.raises(ScmdError, match="of 2 domains, the method was built for 3"):
        build("groupdro")(batch_of(domains=2), 0.0)


# V-REx and IRM.


def test_the_penalty_of_vrex_is_the_variance_of_the_risks():
    assert float(variance(torch.tensor([0.7, 0.7, 0.7]))) == 0
    risks = torch.rand(4)
    assert float(variance(risks)) == pytest.approx(float(np.var(risks.numpy())), rel=1e-5)
    method, batch = build("vrex", penalty_weight=10.0), batch_of()
    own = sample_losses(method, batch).detach().view(3, -1).mean(1).numpy()
    assert number(method(batch, LATE)) == pytest.approx(own.mean() + 10 * own.var(), rel=1e-5)
    alike = Batch(*(part[:8].repeat(3, *[1] * (part.ndim - 1)) for part in batch))
    output = method(alike._replace(domains=batch.domains), LATE)
    assert number(output, "penalty") == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("name", "weight"), [("vrex", 10.0), ("irm", 100.0)])
def test_a_penalty_has_the_weight_one_until_it_is_annealed(name: str, weight: float):
    method, batch = build(name), batch_of()
    for progress, expected in ((0.0, 1.0), (499 / 5000, 1.0), (500 / 5000, weight), (1, weight)):
        output = method(batch, progress)
        total = number(output, "ce") + expected * number(output, "penalty")
        assert number(output) == pytest.approx(total, rel=1e-5)
    config = METHODS[name].Config
    assert config().phases() == (0.1,)
    assert config(anneal=0.0).phases() == config(anneal=1.0).phases() == ()  # type: ignore[call-arg]
    assert number(build(name, anneal=1.5)(batch, 0.999)) == number(method(batch, 0.0))


def test_the_gradient_for_the_scale_is_that_of_the_cross_entropy():
    logits, labels = 2 * torch.randn(7, CLASSES), torch.randint(CLASSES, (7,))
    found = scale_gradients(logits, labels)
    scale = torch.ones(7, 1, dtype=torch.float64, requires_grad=True)
    losses = F.cross_entropy(scale * logits.double(), labels, reduction="sum")
    (expected,) = torch.autograd.grad(losses, scale)
    torch.testing.assert_close(found.double(), expected.squeeze(1), rtol=1e-5, atol=1e-6)
    above, below = (
        F.cross_entropy(s * logits.double(), labels, reduction="none") for s in (1.0001, 0.9999)
    )
    torch.testing.assert_close(found.double(), (above - below) / 2e-4, rtol=1e-4, atol=1e-5)


def test_the_penalty_of_irm_is_zero_where_no_scale_is_better():
    labels = torch.tensor([0, 0, 1, 1])
    assert float(invariance_penalty(torch.zeros(4, 2), labels)) == 0
    # The classes are as frequent whatever the logits say: a scale of 0 would be better than 1.
    assert float(invariance_penalty(torch.tensor([[1.0, -1.0]] * 4), labels)) > 0


def test_the_penalty_of_irm_is_the_product_over_two_halves_and_has_their_gradient():
    method, batch = cast(IRM, build("irm", penalty_weight=3.0, anneal=0.0)), batch_of()
    _, logits = features_and_logits(method, batch)
    penalties = []
    for rows in rows_by_domain(batch.domains):
        scale = torch.ones((), requires_grad=True)
        halves = [
            torch.autograd.grad(
                F.cross_entropy(scale * logits[half], batch.labels[half]), scale, create_graph=True
            )[0]
            for half in (rows[::2], rows[1::2])
        ]
        penalties.append(halves[0] * halves[1])
    expected = F.cross_entropy(logits, batch.labels) + 3 * torch.stack(penalties).mean()
    output = method(batch, 0.0)
    torch.testing.assert_close(tensor(output), expected)
    assert_same(gradients(method, tensor(output)), gradients(method, expected))


# RSC.


def test_rsc_mutes_the_features_of_largest_gradient():
    method = cast(RSC, build("rsc", feature_fraction=0.5, batch_fraction=0.25))
    batch = batch_of()
    features, logits = features_and_logits(method, batch)
    own = logits.gather(1, batch.labels[:, None]).sum()
    (slopes,) = torch.autograd.grad(own, features, retain_graph=True)
    muted = method.muted(features.detach(), logits.detach(), batch.labels)
    rows = muted.any(1)
    assert int(rows.sum()) == 6
    assert muted[rows].sum(1).tolist() == [3] * 6
    for row in torch.nonzero(rows).flatten():
        assert float(slopes[row][muted[row]].min()) > float(slopes[row][~muted[row]].max())
    # The samples are those whose right class loses most.
    decisive = slopes >= slopes.sort(1).values[:, -3:-2]
    without = method.classifier(features * ~decisive)
    lost = (logits.softmax(1) - without.softmax(1)).gather(1, batch.labels[:, None]).squeeze(1)
    assert bool(lost[rows].min() > lost[~rows].max())


def test_the_loss_of_rsc_is_that_of_what_is_left():
    method, batch = cast(RSC, build("rsc")), batch_of()
    features, logits = features_and_logits(method, batch)
    muted = method.muted(features.detach(), logits.detach(), batch.labels)
    expected = F.cross_entropy(method.classifier(features * ~muted), batch.labels)
    output = method(batch, 0.0)
    torch.testing.assert_close(tensor(output), expected)
    assert_same(gradients(method, tensor(output)), gradients(method, expected))
    assert number(output, "whole_ce") == pytest.approx(
        F.cross_entropy(logits, batch.labels).item(), rel=1e-5
    )


@pytest.mark.parametrize(("size", "fraction", "count"), [(2048, 1 / 3, 683), (96, 1 / 3, 32)])
def test_rsc_mutes_as_many_as_the_percentile_does(size: int, fraction: float, count: int):
    values = torch.randperm(size).float()
    marked = largest(values, fraction)
    assert int(marked.sum()) == count
    by_percentile = values.numpy() >= np.percentile(values.numpy(), 100 * (1 - fraction))
    assert marked.tolist() == by_percentile.tolist()


# MLDG.


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def risk_gradient(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Of the cross-entropy of a linear classifier on a linear backbone."""
    w, b, v, c = weights
    f = x @ w.T + b
    dz = (softmax(f @ v.T + c) - np.eye(CLASSES)[y]) / len(y)
    df = dz @ v
    return [df.T @ x, df.sum(0), dz.T @ f, dz.sum(0)]


def test_mldg_has_the_first_order_gradient():
    alpha, beta = 0.5, 0.7
    method = build("mldg", domains=2, inner_lr=alpha, meta_weight=beta)
    batch = batch_of(domains=2)
    names = (
        "backbone.linear.weight", "backbone.linear.bias", "classifier.weight", "classifier.bias",
    )  # fmt: skip
    weights = [method.state_dict()[name].double().numpy() for name in names]
    x = batch.images.double().numpy().reshape(len(batch.images), -1) / 255
    halves = [(x[rows], batch.labels[rows].numpy()) for rows in rows_by_domain(batch.domains)]
    expected = [np.zeros_like(weight) for weight in weights]
    for train, test in (halves, halves[::-1]):
        own = risk_gradient(weights, *train)
        stepped = [weight - alpha * g for weight, g in zip(weights, own, strict=True)]
        other = risk_gradient(stepped, *test)
        expected = [e + (g + beta * o) / 2 for e, g, o in zip(expected, own, other, strict=True)]
    output = method(batch, 0.0)
    found = gradients(method, tensor(output))
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name].numpy(), value, atol=1e-6, err_msg=name)
    assert number(output) == pytest.approx(number(output, "ce") + beta * number(output, "meta"))


def test_mldg_without_an_inner_step_counts_every_risk_twice():
    method, erm, batch = build("mldg", inner_lr=0.0), build("erm"), batch_of()
    found = gradients(method, tensor(method(batch, 0.0)))
    expected = gradients(erm, tensor(erm(batch, 0.0)))
    assert_same(found, {name: 2 * value for name, value in expected.items()})


def test_mldg_leaves_frozen_weights_alone():
    backbone = ToyBackbone()
    backbone.linear.bias.requires_grad_(False)
    method = cast(MLDG, build("mldg", backbone=backbone))
    tensor(method(batch_of(), 0.0)).backward()
    assert backbone.linear.bias.grad is None
    assert backbone.linear.weight.grad is not None


# DANN.


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_dann_reverses_the_gradient_of_the_discriminator(strength: float):
    method, batch = cast(DANN, build("dann", reversal=strength)), batch_of()
    features, logits = features_and_logits(method, batch)
    domain = F.cross_entropy(method.discriminator(features), batch.domains)
    ce = F.cross_entropy(logits, batch.labels)
    output = method(batch, 0.0)
    torch.testing.assert_close(tensor(output), ce + domain)
    assert number(output, "domain") == pytest.approx(domain.item(), rel=1e-5)
    forward, backward = gradients(method, ce), gradients(method, domain)
    expected = {name: forward[name] - strength * backward[name] for name in forward}
    assert_same(gradients(method, tensor(output)), expected)
    weights = list(method.discriminator.parameters())
    plain = torch.autograd.grad(domain, weights)
    found = torch.autograd.grad(tensor(output), weights)
    for own, other in zip(found, plain, strict=True):
        torch.testing.assert_close(own, other)


def test_the_gradient_penalty_of_dann_is_the_mean_squared_slope_of_the_samples():
    method, batch = cast(DANN, build("dann", gradient_penalty=0.5)), batch_of()
    plain = build("dann")(batch, 0.0)
    features = features_and_logits(method, batch)[0].detach()
    squares = []
    for feature, domain in zip(features, batch.domains, strict=True):
        one = feature[None].requires_grad_()
        loss = F.cross_entropy(method.discriminator(one), domain[None])
        squares.append(torch.autograd.grad(loss, one)[0].square().sum())
    expected = number(plain) + 0.5 * float(torch.stack(squares).mean())
    output = method(batch, 0.0)
    assert number(output) == pytest.approx(expected, rel=1e-5)
    tensor(output).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_discriminator_is_as_it_is_told_and_has_its_own_learning_rate():
    method = cast(
        DANN,
        build(
            "dann", lr=1e-3, lr_discriminator=2e-3, width=7, depth=4, dropout=0.1, weight_decay=1.0
        ),
    )
    layers = [part for part in method.discriminator if isinstance(part, nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    assert sizes == [(FEATURES, 7), (7, 7), (7, 7), (7, DOMAINS)]
    dropout = [part.p for part in method.discriminator if isinstance(part, nn.Dropout)]
    assert dropout == [0.1] * 3
    assert rates(method) == {
        "backbone.": {1e-3}, "classifier.": {1e-3}, "discriminator.": {2e-3},
    }  # fmt: skip


def rates(method: Method) -> dict[str, set[float]]:
    """The learning rates of each part; every parameter is in one group."""
    groups = method.param_groups()
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in method.parameters())
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    found: dict[str, set[float]] = {}
    for name, parameter in method.named_parameters():
        found.setdefault(f"{name.split('.')[0]}.", set()).add(rate[id(parameter)])
    return found


# MIRO.


def timm_backbone(name: str, size: int = 32) -> TimmBackbone:
    return create_backbone(StudentConfig(name=name, pretrained=False), size)


def test_miro_pulls_towards_where_it_started_and_not_before_it_has_left():
    method, erm, batch = cast(MIRO, build("miro")), build("erm"), batch_of()
    output = method(batch, 0.0)
    assert number(output, "penalty") == pytest.approx(math.log(0.1) / 2, rel=1e-4)
    assert_same(gradients(method, tensor(output)), gradients(erm, tensor(erm(batch, 0.0))))
    start = features_and_logits(method, batch)[0].detach()
    weight = method.backbone.get_submodule("linear").weight
    with torch.no_grad():
        cast(Tensor, weight).add_(0.1 * torch.randn(cast(Tensor, weight).shape))
    moved = features_and_logits(method, batch)[0]
    expected = (math.log(0.1) + (moved - start).square() / 0.1).mean() / 2
    torch.testing.assert_close(tensor(method(batch, 0.0), "penalty"), expected.detach())


def test_the_bound_is_best_where_the_variance_is_the_mean_squared_difference():
    start, features = torch.randn(2, 9, 4, 5, 5)
    spread = (features - start).square().mean((0, 2, 3))
    bias = (spread - VARIANCE_MIN).expm1().log().requires_grad_()
    best = information_bound(features, start, bias)
    (slope,) = torch.autograd.grad(best, bias)
    torch.testing.assert_close(slope, torch.zeros(4), rtol=0, atol=1e-6)
    assert best.item() == pytest.approx(float((spread.log() + 1).mean() / 2), rel=1e-5)
    assert information_bound(features, start, bias + 0.3).item() > best.item()
    # Channels last are the same channels.
    other = information_bound(features.movedim(1, -1), start.movedim(1, -1), bias)
    torch.testing.assert_close(other, best)


def test_the_channels_are_found_by_their_number():
    assert channel_place(torch.zeros(2, 7, 5, 5), 7) == 1
    assert channel_place(torch.zeros(2, 5, 5, 7), 7) == channel_place(torch.zeros(2, 7), 7) == -1
    assert channel_place(torch.zeros(2, 7, 5, 7), 7) == 1  # maps as wide as they have channels
    assert channel_place(torch.zeros(2, 7, 7), 7) == -1  # as many tokens as channels
    assert channel_place(torch.zeros(2, 5, 5, 5), 7) is None


def test_the_frozen_copy_of_miro_is_no_part_of_it_and_goes_where_it_goes():
    method = cast(MIRO, build("miro", lr=0.1))
    frozen = method._start.value
    before = copy.deepcopy(frozen.state_dict())
    optimizer = torch.optim.Adam(method.param_groups())
    for step in range(3):
        take_step(method, optimizer, step, 3)
    for key, value in frozen.state_dict().items():
        assert torch.equal(value, before[key])
        assert not torch.equal(value, method.backbone.state_dict()[key])
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    own = {"backbone", "classifier", "variances"}
    for names in (dict(method.named_parameters()), method.state_dict()):
        assert {key.split(".")[0] for key in names} == own
    assert copy.deepcopy(method)._start.value is frozen
    method.double()
    assert {p.dtype for p in frozen.parameters()} == {torch.float64}
    method.to("meta")
    assert {p.device.type for p in frozen.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("test_efficientnet", 32, {f"model.blocks.{i}": 16 + 8 * i for i in range(3)}),
        ("test_resnet", 32, {"model.act1": 32, "model.layer1": 32, "model.layer4": 96}),
        ("test_mambaout", 64, {"model.stages.0": 16, "model.stages.3": 64}),  # channels last
        ("test_vit", 160, {f"model.blocks.{i}": 64 for i in (1, 2, 3, 5)}),  # of six
    ],
)
def test_miro_looks_at_the_stages_of_a_timm_backbone(
    name: str, size: int, expected: dict[str, int]
):
    method = cast(MIRO, build("miro", backbone=timm_backbone(name, size)))
    assert expected.items() <= method._stages.items()
    if name == "test_vit":
        assert method._stages == expected
    sizes = [len(variance) for variance in method.variances]
    assert sizes == [method.backbone.num_features, *method._stages.values()]
    batch = batch_of(size=6)
    images = torch.rand(6, 3, size, size)
    output = method(batch._replace(images=images), 0.0)
    if name != "test_vit":  # which has what differs from training to evaluation
        assert number(output, "penalty") == pytest.approx(len(sizes) * math.log(0.1) / 2, rel=1e-3)
    tensor(output).backward()
    assert all(cast(Tensor, variance.grad).abs().sum() > 0 for variance in method.variances)
    assert not any(part._forward_hooks for part in method.modules())


class Odd(nn.Module):
    """A network that lists as stages what cannot be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 3
        self.several, self.plain, self.unused = nn.Identity(), nn.Identity(), nn.Identity()
        names = {"several": 3, "plain": 3, "unused": 3, "absent": 3}
        self.feature_info = [{"module": name, "num_chs": n} for name, n in names.items()]

    def forward(self, images: Tensor) -> Tensor:
        (images,) = self.several([images])
        return self.plain(images).mean((2, 3))


def test_stages_that_cannot_be_looked_at_are_left_out():
    backbone = TimmBackbone(Odd(), Normalize((8, 8), (0.0,) * 3, (1.0,) * 3), False)
    assert stages(backbone) == {"model.plain": 3}
    assert backbone.training
    assert backbone.model.training
    assert stages(ToyBackbone()) == {}


def test_hooks_are_gone_after_a_failure_too():
    backbone = ToyBackbone()
    with pytest.raises(RuntimeError):
        layer_features(backbone, ["linear"], torch.rand(2, 3, 9, 9))
    assert not backbone.linear._forward_hooks


def test_the_encoders_of_miro_have_a_learning_rate_of_their_own():
    assert rates(build("miro", lr=1e-3, encoder_lr_factor=5.0, weight_decay=1.0)) == {
        "backbone.": {1e-3}, "classifier.": {1e-3}, "variances.": {5e-3},
    }  # fmt: skip


def test_miro_has_to_know_the_number_of_features():
    with pytest.raises(ScmdError, match="MIRO needs a backbone with num_features"):
        build("miro", backbone=ToyBackbone(tells_features=False))


def test_vrex_and_groupdro_agree_that_equal_domains_are_no_reason_to_act():
    batch = batch_of()
    alike = Batch(*(part[:8].repeat(3, *[1] * (part.ndim - 1)) for part in batch))
    alike = alike._replace(domains=batch.domains)
    erm = build("erm")
    expected = gradients(erm, tensor(erm(alike, LATE)))
    for name in ("vrex", "groupdro"):
        method = build(name)
        assert isinstance(method, VREx | GroupDRO)
        assert_same(gradients(method, tensor(method(alike, LATE))), expected)
