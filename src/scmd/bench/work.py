"""What both sides of the benchmark do: the same model, images, classes and teacher."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from scmd.errors import ScmdError
from scmd.machine import Precision

SIDE = 227
"""Pixels of the photographs that come with the benchmark; PACS's are as large."""
TEACHER = "ViT-B-32-quickgelu"
PROMPT = "this is a photo of a {}"


@dataclass(frozen=True)
class Work:
    """One comparison's setting.

    All weights are random: what they are changes nothing about how long a step takes.
    """

    data: Path
    """A folder domain/class/image."""
    student: str = "resnet50"
    """A timm model."""
    teacher: str = TEACHER
    """An open_clip model."""
    batch_per_domain: int = 32
    image_size: int = 224
    fraction: float = 0.2
    """ρ"""
    last_fraction: float = 0.25
    """k"""
    workers: int = 2
    """Processes that load for our side; the released code has four for each domain."""
    keep_memory: bool = False
    """Give the reference our allocator's settings."""
    precision: Precision = "fp16" if torch.cuda.is_available() else "fp32"
    """Of our side; without more that of the reference, which was released with fp16 on a GPU."""
    cheap: bool = False
    """On our side: select at half resolution, and remember what the teacher said."""

    def __post_init__(self) -> None:
        for name in ("batch_per_domain", "image_size"):
            if getattr(self, name) < 1:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a whole number from 1")

    def mix(self, select: float, whole: float) -> float:
        """Seconds of a mean step of a run, of those of a step in either phase."""
        return (1 - self.last_fraction) * select + self.last_fraction * whole


def random_teacher(name: str) -> tuple[Any, Any]:
    """An open_clip model with random weights, in eval mode, and its tokenizer.

    Raises:
        ScmdError: open_clip does not know it.
    """
    if open_clip.get_model_config(name) is None:
        raise ScmdError(f"open_clip knows no model {name!r}. See open_clip.list_models()")
    torch.manual_seed(0)
    logging.getLogger().setLevel(logging.ERROR)  # of weights that are random we know
    model = open_clip.create_model(name, pretrained=None).eval().requires_grad_(False)
    return model, open_clip.get_tokenizer(name)


def write_photographs(folder: Path, domains: int, classes: int, images: int) -> Path:
    """Crops of two real photographs (scikit-learn's) as a folder domain/class/image of JPEGs."""
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    draw = np.random.default_rng(0)
    for domain in range(domains):
        for label in range(classes):
            place = folder / f"domain{domain}" / f"class{label:03}"
            place.mkdir(parents=True)
            for number in range(images):
                picture = pictures[int(draw.integers(len(pictures)))]
                left = int(draw.integers(picture.width - SIDE))
                top = int(draw.integers(picture.height - SIDE))
                crop = picture.crop((left, top, left + SIDE, top + SIDE))
                crop.save(place / f"{number:04}.jpg", quality=90)
    return folder
