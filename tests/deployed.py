"""A student as it is saved, for tests of what is done with it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from toys import ToyTeacher

from scmd.deploy.classifier import save_classifier
from scmd.methods import METHODS, Method
from scmd.models.student import StudentConfig, create_backbone

CLASSES = ("cat", "dog", "yak", "élan")
SIZE = 32


def student(**settings: Any) -> StudentConfig:
    return StudentConfig(name="test_efficientnet", pretrained=False, **settings)


def method_of(config: StudentConfig, name: str = "erm", teacher: Any = None) -> Method:
    torch.manual_seed(0)
    backbone = create_backbone(config, SIZE)
    with torch.no_grad():
        for part in backbone.modules():  # a trained network's statistics are not all 0 and 1
            if isinstance(part, torch.nn.BatchNorm2d):
                assert part.running_mean is not None
                part.running_mean.normal_(0, 0.05)
    method = METHODS[name](
        backbone, teacher or ToyTeacher(), num_classes=len(CLASSES), num_domains=2
    )
    with torch.no_grad():
        method.classifier.weight.mul_(20)
    return method.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save(folder: Path, method: Method, config: StudentConfig, /, **about: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_classifier(folder, method, method.state_dict(), config, CLASSES, about)
    return folder


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Files of more bytes cannot be written, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
