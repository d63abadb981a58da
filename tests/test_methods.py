from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import CLASSES, EMBEDDING, FEATURES, ToyBackbone, ToyTeacher, make_batch

from scmd import processes
from scmd.averaging import Average, AverageConfig
from scmd.build import build_method
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import (
    classification,
    focal_classification,
    logit_distillation,
    sample_distillation,
)
from scmd.methods import ERM, KD, METHODS, SCMD, Method, MethodConfig
from scmd.methods.ablations import ABLATIONS
from scmd.methods.base import Output
from scmd.methods.kd import KDConfig
from scmd.methods.scmd import LOG_SCALE_MAX, SCMDConfig
from scmd.models.images import as_float
from scmd.models.student import StudentConfig
from scmd.models.teacher import Teacher
from scmd.selection import Decisions, SelectionConfig, hardest

SELECTING, WHOLE = 0.0, 0.9


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def scmd(
    backbone: nn.Module | None = None, teacher: ToyTeacher | None = None, **settings: Any
) -> SCMD:
    method = SCMD(backbone or ToyBackbone(), teacher or ToyTeacher(), SCMDConfig(**settings))
    return method.train()


def tensor(output: Output, name: str = "loss") -> Tensor:
    value = output[name]
    assert isinstance(value, Tensor)
    return value


def number(output: Output, name: str = "loss") -> float:
    return tensor(output, name).item()


def decisions(output: Output) -> Decisions:
    value = output["decisions"]
    assert isinstance(value, Decisions)
    return value


# A few steps against numpy, written from the paper's equations.


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class ByHand:
    """SCMD on a linear backbone, with its gradients, Adam, clamp and average, in float64."""

    def __init__(self, method: SCMD, teacher: ToyTeacher) -> None:
        state = {name: value.double().numpy() for name, value in method.state_dict().items()}
        self.weights = {
            "W": state["backbone.linear.weight"], "b": state["backbone.linear.bias"],
            "V": state["classifier.weight"], "c": state["classifier.bias"],
            "P": state["projection.weight"], "gamma": state["log_scale"],
        }  # fmt: skip
        self.weights = {name: value.copy() for name, value in self.weights.items()}
        self.first = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.second = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.texts = teacher.text_embeddings.detach().double().numpy()
        self.table = teacher.table.detach().double().numpy()
        self.steps = 0
        self.recorded: list[dict[str, np.ndarray]] = []

    def step(self, batch: Batch, selecting: bool, config: SCMDConfig) -> dict[str, float]:
        w, tau = self.weights, config.temperature
        x = batch.images.numpy().reshape(len(batch.images), -1) / 255.0
        y, ids = batch.labels.numpy(), batch.sample_ids.numpy()
        if selecting:
            z = (x @ w["W"].T + w["b"]) @ w["V"].T + w["c"]
            losses = -np.log(softmax(z))[np.arange(len(y)), y]
            size = max(1, int(config.selection.fraction * len(y)))
            kept = np.sort(np.argsort(-losses, kind="stable")[:size])
            x, y, ids = x[kept], y[kept], ids[kept]
        n = len(y)
        f = x @ w["W"].T + w["b"]
        z = f @ w["V"].T + w["c"]
        v = f @ w["P"].T
        length = np.linalg.norm(v, axis=1, keepdims=True)
        u = v / length
        cosines, g = u @ self.texts.T, np.exp(w["gamma"])
        p, q, r = softmax(self.table[ids] / tau), softmax(z / tau), softmax(g * cosines / tau)
        onehot = np.eye(CLASSES)[y]
        ce = -np.log(softmax(z)[np.arange(n), y]).mean()
        logits = tau**2 * (p * np.log(p / q)).sum(1).mean()
        cm = tau**2 * (p * np.log(p / r)).sum(1).mean()
        loss = ce + config.lambda1 * logits + config.lambda2 * cm
        dz = (softmax(z) - onehot + config.lambda1 * tau * (q - p)) / n
        dm = config.lambda2 * tau * (r - p) / n
        du = g * dm @ self.texts
        dv = (du - u * (u * du).sum(1, keepdims=True)) / length
        df = dz @ w["V"] + dv @ w["P"]
        gradients = {
            "W": df.T @ x, "b": df.sum(0), "V": dz.T @ f, "c": dz.sum(0),
            "P": dv.T @ f, "gamma": g * (dm * cosines).sum(),
        }  # fmt: skip
        self.adam(gradients, config)
        w["gamma"] = np.clip(w["gamma"], 0, math.log(100))
        self.recorded.append({name: value.copy() for name, value in w.items()})
        return {"loss": loss, "ce": ce, "logits": logits, "cm": cm, "kept": n}

    def adam(self, gradients: dict[str, np.ndarray], config: SCMDConfig) -> None:
        self.steps += 1
        for name, gradient in gradients.items():
            weight = self.weights[name]
            if name in ("W", "V", "P"):  # coupled: part of the gradient
                gradient = gradient + config.weight_decay * weight
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
            first = self.first[name] / (1 - 0.9**self.steps)
            second = self.second[name] / (1 - 0.999**self.steps)
            lr = config.lr_scale if name == "gamma" else config.lr
            self.weights[name] = weight - lr * first / (np.sqrt(second) + 1e-8)


def assert_equals(method: Method, weights: dict[str, np.ndarray]) -> None:
    names = {
        "W": "backbone.linear.weight", "b": "backbone.linear.bias", "V": "classifier.weight",
        "c": "classifier.bias", "P": "projection.weight", "gamma": "log_scale",
    }  # fmt: skip
    state = method.state_dict()
    assert len(state) == len(names)
    for name, key in names.items():
        np.testing.assert_allclose(state[key].numpy(), weights[name], atol=2e-5, err_msg=key)


@pytest.mark.parametrize("lr_scale", [1e-2, 1.5])  # within its bounds, and clamped
def test_steps_equal_the_equations_by_hand(lr_scale: float):
    teacher = ToyTeacher()
    method = scmd(
        teacher=teacher, lr=0.01, lr_scale=lr_scale, weight_decay=0.1, lambda1=0.7, lambda2=0.9,
        temperature=2.5, selection=SelectionConfig(fraction=0.3, last_fraction=0.4),
    )  # fmt: skip
    by_hand = ByHand(method, teacher)
    average = Average(method, AverageConfig(average_start=3))
    optimizer = torch.optim.Adam(method.param_groups())
    steps = 5
    for step in range(steps):
        batch = make_batch(seed=step, size=20)
        output = method(batch, step / steps)
        optimizer.zero_grad()
        tensor(output).backward()
        optimizer.step()
        method.after_step()
        average.update(step + 1)
        expected = by_hand.step(batch, step < 3, method.config)
        assert expected["kept"] == (6 if step < 3 else 20)
        found = {name: number(output, name) for name in expected}
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert_equals(method, by_hand.weights)
    mean = {
        name: np.mean([weights[name] for weights in by_hand.recorded[2:]], axis=0)
        for name in by_hand.weights
    }
    assert_equals(average.model, mean)
    clamped = [weights["gamma"] in (0, math.log(100)) for weights in by_hand.recorded]
    assert any(clamped) == (lr_scale > 1)


# Selecting.


def test_only_the_hardest_samples_are_trained_on():
    teacher, batch = ToyTeacher(), make_batch()
    method = scmd(teacher=teacher)
    losses = method.selection_losses(batch.images / 255, batch.labels)
    kept = hardest(losses, 0.2)
    output = method(batch, SELECTING)
    part = Batch(*(value[kept] for value in batch))
    assert number(output) == pytest.approx(number(method(part, WHOLE)))
    assert number(output, "kept") == 4


def test_the_teacher_is_asked_only_about_kept_samples_and_without_gradient():
    teacher, batch = ToyTeacher(), make_batch()
    method = scmd(teacher=teacher)
    output = method(batch, SELECTING)
    ((images, ids, gradient),) = teacher.asked
    kept = decisions(output).kept
    assert torch.equal(ids, batch.sample_ids[kept])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, batch.images[kept] / 255)
    assert not gradient


@pytest.mark.parametrize("build", [scmd, lambda **parts: KD(ToyBackbone(), parts["teacher"])])
def test_in_a_whole_batch_step_the_teacher_is_asked_about_all(build: Any):
    teacher, batch = ToyTeacher(), make_batch()
    build(teacher=teacher)(batch, WHOLE)
    ((images, ids, gradient),) = teacher.asked
    assert torch.equal(ids, batch.sample_ids)
    assert len(images) == len(batch.images)
    assert not gradient


def test_selection_touches_no_running_statistic_and_draws_nothing():
    method = scmd(ToyBackbone(batch_norm=True, dropout=0.5))
    batch = make_batch()
    before = copy.deepcopy(method.state_dict())
    state = torch.random.get_rng_state()
    first, second = (method.selection_losses(batch.images / 255, batch.labels) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
    # They are the losses of the network as it predicts.
    method.eval()
    logits = method.predict(batch.images / 255)
    expected = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    torch.testing.assert_close(first, expected)
    assert not first.requires_grad


def test_running_statistics_see_the_kept_samples_once():
    method = scmd(ToyBackbone(batch_norm=True))
    batch = make_batch()
    output = method(batch, SELECTING)
    norm = method.backbone.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm1d)
    assert int(norm.num_batches_tracked or 0) == 1
    kept = decisions(output).kept
    linear = method.backbone.get_submodule("linear")
    expected = 0.1 * linear((batch.images[kept] / 255).flatten(1)).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)


def test_the_training_forward_keeps_its_dropout():
    method = scmd(ToyBackbone(dropout=0.5))
    batch = make_batch()
    losses = {number(method(batch, SELECTING)) for _ in range(3)}
    assert len(losses) == 3


def test_modes_are_as_they_were_after_a_step():
    method = scmd(ToyBackbone(batch_norm=True, dropout=0.5))
    method.backbone.get_submodule("norm").eval()  # as frozen batch norm is
    modes = [module.training for module in method.modules()]
    method(make_batch(), SELECTING)
    assert [module.training for module in method.modules()] == modes
    assert len(set(modes)) == 2


def test_batch_norm_that_sees_a_single_sample_is_an_error_with_a_way_out():
    method = scmd(ToyBackbone(batch_norm=True), selection=SelectionConfig(fraction=0.05))
    with pytest.raises(ScmdError, match="single sample") as refused:
        method(make_batch(), SELECTING)
    for part in ("0.05", "--selection.fraction", "--batch-per-domain", "--freeze-batch-norm"):
        assert part in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    method(make_batch(), WHOLE)
    method.backbone.eval()
    method(make_batch(), SELECTING)


def test_other_mistakes_of_a_backbone_stay_what_they_are(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> Tensor:
        raise ValueError("of its own")

    method = scmd()
    monkeypatch.setattr(method.backbone, "forward", refuse)
    with pytest.raises(ValueError, match=r"^of its own$"):
        method(make_batch(), WHOLE)


def built(
    per_domain: int = 2,
    num_domains: int = 1,
    frozen: bool = False,
    image_size: int = 32,
    last_fraction: float = 0.25,
    **selection: Any,
) -> Method:
    """For a run of 20 steps; the last maps of this student are an image's side over 32."""
    config = RunConfig(
        data=DataConfig(image_size=image_size),
        student=StudentConfig("test_efficientnet", pretrained=False, freeze_batch_norm=frozen),
        hparams=SCMDConfig(selection=SelectionConfig(last_fraction=last_fraction, **selection)),
        training=TrainingConfig(steps=20, batch_per_domain=per_domain),
    )
    return build_method(config, ("a", "b", "c", "d"), num_domains, lambda *_: ToyTeacher())


@pytest.mark.parametrize(
    ("shared_by", "settings"),
    [
        (1, {}),
        (1, {"rule": "random", "fraction": 0.5}),
        (1, {"scope": "domain", "fraction": 0.5}),
        (1, {"warmup": 0.7}),  # a single step selects
        (1, {"num_domains": 4}),
        (2, {"per_domain": 8, "num_domains": 2}),  # keep 3: one of the two has one
        (2, {"num_domains": 3, "scope": "domain"}),
    ],
)
def test_a_run_that_will_train_batch_norm_on_one_sample_is_refused(
    monkeypatch: pytest.MonkeyPatch, shared_by: int, settings: dict[str, Any]
):
    monkeypatch.setattr(processes, "number", lambda: shared_by)
    with pytest.raises(ScmdError, match=r"single sample.*--freeze-batch-norm"):
        built(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"frozen": True},
        {"image_size": 64},  # its maps have 2 x 2 values
        {"rule": "all"},
        {"warmup": 0.75},  # no step selects
        {"last_fraction": 1.0},
        {"fraction": 1.0},
        {"per_domain": 10},
        {"num_domains": 5},
        {"num_domains": 2, "scope": "domain"},
    ],
)
def test_a_run_that_can_train_its_batch_norm_is_not_refused(settings: dict[str, Any]):
    built(**settings)


def test_whether_a_run_is_refused_changes_no_weight_and_no_draw():
    changed = [built(image_size=64, fraction=0.2), torch.rand(1)]
    other = [built(image_size=64, fraction=1.0), torch.rand(1)]
    assert torch.equal(changed[1], other[1])
    for a, b in zip(changed[0].state_dict().values(), other[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_modes_are_as_they_were_after_a_failure():
    method = scmd(ToyBackbone(batch_norm=True))
    modes = [module.training for module in method.modules()]
    with pytest.raises(RuntimeError):
        method.selection_losses(torch.rand(2, 3, 9, 9), torch.zeros(2).long())
    assert [module.training for module in method.modules()] == modes


def test_half_precision_selection_leaves_the_gradients_alone():
    # Autocast remembers the weights that it cast; what the selection cast has no gradient.
    batch = make_batch()
    for progress in (SELECTING, WHOLE):
        method = scmd()
        with torch.autocast("cpu", torch.bfloat16):
            output = method(batch, progress)
        assert tensor(output).dtype == torch.float32
        tensor(output).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


@pytest.mark.parametrize("precision", ["same", "fp32"])
def test_the_selection_forward_has_the_precision_that_is_asked_for(precision: Any):
    seen: list[torch.dtype] = []
    backbone = ToyBackbone()
    backbone.linear.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    method = scmd(backbone, selection=SelectionConfig(precision=precision))
    with torch.autocast("cpu", torch.bfloat16):
        method(make_batch(), SELECTING)
    selecting, training = seen
    assert training == torch.bfloat16
    assert selecting == (torch.float32 if precision == "fp32" else torch.bfloat16)


# What was decided.


def test_decisions_of_a_selecting_step():
    method, batch = scmd(), make_batch()
    losses, kept = decisions(method(batch, SELECTING))
    torch.testing.assert_close(losses, method.selection_losses(batch.images / 255, batch.labels))
    assert torch.equal(kept, hardest(losses, 0.2))
    assert (losses.dtype, kept.dtype) == (torch.float32, torch.bool)
    assert not losses.requires_grad


def test_decisions_of_a_whole_batch_step():
    for progress, config in ((WHOLE, SelectionConfig()), (SELECTING, SelectionConfig(rule="all"))):
        method, batch = scmd(selection=config), make_batch()
        output = method(batch, progress)
        losses, kept = decisions(output)
        torch.testing.assert_close(
            losses, method.selection_losses(batch.images / 255, batch.labels)
        )
        assert kept.all()
        assert number(output, "kept") == 20
        assert not losses.requires_grad


def test_decisions_of_random_selection_have_the_losses_that_were_computed():
    calls: list[int] = []
    backbone = ToyBackbone()
    backbone.register_forward_hook(lambda *call: calls.append(len(call[2])))
    method = scmd(backbone, selection=SelectionConfig(rule="random"))
    batch = make_batch()
    losses, kept = decisions(method(batch, SELECTING))
    assert calls == [4]  # no forward was spent on selecting
    assert kept.sum() == 4
    expected = nn.functional.cross_entropy(
        method.predict(batch.images / 255), batch.labels, reduction="none"
    )
    torch.testing.assert_close(losses[kept], expected[kept])
    assert losses[~kept].isnan().all()


def test_scope_domain_keeps_of_every_domain():
    method = scmd(selection=SelectionConfig(scope="domain"))
    batch = make_batch(size=40, domains=4)
    kept = decisions(method(batch, SELECTING)).kept
    assert torch.bincount(batch.domains[kept]).tolist() == [2, 2, 2, 2]


# Ablations.


def test_kd_loss_keeps_the_samples_that_disagree_most_with_the_teacher():
    teacher, batch = ToyTeacher(), make_batch()
    method = scmd(teacher=teacher, temperature=2, selection=SelectionConfig(rule="kd-loss"))
    student = method.predict(batch.images / 255).detach().double().numpy()
    opinion = teacher.table[batch.sample_ids].detach().double().numpy()
    p, q = softmax(opinion / 2), softmax(student / 2)
    expected = 4 * (p * np.log(p / q)).sum(1)
    losses, kept = decisions(method(batch, SELECTING))
    np.testing.assert_allclose(losses.double().numpy(), expected, rtol=1e-4)
    assert set(kept.nonzero().flatten().tolist()) == set(np.argsort(-expected)[:4])
    assert not torch.equal(kept, decisions(scmd()(batch, SELECTING)).kept)
    assert not losses.requires_grad


def test_kd_loss_asks_the_teacher_once_about_all_and_trains_on_the_kept():
    teacher, batch = ToyTeacher(), make_batch()
    method = scmd(ToyBackbone(batch_norm=True), teacher, selection=SelectionConfig(rule="kd-loss"))
    output = method(batch, SELECTING)
    ((images, ids, gradient),) = teacher.asked
    assert torch.equal(ids, batch.sample_ids)
    assert len(images) == len(batch.images)
    assert not gradient
    part = Batch(*(value[decisions(output).kept] for value in batch))
    whole = method(part, WHOLE)
    for name in ("loss", "ce", "logits", "cm", "kept"):
        assert number(output, name) == pytest.approx(number(whole, name), rel=1e-5)


def test_kd_loss_records_the_same_kind_of_loss_in_every_step():
    method = scmd(selection=SelectionConfig(rule="kd-loss"))
    batch = make_batch()
    selecting, whole = (decisions(method(batch, progress)) for progress in (SELECTING, WHOLE))
    torch.testing.assert_close(selecting.losses, whole.losses)
    assert whole.kept.all()


def test_sample_distillation_has_the_mean_that_is_trained_on():
    student, teacher = torch.randn(2, 9, CLASSES)
    each = sample_distillation(teacher, student, 3.0)
    assert each.shape == (9,)
    torch.testing.assert_close(each.mean(), logit_distillation(teacher, student, 3.0))


def test_focal_loss_in_closed_form():
    # One right class of two with probability p: (1 − p)^γ (−ln p).
    for p in (0.01, 0.5, 0.99):
        logits = torch.tensor([[math.log(p / (1 - p)), 0.0]])
        for gamma in (0.5, 1.0, 2.0):
            loss = focal_classification(logits, torch.tensor([0]), gamma)
            assert loss.item() == pytest.approx(-((1 - p) ** gamma) * math.log(p), rel=1e-4)


def test_focal_loss_without_its_exponent_is_cross_entropy_to_the_bit():
    logits, labels = 4 * torch.randn(20, CLASSES), torch.randint(CLASSES, (20,))
    expected = nn.functional.cross_entropy(logits, labels, reduction="none").mean()
    assert torch.equal(focal_classification(logits, labels, 0.0), expected)
    assert focal_classification(logits, labels, 2.0) < expected


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_sample_has_a_gradient(gamma: float):
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = focal_classification(logits.bfloat16(), torch.tensor([0, 0]), gamma)
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().sum() > 0


def test_focal_loss_takes_the_place_of_cross_entropy():
    settings = {"lambda1": 0, "lambda2": 0, "focal_gamma": 2.0}
    method = scmd(**settings, selection=SelectionConfig(rule="all"))
    batch = make_batch()
    output = method(batch, SELECTING)
    p = method.predict(batch.images / 255).softmax(1)[torch.arange(20), batch.labels]
    assert number(output) == pytest.approx(float(((1 - p) ** 2 * -p.log()).mean().detach()))
    # The record holds plain cross-entropies, as of every other ablation.
    torch.testing.assert_close(decisions(output).losses, -p.log().detach())


def changed(config: SCMDConfig, changes: Mapping[str, Any]) -> SCMDConfig:
    for name, value in changes.items():
        outer, _, inner = name.partition(".")
        part = getattr(config, outer)
        config = replace(config, **{outer: replace(part, **{inner: value}) if inner else value})
    return config


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_an_ablation_is_scmd_with_something_changed(name: str):
    method_name, changes = ABLATIONS[name]
    assert METHODS[method_name] is SCMD
    assert name not in METHODS
    config = changed(SCMDConfig(), changes)
    assert config != SCMDConfig()
    method, batch = SCMD(ToyBackbone(), ToyTeacher(), config).train(), make_batch()
    output = method(batch, SELECTING)
    assert number(output, "kept") == (20 if config.selection.rule == "all" else 4)
    expected = number(output, "ce")
    expected += config.lambda1 * number(output, "logits") + config.lambda2 * number(output, "cm")
    assert number(output) == pytest.approx(expected, rel=1e-6)
    tensor(output).backward()
    without = {"scmd-no-cm": ["projection.weight", "log_scale"]}.get(name, [])
    for part, parameter in method.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        assert learns == (part not in without), part


# The teacher stays outside.


@pytest.mark.parametrize("name", ["kd", "scmd"])
def test_the_teacher_is_no_part_of_a_method(name: str):
    teacher = ToyTeacher()
    method = METHODS[name](ToyBackbone(), teacher).train()
    own = {"backbone", "classifier", "projection", "log_scale"}
    for names in (
        dict(method.named_parameters()),
        method.state_dict(),
        dict(method.named_modules()),
    ):
        assert {key.split(".")[0] for key in names if key} <= own
    assert not any(module is teacher for module in method.modules())
    assert copy.deepcopy(method).teacher is teacher
    tensor(method(make_batch(), SELECTING)).backward()
    assert teacher.table.grad is None
    assert teacher.text_embeddings.grad is None


def test_any_object_with_two_members_is_a_teacher():
    class Plain:
        def __init__(self) -> None:
            self.text_embeddings = torch.eye(CLASSES, EMBEDDING)

        def logits(self, images: Tensor, sample_ids: Tensor) -> Tensor:
            return images.mean((2, 3)) @ torch.ones(3, CLASSES)

    teacher: Teacher = Plain()
    assert tensor(SCMD(ToyBackbone(), teacher)(make_batch(), SELECTING)).isfinite()


@pytest.mark.parametrize("method", [SCMD, KD])
def test_a_missing_teacher_is_an_error(method: type[Method]):
    with pytest.raises(ScmdError, match=f"{method.__name__} needs a teacher"):
        method(ToyBackbone(), None, num_classes=CLASSES)


def test_erm_needs_no_teacher_but_the_number_of_classes():
    assert ERM(ToyBackbone(), None, num_classes=7).classifier.out_features == 7
    assert ERM(ToyBackbone(), ToyTeacher()).classifier.out_features == CLASSES
    with pytest.raises(ScmdError, match="ERM needs num_classes or a teacher"):
        ERM(ToyBackbone(), None)
    with pytest.raises(ScmdError, match="built without a teacher"):
        _ = ERM(ToyBackbone(), None, num_classes=7).teacher


# The baselines are special cases.


def gradients(method: Method, batch: Batch, progress: float) -> tuple[float, dict[str, Tensor]]:
    output = method(batch, progress)
    tensor(output).backward()
    found = {
        name: parameter.grad
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    return number(output), found


def same_start(first: Method, second: Method) -> None:
    state = first.state_dict()
    second.load_state_dict({**second.state_dict(), **state})


def test_kd_is_scmd_without_selection_and_without_the_cross_modality_loss():
    kd = KD(ToyBackbone(), ToyTeacher(), KDConfig(lambda1=0.6, temperature=2))
    whole = scmd(lambda1=0.6, lambda2=0, temperature=2, selection=SelectionConfig(rule="all"))
    same_start(kd, whole)
    (loss, found), (other, expected) = (gradients(m, make_batch(), SELECTING) for m in (kd, whole))
    assert loss == pytest.approx(other, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_erm_is_kd_without_distillation():
    erm = ERM(ToyBackbone(), None, num_classes=CLASSES)
    kd = KD(ToyBackbone(), ToyTeacher(), KDConfig(lambda1=0))
    same_start(erm, kd)
    (loss, found), (other, expected) = (gradients(m, make_batch(), SELECTING) for m in (erm, kd))
    assert loss == pytest.approx(other, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_one_seed_gives_all_methods_the_same_initial_classifier():
    starts = []
    for method in METHODS.values():
        torch.manual_seed(3)
        starts.append(method(ToyBackbone(), ToyTeacher(), num_domains=2).state_dict())
    for name in ("backbone.linear.weight", "classifier.weight", "classifier.bias"):
        assert all(torch.equal(start[name], starts[0][name]) for start in starts)


@pytest.mark.parametrize("name", list(METHODS))
def test_uint8_and_float_images_give_the_same_loss(name: str):
    method = METHODS[name](ToyBackbone(), ToyTeacher(), num_domains=2)
    batch = make_batch()
    scaled = batch._replace(images=batch.images.float() / 255)
    given = scaled.images.clone()
    for progress in (SELECTING, WHOLE):
        losses = []
        for images in (batch, scaled):
            torch.manual_seed(0)  # for methods that draw
            losses.append(number(method(images, progress)))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.equal(scaled.images, given)
    assert batch.images.dtype == torch.uint8


@pytest.mark.parametrize("name", ["erm", "kd", "scmd"])
def test_a_loss_is_the_weighted_sum_of_its_parts(name: str):
    output = METHODS[name](ToyBackbone(), ToyTeacher())(make_batch(), SELECTING)
    weights = {"ce": 1.0, "logits": 0.5, "cm": 0.5}
    parts = {part: number(output, part) for part in weights if part in output}
    assert sum(weights[part] * value for part, value in parts.items()) == pytest.approx(
        number(output), rel=1e-6
    )


@pytest.mark.parametrize("name", list(METHODS))
def test_of_what_is_logged_the_loss_alone_has_a_gradient(name: str):
    method = METHODS[name](ToyBackbone(), ToyTeacher(), num_domains=2)
    output = method(make_batch(), SELECTING)
    scalars = [key for key in output if key != "decisions"]
    assert [key for key in scalars if tensor(output, key).requires_grad] == ["loss"]
    assert all(tensor(output, key).ndim == 0 for key in scalars)


# Parameter groups.


def settings_of(method: Method) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in method.param_groups():
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert found.keys() == set(names.values())
    return found


def test_weights_decay_and_biases_norms_and_the_scale_do_not():
    method = scmd(ToyBackbone(batch_norm=True), lr=1e-3, lr_scale=0.2, weight_decay=0.1)
    assert settings_of(method) == {
        "backbone.linear.weight": (1e-3, 0.1),
        "backbone.linear.bias": (1e-3, 0.0),
        "backbone.norm.weight": (1e-3, 0.0),
        "backbone.norm.bias": (1e-3, 0.0),
        "classifier.weight": (1e-3, 0.1),
        "classifier.bias": (1e-3, 0.0),
        "projection.weight": (1e-3, 0.1),
        "log_scale": (0.2, 0.0),
    }


def test_decay_all_decays_all():
    method = scmd(ToyBackbone(batch_norm=True), lr_scale=0.2, weight_decay=0.1, decay_all=True)
    found = settings_of(method)
    assert {decay for _, decay in found.values()} == {0.1}
    assert found["log_scale"] == (0.2, 0.1)


@pytest.mark.parametrize("name", ["erm", "kd"])
def test_the_baselines_have_one_learning_rate(name: str):
    config = METHODS[name].Config(lr=2e-3, weight_decay=0.1)
    found = settings_of(METHODS[name](ToyBackbone(), ToyTeacher(), config))
    assert {lr for lr, _ in found.values()} == {2e-3}
    assert found["classifier.weight"] == (2e-3, 0.1)
    assert found["classifier.bias"] == (2e-3, 0.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [(-3.0, 0.0), (0.0, 0.0), (2.5, 2.5), (LOG_SCALE_MAX, LOG_SCALE_MAX), (7.0, math.log(100))],
)
def test_the_scale_is_clamped_after_a_step(before: float, after: float):
    method = scmd()
    assert method.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        method.log_scale.fill_(before)
    method.after_step()
    assert method.log_scale.item() == pytest.approx(after)
    assert method.log_scale.requires_grad


# A backbone that does not tell the number of its features.


def test_the_number_of_features_is_taken_from_the_first_forward():
    method = scmd(ToyBackbone(9, tells_features=False), weight_decay=0.1)
    before = settings_of(method)
    optimizer = torch.optim.Adam(method.param_groups())
    start = method(make_batch(), SELECTING)
    assert method.classifier.weight.shape == (CLASSES, 9)
    assert method.projection.weight.shape == (EMBEDDING, 9)
    assert settings_of(method) == before
    assert before["projection.weight"][1] == before["classifier.weight"][1] == 0.1
    tensor(start).backward()
    weight = method.classifier.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(method.classifier.weight, weight)


def test_the_projection_has_no_bias():
    method = scmd()
    assert method.projection.bias is None
    assert method.projection.weight.shape == (EMBEDDING, FEATURES)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (MethodConfig, {"lr": 0.0}, "lr = 0.0: give a number above 0"),
        (MethodConfig, {"lr": math.inf}, "lr = inf"),
        (MethodConfig, {"weight_decay": -1.0}, "weight_decay = -1.0"),
        (KDConfig, {"lambda1": -0.5}, "lambda1 = -0.5"),
        (KDConfig, {"temperature": 0.0}, "temperature = 0.0"),
        (SCMDConfig, {"lambda1": -0.5}, "lambda1 = -0.5"),
        (SCMDConfig, {"lambda2": math.nan}, "lambda2 = nan"),
        (SCMDConfig, {"temperature": -3.0}, "temperature = -3.0"),
        (SCMDConfig, {"lr_scale": 0.0}, "lr_scale = 0.0"),
        (SCMDConfig, {"focal_gamma": -1.0}, "focal_gamma = -1.0"),
    ],
)
def test_settings_out_of_range_are_errors(
    config: type[MethodConfig], settings: dict[str, float], message: str
):
    with pytest.raises(ScmdError, match=message):
        config(**settings)  # type: ignore[arg-type]


def test_the_method_of_the_readme_is_one():
    """What the README calls a method is one: it trains, and smoothing 0 is cross-entropy."""
    page = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.S) if "(Method)" in c)
    imports = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch.nn import functional as F\n"
        "from scmd.data.loader import Batch\n"
        "from scmd.methods.base import Method, MethodConfig, Output\n"
        "from scmd.methods.search import Uniform\n"
        "from scmd.models.images import as_float\n"
    )
    names: dict = {"__name__": __name__}
    exec(compile(imports + example, "README.md", "exec"), names)
    config = names["LabelSmoothingConfig"](smoothing=0.0)
    method = names["LabelSmoothing"](ToyBackbone(), None, config, CLASSES)
    batch = make_batch()
    loss = method(batch, 0.0)["loss"]
    expected = classification(method.predict(as_float(batch.images)), batch.labels)
    torch.testing.assert_close(loss, expected)
