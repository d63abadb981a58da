"""Batches: the same number of images from every source domain, at any step, in any order."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from scmd.data.augment import Augmentation, AugmentationName
from scmd.data.colours import change_colours
from scmd.data.folder import DomainImages
from scmd.data.reading import EvaluationImages, TrainingImages, TransformedImages
from scmd.data.transforms import Transform
from scmd.data.views import FixedViews
from scmd.data.workers import filled
from scmd.errors import LEAVE_OUT, BadImageError, ScmdError
from scmd.seeds import derive
from scmd.stopping import workers_deaf


class _Parts(NamedTuple):
    images: Tensor
    """uint8, or float in [0, 1], [B, 3, H, W], not normalised."""
    labels: Tensor
    """int64 [B]"""
    domains: Tensor
    """int64 [B]: the place of each image's domain among the sources."""
    sample_ids: Tensor
    """int64 [B]: stable ids; ``samples.parquet`` in a run maps them to files."""
    teacher_ids: Tensor
    """int64 [B]: what a teacher that remembers knows each image by; its sample id unless given."""


class Batch(_Parts):
    """One training step's images, grouped by domain."""

    __slots__ = ()

    def __new__(
        cls,
        images: Tensor,
        labels: Tensor,
        domains: Tensor,
        sample_ids: Tensor,
        teacher_ids: Tensor | None = None,
    ) -> Batch:
        """A batch; ``teacher_ids`` are the sample ids where they are left out."""
        ids = sample_ids if teacher_ids is None else teacher_ids
        return super().__new__(cls, images, labels, domains, sample_ids, ids)

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
        groups = _by_label(rows, labels) if balanced else [rows]
        self._groups = groups
        self._group_stream = Stream(len(groups), (*key, 0))
        self._streams = [Stream(len(g), (*key, 1 + i)) for i, g in enumerate(groups)]

    def __getitem__(self, position: int) -> int:
        # Each group comes once per pass over the groups, so the pass number is its own position.
        group = self._group_stream[position]
        place = self._streams[group][position // len(self._groups)]
        return int(self._groups[group][place])


def _by_label(rows: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each label that there is, in order."""
    order = np.argsort(labels, kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(labels[order])) + 1)


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


class Loaded(NamedTuple):
    """What a worker makes of a step: a batch, the colours of which may be changed later."""

    batch: Batch
    colours: np.ndarray | None
    """float32 [B, COLOURS], how they are to be changed; None: that is done."""

    def finished(self, device: torch.device | None) -> Batch:
        """The batch, whose colours are changed on a device."""
        if self.colours is None:
            return self.batch
        batch = self.batch if device is None else self.batch.to(device)
        return batch._replace(images=change_colours(batch.images, self.colours))


def training_batches(
    batches: Iterable[list[tuple[int, int, int, int]]],
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
    """Yield the batches of ``batches``, as ``DomainBatches`` plans them, in order.

    With ``views``, every image is one of its fixed views, and none is augmented anew. With a
    ``device`` that is a GPU, colours are changed there, and the batches are there already.

    Raises:
        BadImageError: An image of a batch cannot be decoded.
    """
    how = Augmentation(size, flip, augmentation)
    on_gpu = colours_on(device, how)
    for loaded in load_batches(batches, data, how, seed, workers, pin, views, on_gpu):
        yield loaded.finished(device)


def colours_on(device: torch.device | None, augmentation: Augmentation) -> bool:
    """Whether colours are changed on the device, with the whole batch."""
    return augmentation.name == "tensor" and device is not None and device.type != "cpu"


def load_batches(
    batches: Iterable[list[tuple[int, int, int, int]]],
    data: DomainImages,
    augmentation: Augmentation,
    seed: int,
    workers: int,
    pin: bool,
    views: FixedViews | None,
    colours_later: bool,
) -> Iterator[Loaded]:
    """As ``training_batches``, before the colours are changed if they are ``colours_later``."""
    images_of = TrainingImages(data, augmentation, seed, views, colours_later)
    made = filled(images_of.fill, batches, augmentation.size, workers, pin)
    with _said(f"Repair or remove it, or {LEAVE_OUT}"):
        for images, (numbers, colours) in made:
            yield Loaded(Batch(images, *torch.from_numpy(numbers).unbind()), colours)


def evaluation_batches(
    data: DomainImages,
    rows: np.ndarray,
    size: int,
    batch_size: int,
    workers: int,
    transform: Transform | Augmentation | None = None,
) -> Iterator[Tensor]:
    """Yield uint8 [b, 3, size, size] (or what ``transform`` makes) for ``rows``, in order.

    Raises:
        BadImageError: An image cannot be decoded.
    """
    with _said("Repair or remove it"):
        if transform is not None and not isinstance(transform, Augmentation):
            yield from _transformed(data, rows, batch_size, workers, transform)
            return
        images_of = EvaluationImages(data, size, transform)
        side = size if transform is None else transform.size
        places = range(0, len(rows), batch_size)
        batches = (rows[first : first + batch_size].tolist() for first in places)
        for images, _ in filled(images_of.fill, batches, side, workers):
            yield images


def _transformed(
    data: DomainImages, rows: np.ndarray, batch_size: int, workers: int, transform: Transform
) -> Iterator[Tensor]:
    loader = DataLoader(
        TransformedImages(data, rows, transform),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # else it draws from the global one
    )
    with workers_deaf():
        transformed = iter(loader)
    try:
        for images in transformed:
            if isinstance(images, BadImageError):
                raise images
            yield images
    finally:
        del transformed  # ends the workers, even where somebody keeps the error's traceback


def check_divisible(per_domain: int, processes: int) -> None:
    """Raise a ScmdError where a batch cannot be shared equally by the processes."""
    if per_domain % processes:
        raise ScmdError(
            f"--batch-per-domain {per_domain} cannot be shared by {processes} processes. "
            f"Choose a multiple of {processes}"
        )


# An exception that crosses a DataLoader's worker comes out as a traceback in a string, so the
# workers return it as a value.
def _collate(items: list) -> Tensor | BadImageError:
    for item in items:
        if isinstance(item, BadImageError):
            return item
    return torch.stack(items)


@contextmanager
def _said(way_out: str) -> Iterator[None]:
    """Add to a BadImageError what can be done about it."""
    try:
        yield
    except BadImageError as error:
        raise BadImageError(f"{error}. {way_out}") from error
