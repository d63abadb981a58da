"""The distillation baselines, and their losses in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import CLASSES, EMBEDDING, FEATURES, ToyBackbone, ToyTeacher, make_batch

from scmd import losses_distillation as losses
from scmd.averaging import Average, AverageConfig
from scmd.errors import ScmdError
from scmd.methods import METHODS, Method, MethodConfig
from scmd.methods.base import Output
from scmd.methods.fitnet import FitNetConfig
from scmd.methods.kd import KD, KDConfig
from scmd.methods.rise import RISE, RISEConfig
from scmd.methods.rkd import RKD, RKDConfig

NAMES = ("fitnet", "rkd", "rise")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def points(count: int = 7, size: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def unit(count: int = 7, size: int = 5, seed: int = 1) -> Tensor:
    return F.normalize(points(count, size, seed), dim=-1)


def rotation(size: int = 5) -> Tensor:
    return torch.linalg.qr(points(size, size, 9)).Q


def tensor(output: Output, name: str = "loss") -> Tensor:
    value = output[name]
    assert isinstance(value, Tensor)
    return value


def huber(difference: float) -> float:
    size = abs(difference)
    return 0.5 * size**2 if size <= 1 else size - 0.5


# FitNet.


def test_hint_is_twice_one_minus_the_cosine():
    projected, embeddings = points(), unit()
    cosines = F.cosine_similarity(projected, embeddings)
    expected = float((2 - 2 * cosines).mean())
    assert float(losses.hint(projected, embeddings)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.hint(8 * embeddings, embeddings)) == pytest.approx(0, abs=1e-10)
    assert float(losses.hint(-3 * embeddings, embeddings)) == pytest.approx(4)


# RKD.


def test_distance_relation_equals_its_formula():
    features, embeddings = points(seed=3).double().numpy(), unit().double().numpy()

    def proportions(x: np.ndarray) -> list[float]:
        distances = [np.linalg.norm(x[i] - x[j]) for i, j in permutations(range(len(x)), 2)]
        return list(np.array(distances) / np.mean(distances))

    pairs = zip(proportions(features), proportions(embeddings), strict=True)
    expected = np.mean([huber(a - b) for a, b in pairs])
    found = losses.distance_relation(*(torch.from_numpy(x).float() for x in (features, embeddings)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_distance_relation_beyond_hubers_delta():
    # Distances 0, 3, 3 (mean 2) and 2, 1, 1 (mean 4/3): proportions 0, 1.5, 1.5 and 1.5, .75, .75.
    student = torch.tensor([[0.0], [0.0], [3.0]])
    teacher = torch.tensor([[-1.0], [1.0], [0.0]])
    expected = (huber(1.5) + 2 * huber(0.75)) / 3
    assert float(losses.distance_relation(student, teacher)) == pytest.approx(expected)


def test_angle_relation_equals_its_formula():
    features, embeddings = points(seed=3).double().numpy(), unit().double().numpy()

    def cosines(x: np.ndarray) -> list[float]:
        found = []
        for i, j, k in permutations(range(len(x)), 3):
            a, b = x[i] - x[j], x[k] - x[j]
            found.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return found

    triples = zip(cosines(features), cosines(embeddings), strict=True)
    expected = np.mean([huber(a - b) for a, b in triples])
    found = losses.angle_relation(*(torch.from_numpy(x).float() for x in (features, embeddings)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_angle_relation_of_a_right_triangle_and_a_line():
    right = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    line = torch.tensor([[0.0], [1.0], [-1.0]])
    # Cosines at the three corners: 0, √½, √½ against −1, 1, 1.
    expected = (huber(1.0) + 2 * huber(1 - math.sqrt(0.5))) / 3
    assert float(losses.angle_relation(right, line)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("relation", [losses.distance_relation, losses.angle_relation])
def test_relations_see_proportions_only(relation: Callable[[Tensor, Tensor], Tensor]):
    embeddings = unit()
    same = 3.7 * embeddings @ rotation() + 11
    assert float(relation(same, embeddings)) == pytest.approx(0, abs=1e-9)
    assert float(relation(points(seed=3), embeddings)) > 1e-3
    # Another order of the samples is the same loss.
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = relation(points(seed=3)[order], embeddings[order])
    assert float(shuffled) == pytest.approx(float(relation(points(seed=3), embeddings)), rel=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_relations_of_too_few_samples_are_nothing(count: int):
    features = points(count).requires_grad_()
    loss = losses.angle_relation(features, unit(count))
    if count < 2:
        loss = loss + losses.distance_relation(features, unit(count))
    assert loss.item() == 0
    loss.backward()
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("relation", [losses.distance_relation, losses.angle_relation])
def test_relations_bear_samples_that_coincide(relation: Callable[[Tensor, Tensor], Tensor]):
    features = points()
    features[3] = features[1]
    for values in (features, torch.ones(7, 5)):  # two the same, and all
        leaf = values.clone().requires_grad_()
        relation(leaf, unit()).backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() < 100


# RISE.


def test_text_distance_is_one_minus_the_cosine_to_the_own_text():
    projected, texts = points(), unit(CLASSES)
    labels = torch.arange(7) % CLASSES
    expected = float((1 - F.cosine_similarity(projected, texts[labels])).mean())
    assert float(losses.text_distance(projected, texts, labels)) == pytest.approx(expected)
    assert float(losses.text_distance(5 * texts[labels], texts, labels)) == pytest.approx(
        0, abs=1e-6
    )


def test_text_relation_equals_its_formula():
    projected, texts = points().double().numpy(), unit(CLASSES).double().numpy()
    labels = np.arange(7) % CLASSES

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    cosines = projected @ texts.T / np.linalg.norm(projected, axis=1, keepdims=True)
    expected = np.square(softmax(cosines) - softmax(texts[labels] @ texts.T)).mean()
    expected *= (CLASSES / 3) ** 2
    found = losses.text_relation(
        torch.from_numpy(projected), torch.from_numpy(texts), torch.from_numpy(labels)
    )
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_text_relation_does_not_vanish_where_classes_are_many():
    found = []
    for classes in (7, 345):
        torch.manual_seed(0)
        texts = F.normalize(torch.randn(classes, 64), dim=-1)
        found.append(float(losses.text_relation(torch.randn(50, 64), texts, torch.arange(50) % 7)))
    assert found[0] / 10 < found[1] < 10 * found[0]


def test_a_feature_on_its_text_has_neither_distance():
    texts, labels = unit(CLASSES), torch.arange(7) % CLASSES
    assert float(losses.text_relation(2 * texts[labels], texts, labels)) == pytest.approx(
        0, abs=1e-12
    )
    wrong = texts[(labels + 1) % CLASSES]
    assert float(losses.text_relation(wrong, texts, labels)) > 1e-4


# All of them.


def all_losses(features: Tensor, embeddings: Tensor, texts: Tensor) -> list[Tensor]:
    labels = torch.arange(len(features)) % CLASSES
    return [
        losses.hint(features, embeddings),
        losses.distance_relation(features, embeddings),
        losses.angle_relation(features, embeddings),
        losses.text_distance(features, texts, labels),
        losses.text_relation(features, texts, labels),
    ]


def test_gradients_flow_to_the_student_only():
    features, embeddings, texts = (
        part.requires_grad_() for part in (points(), unit(), unit(CLASSES, seed=2))
    )
    for loss in all_losses(features, embeddings, texts):
        student, *teacher = torch.autograd.grad(
            loss, [features, embeddings, texts], allow_unused=True
        )
        assert student.abs().sum() > 0
        assert teacher == [None, None]


@pytest.mark.parametrize("autocast", [False, True])
def test_losses_are_float32_whatever_comes_in(autocast: bool):
    halves = [part.bfloat16() for part in (points(), unit(), unit(CLASSES, seed=2))]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = all_losses(*halves)
    for value, expected in zip(found, all_losses(*(h.float() for h in halves)), strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


# The methods.


def method(name: str, **settings: Any) -> Method:
    config = METHODS[name].Config(**settings)
    return METHODS[name](ToyBackbone(), ToyTeacher(), config).train()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("fitnet", {"hint": ("hint_weight", 0.7)}),
        ("rkd", {"distance": ("distance_weight", 3.0), "angle": ("angle_weight", 4.0)}),
        (
            "rise",
            {
                "logits": ("lambda1", 0.3),
                "absolute": ("absolute_weight", 1.0),
                "relative": ("relative_weight", 8.0),
            },
        ),
    ],
)
def test_a_loss_is_the_weighted_sum_of_its_parts(name: str, weights: dict[str, tuple[str, float]]):
    output = method(name, **dict(weights.values()))(make_batch(), 0.0)
    assert output.keys() == {"loss", "ce", *weights}
    parts = [weight * tensor(output, part).item() for part, (_, weight) in weights.items()]
    assert tensor(output).item() == pytest.approx(tensor(output, "ce").item() + sum(parts))
    assert all(part > 0 for part in parts)


def test_rkds_weights_have_the_papers_ratio():
    config = RKDConfig()
    assert (config.distance_weight, config.angle_weight) == (25, 50)


@pytest.mark.parametrize("name", ["fitnet", "rkd"])
def test_what_is_learned_is_the_teachers_embedding(name: str):
    """The loss is that of this batch's own embeddings, and of no others."""
    teacher, batch = ToyTeacher(), make_batch()
    built = METHODS[name](ToyBackbone(), teacher).train()
    features = built.backbone(batch.images / 255)
    embeddings = teacher.image_table[batch.sample_ids]
    output = built(batch, 0.0)
    if name == "fitnet":
        projection = built.get_submodule("projection")
        expected = {"hint": losses.hint(projection(features), embeddings)}
    else:
        expected = {
            "distance": losses.distance_relation(features, embeddings),
            "angle": losses.angle_relation(features, embeddings),
        }
    for part, value in expected.items():
        torch.testing.assert_close(tensor(output, part), value.detach())
    assert teacher.asked == []  # its opinion is not needed
    tensor(output).backward()
    assert teacher.image_table.grad is None


@pytest.mark.parametrize("name", ["fitnet", "rkd"])
def test_a_teacher_without_embeddings_is_an_error(name: str):
    class Plain:
        def __init__(self) -> None:
            self.text_embeddings = torch.eye(CLASSES, EMBEDDING)

        def logits(self, images: Tensor, sample_ids: Tensor) -> Tensor:
            return torch.zeros(len(images), CLASSES)

    built = METHODS[name](ToyBackbone(), Plain())
    with pytest.raises(ScmdError, match="embeddings"):
        built(make_batch(), 0.0)


def test_rise_without_its_distances_is_kd():
    kd = KD(ToyBackbone(), ToyTeacher(), KDConfig(lambda1=0.6, temperature=2))
    config = RISEConfig(lambda1=0.6, temperature=2, absolute_weight=0, relative_weight=0)
    rise = RISE(ToyBackbone(), ToyTeacher(), config)
    rise.load_state_dict({**rise.state_dict(), **kd.state_dict()})
    assert tensor(rise(make_batch(), 0)).item() == pytest.approx(
        tensor(kd(make_batch(), 0)).item(), rel=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_part_learns_and_the_average_predicts(name: str):
    built = method(name, lr=0.01)
    average = Average(built, AverageConfig(average_start=2))
    optimizer = torch.optim.Adam(built.param_groups())
    batch = make_batch()
    first = tensor(built(batch, 0.0)).item()
    for step in range(1, 31):
        loss = tensor(built(batch, 0.0))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())
        optimizer.step()
        built.after_step()
        average.update(step)
    assert tensor(built(batch, 0.0)).item() < first
    assert average.model.predict(batch.images / 255).shape == (20, CLASSES)
    parts = {part.split(".")[0] for part in built.state_dict()}
    assert parts == {"backbone", "classifier"} | (set() if name == "rkd" else {"projection"})


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_gives_a_loss_in_float32(name: str):
    built = method(name)
    with torch.autocast("cpu", torch.bfloat16):
        output = built(make_batch(), 0.0)
    assert tensor(output).dtype == torch.float32
    tensor(output).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_that_does_not_tell_its_features(name: str):
    built = METHODS[name](ToyBackbone(9, tells_features=False), ToyTeacher())
    tensor(built(make_batch(), 0.0)).backward()
    assert built.classifier.weight.shape == (CLASSES, 9)


def test_projections_have_no_bias():
    for name in ("fitnet", "rise"):
        projection = method(name).get_submodule("projection")
        assert isinstance(projection, torch.nn.Linear)
        assert projection.bias is None
        assert projection.weight.shape == (EMBEDDING, FEATURES)
    assert not hasattr(RKD(ToyBackbone(), ToyTeacher()), "projection")


@pytest.mark.parametrize("name", NAMES)
def test_a_search_draws_settings_that_there_are(name: str):
    rng = np.random.RandomState(0)
    for _ in range(20):
        METHODS[name].Config(**{k: v.draw(rng) for k, v in METHODS[name].search_space.items()})


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (FitNetConfig, {"hint_weight": -1.0}, "hint_weight = -1.0: give a number from 0"),
        (RKDConfig, {"distance_weight": math.nan}, "distance_weight = nan"),
        (RKDConfig, {"angle_weight": -1.0}, "angle_weight = -1.0"),
        (RISEConfig, {"absolute_weight": -1.0}, "absolute_weight = -1.0"),
        (RISEConfig, {"relative_weight": math.inf}, "relative_weight = inf"),
        (RISEConfig, {"temperature": 0.0}, "temperature = 0.0"),
    ],
)
def test_settings_out_of_range_are_errors(
    config: type[MethodConfig], settings: dict[str, float], message: str
):
    with pytest.raises(ScmdError, match=message):
        config(**settings)  # type: ignore[arg-type]
