"""What the runs of one process share: decoded and augmented batches, the teacher and its answers.

A batch is a function of data, seed and step alone, so all methods of a comparison see the same
ones; they are made once. Nothing is kept on the disk, and nothing here changes a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from scmd.data.augment import Augmentation, AugmentationName
from scmd.data.decode_once import decode_once
from scmd.data.decoded import DecodedImages
from scmd.data.folder import DomainImages
from scmd.data.loader import (
    Batch,
    DomainBatches,
    Loaded,
    colours_on,
    evaluation_batches,
    load_batches,
)
from scmd.data.transforms import Transform
from scmd.data.views import FixedViews
from scmd.models.answers import Answers
from scmd.models.teacher import CLIPTeacher, TeacherConfig, load_teacher

MOST_BYTES = 4 * 10**9


class Shared:
    """Keeps what it is asked for; of batches, as many as fit.

    Args:
        most_bytes: Of images to train on, and of images to score. Batches of the training images
            that were wanted longest ago make room; what does not fit is made anew every time.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._training: dict[Any, dict[int, Loaded]] = {}
        self._scored: dict[Any, list[Tensor]] = {}
        self._known: dict[Any, Any] = {}

    def training_batches(
        self,
        batches: DomainBatches,
        data: DomainImages,
        size: int,
        seed: int,
        workers: int,
        pin: bool,
        flip: bool = True,
        views: FixedViews | None = None,
        augmentation: AugmentationName = "tensor",
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        """As ``scmd.data.loader.training_batches``."""
        how = Augmentation(size, flip, augmentation)
        colours_later = colours_on(device, how)
        key = (_digest(data), batches.key, how, seed, views and views.key, colours_later)
        kept = self._training.pop(key, {})
        self._training[key] = kept  # the last of the dictionary is the last one wanted
        step = batches.start
        while step < batches.stop and step in kept:
            yield kept[step].finished(device)
            step += 1
        if step == batches.stop:
            return
        rest = batches.starting_at(step)
        for loaded in load_batches(rest, data, how, seed, workers, pin, views, colours_later):
            if self._room_for(loaded, kept):
                kept[step] = loaded
            yield loaded.finished(device)
            step += 1

    def _room_for(self, loaded: Loaded, kept: dict[int, Loaded]) -> bool:
        """Make room by forgetting other batches, the longest unused first."""
        while _bytes(self._training.values()) + loaded.batch.images.nbytes > self.most_bytes:
            oldest = next(iter(self._training))
            if self._training[oldest] is kept:
                return False
            del self._training[oldest]
        return True

    def evaluation_batches(
        self,
        data: DomainImages,
        rows: np.ndarray,
        size: int,
        batch_size: int,
        workers: int,
        transform: Transform | Augmentation | None = None,
    ) -> Iterator[Tensor]:
        """As ``scmd.data.loader.evaluation_batches``; kept only without a transform."""
        key = (_digest(data), rows.tobytes(), size, batch_size)
        if transform is None and key in self._scored:
            yield from self._scored[key]
            return
        before = sum(images.nbytes for kept in self._scored.values() for images in kept)
        room = self.most_bytes - before if transform is None else 0
        found: list[Tensor] | None = []
        for images in evaluation_batches(data, rows, size, batch_size, workers, transform):
            room -= images.nbytes
            if found is not None and room >= 0:
                found.append(images)
            else:
                found = None
            yield images
        if found is not None:
            self._scored[key] = found

    def decoded(
        self, data: DomainImages, shorter_side: int | None, scored_size: int, console: Console
    ) -> DecodedImages | None:
        """As ``scmd.data.decode_once``."""
        key = ("decoded", _digest(data), shorter_side, scored_size)
        return self.once(key, lambda: decode_once(data, shorter_side, scored_size, console))

    def teacher(self, config: TeacherConfig, classes: tuple[str, ...]) -> CLIPTeacher:
        """As ``scmd.models.teacher.load_teacher``; asked the same again, it looks at nothing."""
        teacher = self.once(("teacher", config, classes), lambda: load_teacher(config, classes))
        if self.most_bytes and teacher.answers is None:
            teacher.answers = Answers()
        return teacher

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when this key was first asked for."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _bytes(kept: Iterable[dict[int, Loaded]]) -> int:
    return sum(
        len(steps) * next(iter(steps.values())).batch.images.nbytes for steps in kept if steps
    )


def _digest(data: DomainImages) -> bytes:
    digest = hashlib.blake2b(str(data.root.resolve()).encode(), digest_size=16)
    digest.update(data.ids.tobytes())
    digest.update(data.labels.tobytes())
    return digest.digest()
