"""Folded batch norm: the same features and gradients, and never where it must not be."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scmd.models.folding import FoldedConvolution, fold_batch_norm
from scmd.models.images import Normalize
from scmd.models.student import TimmBackbone, evaluating

MODELS = ("resnet18", "mobilenetv3_small_050", "test_efficientnet", "densenet121", "repvgg_a0")


def lively(name: str, **args) -> nn.Module:
    """A model whose batch norms all do something."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **args)
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.1)
    return model


def backbone(name: str, frozen: bool = True, **args) -> TimmBackbone:
    normalize = Normalize((64, 64), (0.5,) * 3, (0.5,) * 3)
    return TimmBackbone(lively(name, **args), normalize, frozen)


def plain(student: TimmBackbone, images: torch.Tensor) -> torch.Tensor:
    return student.model(student.normalize(images))


def convolutions(network: nn.Module | None) -> int:
    assert network is not None
    return sum(isinstance(part, FoldedConvolution) for part in network.modules())


@pytest.mark.parametrize("name", MODELS)
def test_features_and_gradients_are_the_same(name):
    student = backbone(name).double()  # rounding would turn a ReLU here and there
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for forward in (plain, TimmBackbone.__call__):
        student.zero_grad()
        features = forward(student, images)
        features.square().mean().backward()
        gradients.append(
            (features.detach(), {n: p.grad.clone() for n, p in student.named_parameters()})  # type: ignore[union-attr]
        )
    (features, expected), (folded, found) = gradients
    assert convolutions(student._network()) > 0
    torch.testing.assert_close(folded, features, rtol=1e-9, atol=1e-9)
    for parameter, gradient in expected.items():
        close = 1e-9 * float(gradient.abs().max())
        assert torch.allclose(found[parameter], gradient, rtol=1e-6, atol=close), parameter


def test_every_norm_of_a_resnet_is_folded():
    assert convolutions(fold_batch_norm(lively("resnet18").eval())) == 20


def test_follows_the_weights_and_copies_have_their_own():
    student = backbone("resnet18").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = student(images)
        twin = copy.deepcopy(student)
        for parameter in student.parameters():
            parameter.mul_(1.1)
        torch.testing.assert_close(student(images), plain(student, images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(twin(images), before)
        assert not torch.allclose(student(images), before)
    assert not [name for name in student.state_dict() if "folded" in name]


def test_batch_norm_that_is_trained_is_not_folded():
    student = backbone("resnet18", frozen=False)
    images = torch.rand(4, 3, 64, 64)
    assert student._network() is student.model
    norm = next(part for part in student.modules() if isinstance(part, _BatchNorm))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    student(images)
    assert not torch.equal(norm.running_mean, before)
    with evaluating(student):
        assert student._network() is not student.model
        norm.train()  # as where statistics are estimated anew
        assert student._network() is student.model


def test_dropout_stays_random_in_training_only():
    student = backbone("resnet18", drop_rate=0.5)
    images = torch.rand(2, 3, 64, 64)
    assert not torch.equal(student(images), student(images))
    with evaluating(student):
        assert torch.equal(student(images), student(images))
    torch.manual_seed(3)
    folded = student(images)
    torch.manual_seed(3)
    torch.testing.assert_close(folded, plain(student, images), rtol=1e-4, atol=1e-4)


def test_whoever_listens_to_a_part_hears_it():
    student = backbone("resnet18")
    heard = []
    part = student.get_submodule("model.layer1")
    hook = part.register_forward_hook(lambda *_: heard.append(1))
    student(torch.rand(1, 3, 64, 64))
    hook.remove()
    assert heard == [1]


def test_network_without_batch_norm_is_left_alone():
    assert fold_batch_norm(timm.create_model("test_vit", num_classes=0)) is None


class Pair(nn.Module):
    """A convolution and a batch norm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(images))


def test_model_with_parameters_outside_its_layers_is_left_alone():
    # Its graph would hold them itself, where functional_call does not reach.
    class Scaled(Pair):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.gamma * super().forward(images)

    assert convolutions(fold_batch_norm(Pair().eval())) == 1
    assert fold_batch_norm(Scaled().eval()) is None


def test_model_that_cannot_be_traced_is_left_alone():
    class Chooser(Pair):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) if images.mean() > 0 else images

    assert fold_batch_norm(Chooser().eval()) is None


def test_a_reduced_forward_sees_the_images_smaller():
    student = backbone("resnet18").eval()
    images = torch.rand(2, 3, 64, 64)
    seen = []
    hook = student.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    with torch.no_grad():
        assert torch.equal(student.reduced(images, 1.0), student(images))
        student.reduced(images, 0.5)
    hook.remove()
    assert [tuple(shape[-2:]) for shape in seen] == [(64, 64), (64, 64), (32, 32)]
