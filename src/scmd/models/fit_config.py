"""How a teacher of one's own is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from scmd.data.augment import AugmentationName
from scmd.data.folder import ClassPolicy
from scmd.errors import ScmdError
from scmd.limits import MOST_IMAGES, MOST_SEED, MOST_STEPS, MOST_WORKERS, require_whole
from scmd.models.pretrained import DEFAULT_TEACHER


@dataclass(frozen=True)
class FitConfig:
    """How a teacher is fitted."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="data", metavar="DATA")] = ""
    """A folder domain/class/image, or a CSV manifest."""
    model: str = DEFAULT_TEACHER
    """What to start from: open_clip's NAME/TAG, hf-hub:OWNER/NAME, a folder in open_clip's
    format; with --from-scratch also NAME, or a JSON file like open_clip's, with model_cfg."""
    from_scratch: bool = False
    """Draw the weights at random."""
    image_tower_weights: Path | None = None
    """Start the image tower, a timm model, from this file."""
    domains: tuple[str, ...] = ()
    """Fit on these domains only. Default: all."""
    classes: ClassPolicy = "strict"
    """Where domains differ in their classes: refuse, keep all, or keep the shared ones."""
    skip_bad: bool = False
    """Decode every image first and leave out those that cannot be decoded."""
    captions: tuple[str, ...] = (
        "a {domain} of a {class}",
        "a {class}",
        "this is a photo of a {class}",
    )
    """Templates; one is drawn for every image and step."""
    class_names: Path | None = None
    """TOML or JSON that maps classes to what captions call them."""
    interpolate: float = 1.0
    """α of WiSE-FT: 1 keeps the fitted weights, 0 those it started from."""
    steps: int = 1000
    """Optimizer steps."""
    batch_per_domain: int = 32
    """Images of each domain in a step."""
    lr: float = 1e-5
    """Learning rate of AdamW at its peak; it rises over a tenth of the steps, then falls to 0."""
    weight_decay: float = 0.1
    """Of AdamW; not for biases, norms and scales."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of batch norm as they are."""
    flip: bool = True
    """Mirror images by chance; off where left and right matter."""
    augmentation: AugmentationName = "tensor"
    """As for train."""
    decode_once: bool = True
    """As for train."""
    half: bool = False
    """Store the weights in fp16."""
    holdout: float = 0.2
    """Part of every domain that is not trained on, to score the result."""
    seed: int = 0
    """Of split, weights, order, captions and augmentation."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    workers: int = 2
    """Processes that decode and augment."""

    def __post_init__(self) -> None:
        check_captions(self.captions)
        require_whole("steps", self.steps, 1, MOST_STEPS)
        require_whole("batch_per_domain", self.batch_per_domain, 1, MOST_IMAGES)
        require_whole("checkpoint_every", self.checkpoint_every, 1, MOST_STEPS)
        require_whole("seed", self.seed, 0, MOST_SEED)
        require_whole("workers", self.workers, 0, MOST_WORKERS)
        if not 0 <= self.interpolate <= 1:
            raise ScmdError(f"interpolate = {self.interpolate}: give a number in [0, 1]")
        if not 0 < self.lr < math.inf:
            raise ScmdError(f"lr = {self.lr}: give a number above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ScmdError(f"weight_decay = {self.weight_decay}: give a number from 0")
        if not 0 < self.holdout < 1:
            raise ScmdError(f"holdout = {self.holdout}: give a number between 0 and 1")


def check_captions(templates: Sequence[str]) -> None:
    """Raise a ScmdError unless every template says where the class goes."""
    if not templates:
        raise ScmdError("no caption. Give at least one, e.g. --captions 'a {class}'")
    for template in templates:
        if "{class}" not in template:
            raise ScmdError(
                f"caption {template!r} does not say where the class goes. Put {{class}} into it, "
                "e.g. 'a {domain} of a {class}'"
            )
