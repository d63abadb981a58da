"""Batches: the same number of images from every source domain, at any step, in any order."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scmd.data.folder import DomainImages
from scmd.data.images import read_image
from scmd.data.transforms import (
    Transform,
    augment,
    evaluation_transform,
    training_transform,
)
from scmd.errors import BadImageError, ScmdError
from scmd.seeds import derive


class Batch(NamedTuple):
    """One training step's images, grouped by domain."""

    images: Tensor
    """uint8, or float in [0, 1], [B, 3, H, W], not normalised."""
    labels: Tensor
    """int64 [B]"""
    domains: Tensor
    """int64 [B]: the place of each image's domain among the sources."""
    sample_ids: Tensor
    """int64 [B]: stable ids; ``samples.parquet`` in a run maps them to files."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


class Stream:
    """An endless order over ``n`` items: every item once per pass, each pass shuffled anew.

    Position ``p`` is a pure function of ``(key, p)``, so that a stream can be entered anywhere.
    """

    def __init__(self, n: int, key: Sequence[int]) -> None:
        self.n = n
        self.key = tuple(key)
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, pass_index: int) -> np.ndarray:
        return np.random.default_rng(derive("order", *self.key, pass_index)).permutation(self.n)

    def __getitem__(self, position: int) -> int:
        pass_index, place = divmod(position, self.n)
        return int(self._order(pass_index)[place])


class DomainStream:
    """The order in which one domain's rows are drawn, plain or balanced over its classes."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray, key: Sequence[int], balanced: bool):
        present = np.unique(labels)
        groups = [rows[labels == label] for label in present] if balanced else [rows]
        self._groups = groups
        self._group_stream = Stream(len(groups), (*key, 0))
        self._streams = [Stream(len(g), (*key, 1 + i)) for i, g in enumerate(groups)]

    def __getitem__(self, position: int) -> int:
        # Each group comes once per pass over the groups, so the pass number is its own position.
        group = self._group_stream[position]
        place = self._streams[group][position // len(self._groups)]
        return int(self._groups[group][place])


class DomainBatches(Sampler[list[tuple[int, int, int, int]]]):
    """Per step, what a batch is made of: ``(step, slot, row, source domain)`` for every slot.

    Args:
        data: The data set.
        train_rows: Per source domain, in the order of the sources, the rows to draw from.
        per_domain: Images of each source domain in a step, over all processes.
        seed: Seed of order and augmentation.
        start, stop: The steps to produce.
        class_balanced: Draw every class of a domain equally often.
        process: ``(index, number)`` of the processes that share each batch.
    """

    def __init__(
        self,
        data: DomainImages,
        train_rows: Sequence[np.ndarray],
        per_domain: int,
        seed: int,
        start: int,
        stop: int,
        class_balanced: bool = False,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self.per_domain = per_domain
        self.start, self.stop = start, stop
        self.process = process
        drawn_from = tuple(rows.tobytes() for rows in train_rows)
        self.key = (drawn_from, per_domain, seed, class_balanced, process)
        """What a step's slots depend on, besides the step."""
        self.streams = [
            DomainStream(rows, data.labels[rows], (seed, index), class_balanced)
            for index, rows in enumerate(train_rows)
        ]

    def __len__(self) -> int:
        return self.stop - self.start

    def starting_at(self, step: int) -> DomainBatches:
        """The same batches from a later step on."""
        later = copy.copy(self)
        later.start = step
        return later

    def step(self, step: int) -> list[tuple[int, int, int, int]]:
        """The slots of one step that belong to this process."""
        index, number = self.process
        slots = []
        for domain, stream in enumerate(self.streams):
            for place in range(index, self.per_domain, number):
                slot = domain * self.per_domain + place
                slots.append((step, slot, stream[step * self.per_domain + place], domain))
        return slots

    def __iter__(self) -> Iterator[list[tuple[int, int, int, int]]]:
        return (self.step(step) for step in range(self.start, self.stop))


class TrainingImages(Dataset):
    """Decodes and augments one slot of a batch; hands an undecodable image on as its error."""

    def __init__(self, data: DomainImages, transform: Transform, seed: int) -> None:
        self.data, self.transform, self.seed = data, transform, seed

    def __getitem__(self, slot_of_step: tuple[int, int, int, int]):
        """Returns ``(image uint8 [3, H, W], label, domain, sample id)`` or a BadImageError."""
        step, slot, row, domain = slot_of_step
        try:
            image = read_image(self.data.root / self.data.paths[row])
        except BadImageError as error:
            return error
        pixels = augment(self.transform, image, derive("augment", self.seed, step, slot))
        return pixels, int(self.data.labels[row]), domain, int(self.data.ids[row])


class EvaluationImages(Dataset):
    """Decodes the given rows in order, never augmented unless the transform is."""

    def __init__(self, data: DomainImages, rows: np.ndarray, transform: Transform) -> None:
        self.data, self.rows, self.transform = data, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor | BadImageError:
        row = int(self.rows[index])
        try:
            image = read_image(self.data.root / self.data.paths[row])
        except BadImageError as error:
            return error
        # Seeded by the row, so that a random transform gives the same view at every evaluation.
        return augment(self.transform, image, row)


def training_batches(
    batches: DomainBatches,
    data: DomainImages,
    size: int,
    seed: int,
    workers: int,
    pin: bool,
    flip: bool = True,
) -> Iterator[Batch]:
    """Yield the batches of ``batches``, in order.

    Raises:
        BadImageError: An image of a batch cannot be decoded.
    """
    loader = DataLoader(
        TrainingImages(data, training_transform(size, flip), seed),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate_training,
        pin_memory=pin,
        generator=torch.Generator(),  # else it draws from the global one
    )
    for batch in loader:
        yield _raise_bad_image(batch, "Repair or remove it, or pass --skip-bad")


def evaluation_batches(
    data: DomainImages,
    rows: np.ndarray,
    size: int,
    batch_size: int,
    workers: int,
    transform: Transform | None = None,
) -> Iterator[Tensor]:
    """Yield uint8 [b, 3, size, size] (or what ``transform`` makes) for ``rows``, in order.

    Raises:
        BadImageError: An image cannot be decoded.
    """
    loader = DataLoader(
        EvaluationImages(data, rows, transform or evaluation_transform(size)),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate_evaluation,
        generator=torch.Generator(),  # else it draws from the global one
    )
    for images in loader:
        yield _raise_bad_image(images, "Repair or remove it")


def check_divisible(per_domain: int, processes: int) -> None:
    """Raise a ScmdError where a batch cannot be shared equally by the processes."""
    if per_domain % processes:
        raise ScmdError(
            f"--batch-per-domain {per_domain} cannot be shared by {processes} processes. "
            f"Choose a multiple of {processes}"
        )


# An exception that crosses a DataLoader's worker comes out as a traceback in a string, so the
# workers return it as a value and it is raised here.
def _collate_training(items: list) -> Batch | BadImageError:
    for item in items:
        if isinstance(item, BadImageError):
            return item
    images, labels, domains, ids = zip(*items, strict=True)
    return Batch(
        torch.stack(images), torch.tensor(labels), torch.tensor(domains), torch.tensor(ids)
    )


def _collate_evaluation(items: list) -> Tensor | BadImageError:
    for item in items:
        if isinstance(item, BadImageError):
            return item
    return torch.stack(items)


def _raise_bad_image(batch, way_out: str):
    if isinstance(batch, BadImageError):
        raise BadImageError(f"{batch}. {way_out}")
    return batch
