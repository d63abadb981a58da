from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from scmd import losses
from scmd.methods.scmd import LOG_SCALE_START


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def by_hand_kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * float((p * np.log(p / q)).sum(1).mean())


def double(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher, student = 5 * torch.randn(2, 9, 4, generator=generator)
    return teacher, student


@pytest.fixture
def geometry() -> tuple[Tensor, Tensor, Tensor]:
    """P f(x), t and g."""
    generator = torch.Generator().manual_seed(1)
    projected = torch.randn(9, 6, generator=generator)
    texts = F.normalize(torch.randn(4, 6, generator=generator), dim=-1)
    return projected, texts, torch.tensor(12.5)


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes():
    labels = torch.tensor([0, 3, 6])
    loss = losses.sample_cross_entropy(torch.full((3, 7), 2.5), labels)
    assert loss.tolist() == pytest.approx([math.log(7)] * 3)


def test_cross_entropy_equals_its_formula(logits: tuple[Tensor, Tensor]):
    student = logits[1]
    labels = torch.arange(9) % 4
    z = double(student)
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(9), labels.numpy()]
    np.testing.assert_allclose(
        double(losses.sample_cross_entropy(student, labels)), expected, rtol=1e-5, atol=1e-6
    )
    assert float(losses.classification(student, labels)) == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 5.0])
def test_distillation_equals_its_formula(logits: tuple[Tensor, Tensor], temperature: float):
    teacher, student = logits
    expected = by_hand_kl(double(teacher), double(student), temperature)
    for function in (losses.tempered_kl, losses.logit_distillation):
        assert float(function(teacher, student, temperature)) == pytest.approx(expected, rel=1e-5)


def test_distillation_of_two_classes_in_closed_form():
    # Against an undecided student, KL is ln 2 less the entropy of the teacher.
    temperature, p = 2.0, 0.9
    teacher = torch.tensor([[temperature * math.log(p / (1 - p)), 0.0]])
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    loss = losses.tempered_kl(teacher, torch.zeros(1, 2), temperature)
    assert float(loss) == pytest.approx(temperature**2 * (math.log(2) - entropy), rel=1e-6)


def test_distillation_is_zero_only_where_both_agree(logits: tuple[Tensor, Tensor]):
    teacher, student = logits
    assert float(losses.tempered_kl(teacher, teacher + 7, 3.0)) == pytest.approx(0, abs=1e-5)
    assert float(losses.tempered_kl(teacher, student, 3.0)) > 0.1
    # Not symmetric: the teacher comes first.
    assert float(losses.tempered_kl(teacher, student, 3.0)) != pytest.approx(
        float(losses.tempered_kl(student, teacher, 3.0)), rel=1e-3
    )


def test_distillation_scales_with_the_square_of_the_temperature(logits: tuple[Tensor, Tensor]):
    teacher, student = logits
    cold = losses.tempered_kl(teacher, student, 1.0)
    hot = losses.tempered_kl(3 * teacher, 3 * student, 3.0)
    assert float(hot) == pytest.approx(9 * float(cold), rel=1e-5)


def test_distillation_at_high_temperature_compares_centred_logits(logits: tuple[Tensor, Tensor]):
    # Hinton et al., section 2.1: τ² KL becomes the mean squared difference over 2 C.
    teacher, student = (part - part.mean(1, keepdim=True) for part in logits)
    loss = losses.tempered_kl(teacher.double(), student.double(), 1000.0)
    expected = (teacher - student).square().sum(1).mean() / (2 * 4)
    assert float(loss) == pytest.approx(float(expected), rel=0.02)


def test_losses_are_means_over_the_batch(logits: tuple[Tensor, Tensor]):
    teacher, student = logits
    twice = losses.tempered_kl(teacher.repeat(2, 1), student.repeat(2, 1), 3.0)
    each = [
        losses.tempered_kl(t[None], s[None], 3.0) for t, s in zip(teacher, student, strict=True)
    ]
    assert float(twice) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_cross_modality_loss_equals_its_formula(
    logits: tuple[Tensor, Tensor], geometry: tuple[Tensor, Tensor, Tensor]
):
    teacher, (projected, texts, scale) = logits[0], geometry
    v = double(projected)
    cosines = v @ double(texts).T / np.linalg.norm(v, axis=1, keepdims=True)
    np.testing.assert_allclose(
        double(losses.cross_modality_logits(projected, texts, scale)),
        float(scale) * cosines,
        atol=1e-5,
    )
    loss = losses.cross_modality_distillation(teacher, projected, texts, scale, 3.0)
    expected = by_hand_kl(double(teacher), float(scale) * cosines, 3.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_cross_modality_loss_does_not_depend_on_the_length_of_the_projection(
    logits: tuple[Tensor, Tensor], geometry: tuple[Tensor, Tensor, Tensor]
):
    projected, texts, scale = geometry
    lengths = torch.logspace(-2, 3, 9).unsqueeze(1)
    plain, stretched = (
        losses.cross_modality_distillation(logits[0], v, texts, scale, 3.0)
        for v in (projected, lengths * projected)
    )
    assert float(stretched) == pytest.approx(float(plain), rel=1e-5)


def test_gradients_flow_to_the_student_only(
    logits: tuple[Tensor, Tensor], geometry: tuple[Tensor, Tensor, Tensor]
):
    teacher, student, projected, texts, scale = (
        part.clone().requires_grad_() for part in (*logits, *geometry)
    )
    loss = losses.logit_distillation(teacher, student, 3.0)
    loss = loss + losses.cross_modality_distillation(teacher, projected, texts, scale, 3.0)
    loss.backward()
    assert teacher.grad is None
    assert texts.grad is None
    for part in (student, projected, scale):
        assert part.grad is not None
        assert part.grad.abs().sum() > 0
    # d/dz of τ² KL(p ‖ softmax(z/τ)) is τ (q - p), over the batch.
    p, q = softmax(double(teacher) / 3), softmax(double(student) / 3)
    assert student.grad is not None
    np.testing.assert_allclose(double(student.grad), 3 * (q - p) / 9, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_losses_are_float32_whatever_comes_in(
    logits: tuple[Tensor, Tensor], geometry: tuple[Tensor, Tensor, Tensor], autocast: bool
):
    labels = torch.arange(9) % 4

    def compute(teacher: Tensor, student: Tensor, projected: Tensor, texts: Tensor, scale: Tensor):
        return (
            losses.sample_cross_entropy(student, labels),
            losses.classification(student, labels),
            losses.logit_distillation(teacher, student, 3.0),
            losses.cross_modality_logits(projected, texts, scale),
            losses.cross_modality_distillation(teacher, projected, texts, scale, 3.0),
        )

    halves = [part.bfloat16() for part in (*logits, *geometry)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = compute(*halves)
    for value, expected in zip(found, compute(*(h.float() for h in halves)), strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


# CLIP's real geometry: ViT-B/32's embeddings of the seven classes of PACS.


@pytest.fixture(scope="module")
def clip_texts(test_data: Path) -> Tensor:
    file = test_data / "weights" / "clip_vitb32_text_pacs.safetensors"
    return F.normalize(load_file(file)["text_embeddings"].float(), dim=-1)


def test_clip_texts_lie_in_a_narrow_cone(clip_texts: Tensor):
    cosines = (clip_texts @ clip_texts.T)[~torch.eye(7, dtype=torch.bool)]
    assert clip_texts.shape == (7, 512)
    assert 0.75 < cosines.min() < cosines.max() < 0.95


@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
def test_a_feature_on_a_class_text_is_that_class(clip_texts: Tensor, scale: float):
    logits = losses.cross_modality_logits(30 * clip_texts, clip_texts, torch.tensor(scale))
    t = double(clip_texts)
    np.testing.assert_allclose(double(logits), scale * t @ t.T, atol=1e-3)
    assert logits.argmax(1).tolist() == list(range(7))
    # Its probability in closed form: one over the sum of exp(-g (1 - cos)).
    expected = 1 / np.exp(-scale * (1 - t @ t.T)).sum(1)
    np.testing.assert_allclose(double(logits.softmax(1).diag()), expected, rtol=1e-3)


def test_at_its_first_scale_and_temperature_clip_geometry_is_nearly_uniform(clip_texts: Tensor):
    # g starts at 1/0.07 and cosines are 0.05 to 0.25 apart: even a perfect feature says little,
    # so that γ, and not the features alone, has to move.
    scale = torch.tensor(LOG_SCALE_START).exp()
    q = (losses.cross_modality_logits(clip_texts, clip_texts, scale) / 3.0).softmax(1)
    assert q.diag().min() > 1 / 7
    assert q.diag().max() < 0.3


def test_at_clips_own_scale_a_perfect_projection_has_no_loss(clip_texts: Tensor):
    scale = torch.tensor(100.0)
    teacher = 100 * clip_texts @ clip_texts.T
    loss = losses.cross_modality_distillation(teacher, clip_texts, clip_texts, scale, 3.0)
    assert float(loss) == pytest.approx(0, abs=1e-5)
    other = losses.cross_modality_distillation(teacher, clip_texts.roll(1, 0), clip_texts, scale, 3)
    assert float(other) > 1


def test_gradient_steps_on_the_projection_lower_the_loss(clip_texts: Tensor):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(14, 64, generator=generator)
    labels = torch.arange(14) % 7
    teacher = 100 * (clip_texts @ clip_texts.T)[labels]
    projection = torch.nn.Linear(64, 512, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.randn(512, 64, generator=generator) / 8)
    log_scale = torch.tensor(LOG_SCALE_START)
    optimizer = torch.optim.SGD(projection.parameters(), lr=0.5)
    history = []
    for _ in range(30):
        loss = losses.cross_modality_distillation(
            teacher, projection(features), clip_texts, log_scale.exp(), 3.0
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert all(later < earlier for earlier, later in pairwise(history))
    logits = losses.cross_modality_logits(projection(features), clip_texts, log_scale.exp())
    assert (logits.argmax(1) == labels).float().mean() > 0.9
