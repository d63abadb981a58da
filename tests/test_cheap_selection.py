"""Selection at a lower resolution: compared on smaller images, trained on whole ones."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.methods.scmd import SCMD, SCMDConfig
from scmd.models.images import Normalize
from scmd.models.student import TimmBackbone
from scmd.selection import SelectionConfig

CLASSES, SPACE = 5, 8


class Teacher:
    text_embeddings = nn.functional.normalize(torch.randn(CLASSES, SPACE), dim=1)

    def logits(self, images: torch.Tensor, sample_ids: torch.Tensor) -> torch.Tensor:
        self.asked = tuple(images.shape)
        return torch.zeros(len(images), CLASSES)


def method(resolution: float, name: str = "test_resnet", **args) -> tuple[SCMD, Teacher]:
    torch.manual_seed(0)
    normalize = Normalize((64, 64), (0.5,) * 3, (0.5,) * 3)
    backbone = TimmBackbone(timm.create_model(name, num_classes=0, **args), normalize, True)
    teacher = Teacher()
    selection = SelectionConfig(fraction=0.5, resolution=resolution)
    return SCMD(backbone, teacher, SCMDConfig(selection=selection)), teacher


def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(8, 3, 64, 64, generator=draw),
        torch.randint(CLASSES, (8,), generator=draw),
        torch.arange(8) % 2,
        torch.arange(8),
    )


def test_losses_are_those_of_smaller_images_and_training_sees_whole_ones():
    student, teacher = method(0.5)
    given = batch()
    output = student(given, 0.0)
    assert teacher.asked == (4, 3, 64, 64)
    decisions = output["decisions"]
    small = nn.functional.interpolate(given.images, (32, 32), mode="bilinear", antialias=True)
    student.backbone.normalize.size = (32, 32)  # type: ignore[union-attr]
    with torch.no_grad():
        logits = student.eval().predict(small)
    expected = nn.functional.cross_entropy(logits, given.labels, reduction="none")
    torch.testing.assert_close(decisions.losses, expected, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
    whole, _ = method(1.0)
    exact = whole(given, 0.0)["decisions"].losses  # type: ignore[union-attr]
    assert not torch.allclose(exact, decisions.losses, rtol=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("resolution", [0.0, -1.0, 1.5, float("nan")])
def test_a_resolution_that_is_none_is_refused(resolution: float):
    with pytest.raises(ScmdError, match=r"selection.resolution = .*give a number in \(0, 1\]"):
        SelectionConfig(resolution=resolution)


def test_a_network_that_takes_one_size_only_is_refused_at_once():
    with pytest.raises(ScmdError, match="takes no smaller images"):
        method(0.5, "vit_tiny_patch16_224", img_size=64)


def test_a_backbone_that_cannot_is_refused():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    selection = SelectionConfig(resolution=0.5)
    with pytest.raises(ScmdError, match="Sequential cannot be asked at a lower resolution"):
        SCMD(backbone, Teacher(), SCMDConfig(selection=selection))
