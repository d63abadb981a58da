"""The methods of the experiments: against flipped labels, and what was tried."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import CLASSES, FEATURES, ToyBackbone, ToyTeacher, make_batch

from experiments.flips import Agreed, Capped, CappedConfig, flipped, wrong_labels
from experiments.methods import OWN
from experiments.tried.corrected import shifted
from experiments.tried.curriculum import Curriculum, fraction_at
from experiments.tried.fitted import Fitted
from experiments.tried.image_space import ImageSpace, ImageSpaceConfig
from experiments.tried.mixtures import Mixtures
from experiments.tried.textures import Textures, TexturesConfig, through_random_filters
from experiments.tried.views import Views, ViewsConfig
from scmd.data.digits import NAMES
from scmd.methods import METHODS, SCMD, Method
from scmd.methods.scmd import SCMDConfig
from scmd.models.images import as_float
from scmd.models.pretrained import EMBEDDED
from scmd.models.teacher import TeacherConfig, load_teacher
from scmd.selection import SelectionConfig

SELECTING = SCMDConfig(selection=SelectionConfig(fraction=0.5, last_fraction=0.0))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here: other tests go through all methods of the package."""
    for name, method in OWN.items():
        monkeypatch.setitem(METHODS, name, method)


def build(method: type[Method], config: SCMDConfig = SELECTING, teacher: object = None) -> Method:
    torch.manual_seed(0)
    return method(ToyBackbone(FEATURES), teacher or ToyTeacher(), config, CLASSES)  # type: ignore[arg-type]


# Flipped labels.


def test_a_tenth_of_the_labels_is_flipped_to_others() -> None:
    ids, labels = torch.arange(5000), torch.arange(5000) % 10
    wrong = flipped(ids)
    assert abs(float(wrong.float().mean()) - 0.1) < 0.02
    given = wrong_labels(labels, ids, 10)
    assert torch.equal(given != labels, wrong)
    assert set(((given - labels) % 10)[wrong].tolist()) == set(range(1, 10))


def test_a_flip_depends_on_the_sample_alone() -> None:
    ids = torch.arange(200)
    order = torch.randperm(200)
    assert torch.equal(flipped(ids)[order], flipped(ids[order]))


def ranks(method: Method, images: Tensor, labels: Tensor) -> Tensor:
    return method.selection_losses(images, labels)  # type: ignore[attr-defined, operator]


def test_a_cap_puts_what_is_too_hard_below_the_rest() -> None:
    batch = make_batch()
    plain = ranks(build(SCMD), as_float(batch.images), batch.labels)
    cap = float(plain.median()) / torch.tensor(CLASSES).log().item()
    config = CappedConfig(cap=cap, selection=SELECTING.selection)
    capped = ranks(build(Capped, config), as_float(batch.images), batch.labels)
    hard = plain > plain.median()
    assert torch.equal(capped[~hard], plain[~hard])
    assert capped[hard].max() < capped[~hard].min()


def test_where_the_teacher_disagrees_nothing_is_selected_before_the_rest() -> None:
    batch, teacher = make_batch(), ToyTeacher()
    plain = ranks(build(SCMD), as_float(batch.images), batch.labels)
    own = ranks(build(Agreed, teacher=teacher), as_float(batch.images), batch.labels)
    ids = torch.zeros_like(batch.labels)
    agrees = teacher.logits(batch.images, ids).argmax(-1) == batch.labels
    assert 0 < int(agrees.sum()) < len(agrees)
    assert torch.equal(own[agrees], plain[agrees])
    assert bool((own[~agrees] < 0).all())


# What was tried.


@pytest.mark.parametrize("name", [name for name in OWN if name != "tried-views"])
def test_what_was_tried_learns(name: str) -> None:
    own = build(OWN[name], OWN[name].Config(lr=1e-2))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(own.param_groups())
    batch, losses = make_batch(), []
    for _ in range(30):
        output = dict(own(batch, 0.9))
        output["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output["loss"].detach()))
    assert losses[-1] < losses[0]


def test_a_curriculum_goes_from_all_to_the_fraction() -> None:
    selection = SelectionConfig(fraction=0.2, warmup=0.1, last_fraction=0.4)
    assert [round(fraction_at(p, selection), 6) for p in (0, 0.1, 0.35, 0.6, 1)] == [
        1, 1, 0.6, 0.2, 0.2,
    ]  # fmt: skip
    method = build(Curriculum)
    asked = method.config
    kept = [int(method(make_batch(), p)["kept"]) for p in (0.0, 0.5, 0.999)]
    assert kept == [20, 15, 10]
    assert method.config is asked


def test_a_shifted_teacher_says_the_label_and_keeps_its_values() -> None:
    logits = torch.randn(50, CLASSES)
    labels = torch.arange(50) % CLASSES
    right = shifted(logits, labels)
    assert torch.equal(right.argmax(-1), labels)
    assert torch.equal(right.sort(-1).values, logits.sort(-1).values)
    said = logits.argmax(-1) == labels
    assert torch.equal(right[said], logits[said])


def test_a_fitted_temperature_learns_from_the_labels_alone() -> None:
    method = build(Fitted)
    assert isinstance(method, Fitted)
    batch = make_batch()
    method(batch, 0.0)["loss"].backward()
    raw = ToyTeacher().table[batch.teacher_ids].detach()
    log_t = torch.zeros((), requires_grad=True)
    torch.nn.functional.cross_entropy(raw / log_t.exp(), batch.labels).backward()
    assert method.log_temperature.grad is not None
    assert log_t.grad is not None
    torch.testing.assert_close(method.log_temperature.grad, log_t.grad)


def test_without_weight_the_image_term_changes_nothing() -> None:
    batch = make_batch()
    config = ImageSpaceConfig(lambda3=0.0, selection=SELECTING.selection)
    own, plain = build(ImageSpace, config), build(SCMD)
    for method in (own, plain):
        method(batch, 0.0)["loss"].backward()
    for a, b in zip(own.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_views_of_an_even_image_are_the_image() -> None:
    teacher = load_teacher(TeacherConfig(EMBEDDED), NAMES)
    method = Views(ToyBackbone(FEATURES), teacher, ViewsConfig(), len(NAMES))
    images = torch.rand(3, 3, 1, 1).expand(3, 3, 64, 64)
    ids = torch.arange(3)
    torch.testing.assert_close(
        method._opinion(images, ids), teacher.logits(images, ids), atol=1e-4, rtol=1e-4
    )


def test_random_filters_keep_shapes_and_leave_some_images_as_they_are() -> None:
    images = torch.rand(64, 3, 8, 8) * 0.5
    images[:, :, :, 4:] += 0.5  # an edge
    torch.manual_seed(0)
    seen = through_random_filters(images, 0.5)
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    same = (seen - images).abs().amax((1, 2, 3)) < 1e-6
    assert 20 <= int(same.sum()) <= 44
    assert torch.equal(
        through_random_filters(images, 0.0).isclose(images), torch.ones_like(images) > 0
    )
    # One image's filter sees no other image.
    torch.manual_seed(0)
    changed = torch.cat([images[:1], 1 - images[1:]])
    torch.testing.assert_close(through_random_filters(changed, 0.5)[0], seen[0])


def test_a_teacher_is_asked_about_images_as_they_are_and_the_student_is_not() -> None:
    teacher = ToyTeacher()
    batch = make_batch()
    config = TexturesConfig(part=1.0, selection=SELECTING.selection)
    torch.manual_seed(0)
    output = build(Textures, config, teacher)(batch, 0.0)
    kept = output["decisions"].kept  # type: ignore[union-attr]
    torch.testing.assert_close(teacher.asked[0][0], as_float(batch.images)[kept])
    plain = build(SCMD)(batch, 0.0)
    assert float(output["ce"]) != float(plain["ce"])


def test_an_image_has_the_larger_part_of_its_mixture() -> None:
    seen: list[Tensor] = []
    method = build(Mixtures)
    method.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    black_and_white = make_batch()
    images = torch.zeros(len(black_and_white.labels), 3, 4, 4)
    images[::2] = 1
    method(black_and_white._replace(images=images), 0.0)
    means = seen[0].mean((1, 2, 3))
    assert bool((means[::2] >= 0.5).all())
    assert bool((means[1::2] <= 0.5).all())
    assert bool(((means > 0) & (means < 1)).any())
