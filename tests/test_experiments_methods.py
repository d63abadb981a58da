"""The methods of the experiments: flipped labels, and what might be done about them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import CLASSES, FEATURES, ToyBackbone, ToyTeacher, make_batch

from experiments.flips import Agreed, Capped, CappedConfig, flipped, wrong_labels
from experiments.methods import OWN
from scmd.methods import METHODS, SCMD, Method
from scmd.methods.scmd import SCMDConfig
from scmd.models.images import as_float
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


@pytest.mark.parametrize("name", OWN)
def test_a_method_learns(name: str) -> None:
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
