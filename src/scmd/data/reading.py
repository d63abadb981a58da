"""What a worker does: from the places of images in a data set to their pixels in a batch."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from scmd.data.augment import Augmentation
from scmd.data.colours import COLOURS, change_colours
from scmd.data.folder import DomainImages
from scmd.data.images import read_image
from scmd.data.transforms import Transform, augment, evaluation_transform
from scmd.data.views import FixedViews
from scmd.errors import BadImageError
from scmd.seeds import derive


class TrainingImages:
    """Augments the images of a step.

    Args:
        data: The data set.
        augmentation: What is done to an image.
        seed: Of the augmentation.
        views: As for ``training_batches``.
        colours_later: Leave them as they are.
    """

    def __init__(
        self,
        data: DomainImages,
        augmentation: Augmentation,
        seed: int,
        views: FixedViews | None = None,
        colours_later: bool = False,
    ) -> None:
        self.data, self.augmentation, self.seed, self.views = data, augmentation, seed, views
        self.colours_later = colours_later

    def fill(
        self, slots: list[tuple[int, int, int, int]], images: Tensor
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Make the batch of a step's slots, as ``DomainBatches`` plans them.

        Returns:
            Labels, domains, sample ids and teacher ids, int64 [4, B]; and how colours are to be
            changed, float32 [B, COLOURS], where that is left.
        """
        numbers = np.empty((4, len(slots)), dtype=np.int64)
        colours = np.empty((len(slots), COLOURS), dtype=np.float32)
        by_tensor = self.augmentation.name == "tensor"
        for place, (step, slot, row, domain) in enumerate(slots):
            sample_id = int(self.data.ids[row])
            if self.views is None:
                seed, teacher_id = derive("augment", self.seed, step, slot), sample_id
            else:
                seed = teacher_id = self.views.drawn(self.seed, step, slot, row)
            numbers[:, place] = int(self.data.labels[row]), domain, sample_id, teacher_id
            image = to_augment(self.data, row, self.augmentation)
            if by_tensor:
                images[place], colours[place] = self.augmentation.crop(image, seed)
            else:
                images[place] = self.augmentation.view(image, seed)
        if by_tensor and not self.colours_later:
            change_colours(images, colours, out=images)
        return numbers, colours if self.colours_later else None


class EvaluationImages:
    """Images to be scored: whole, unless they are augmented.

    Args:
        data: The data set.
        size: Side of the squares that images are resized to.
        augmentation: What is done to an image instead.
    """

    def __init__(
        self, data: DomainImages, size: int, augmentation: Augmentation | None = None
    ) -> None:
        self.data, self.size, self.augmentation = data, size, augmentation
        self.plain = evaluation_transform(size)

    def fill(self, rows: list[int], images: Tensor) -> None:
        """Make a batch of some samples."""
        for place, row in enumerate(rows):
            if self.augmentation is None:
                images[place] = self.plain(to_score(self.data, row, self.size))
            else:
                # Seeded by the row, so that every evaluation has the same view.
                image = to_augment(self.data, row, self.augmentation)
                images[place] = self.augmentation.view(image, row)


class TransformedImages(Dataset):
    """What a transform makes of the given rows, in order; it is seeded by the row.

    An undecodable image is handed on as its error.
    """

    def __init__(self, data: DomainImages, rows: np.ndarray, transform: Transform) -> None:
        self.data, self.rows, self.transform = data, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor | BadImageError:
        row = int(self.rows[index])
        try:
            return augment(self.transform, to_score(self.data, row, None), row)
        except BadImageError as error:
            return error


def to_augment(
    data: DomainImages, row: int, augmentation: Augmentation
) -> np.ndarray | Image.Image:
    """An image as an augmentation wants it.

    Raises:
        BadImageError: It cannot be decoded.
    """
    found = data.decoded.to_train(row, augmentation.shorter_side) if data.decoded else None
    if found is not None:
        return found
    return read_image(data.root / data.paths[row], augmentation.shorter_side)


def to_score(data: DomainImages, row: int, size: int | None) -> Image.Image:
    """An image that is still to be resized to a square of that side; None: to another.

    Raises:
        BadImageError: It cannot be decoded.
    """
    found = data.decoded.to_score(row, size) if data.decoded else None
    return read_image(data.root / data.paths[row]) if found is None else Image.fromarray(found)
