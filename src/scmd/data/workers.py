"""Processes that make batches of images, in memory that is theirs and ours.

torch's DataLoader has a worker make new shared memory for every batch. To get its pages from the
system, 37 for an image of 224 pixels, can take as long as to decode the image. Here the memory is
shared once, and a batch is copied out of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scmd.errors import BadImageError, ScmdError
from scmd.stopping import workers_deaf

AHEAD = 2
"""Batches that a worker makes before they are asked for."""


class Filling(Dataset):
    """Makes one batch after the other.

    Args:
        fill: As for ``filled``.
        size: As for ``filled``.
        shared: Room for some batches, uint8 [places, B, 3, size, size]; None: there is none.
    """

    def __init__(
        self, fill: Callable[[list, Tensor], Any], size: int, shared: Tensor | None
    ) -> None:
        self.fill, self.size, self.shared = fill, size, shared

    def room(self, number: int, images: int) -> Tensor | None:
        """The place of a batch; None where it has none."""
        if self.shared is None or images > self.shared.shape[1]:
            return None
        return self.shared[number % len(self.shared)][:images]

    def __getitem__(
        self, batch: tuple[int, list]
    ) -> tuple[Tensor | None, int, Any] | BadImageError:
        """The images, unless they are in their place, how many, and what ``fill`` says of them."""
        number, items = batch
        room = self.room(number, len(items))
        shape = (len(items), 3, self.size, self.size)
        images = torch.empty(shape, dtype=torch.uint8) if room is None else room
        try:
            said = self.fill(items, images)
        except BadImageError as error:
            # As a value, since an exception comes out of a worker as a traceback in a string.
            return error
        return (images if room is None else None), len(items), said


def filled(
    fill: Callable[[list, Tensor], Any],
    batches: Iterable[list],
    size: int,
    workers: int,
    pin: bool = False,
) -> Iterator[tuple[Tensor, Any]]:
    """Yield images, and what is said of them, in order.

    Args:
        fill: Called with the items of a batch and with room for as many images, uint8
            [B, 3, size, size], to be written there; returns what is to be said of them, best no
            tensor. It may raise a BadImageError.
        batches: What every batch is made of; the first is as large as any.
        size: Side of the images in pixels.
        workers: Processes; 0: this one.
        pin: Yield images in memory that a GPU can read.

    Raises:
        BadImageError: As ``fill``.
        ScmdError: There is too little shared memory for the workers.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    shared = None
    if workers:
        # Workers begin the batch that is AHEAD each before one when that is taken, at the latest:
        # with a place more than that, nothing is overwritten before it has been copied.
        places = AHEAD * workers + 1
        shared = _share(torch.empty((places, len(first), 3, size, size), dtype=torch.uint8))
    making = Filling(fill, size, shared)
    loader = DataLoader(
        making,
        batch_size=None,  # what the sampler yields is a batch already
        sampler=enumerate(itertools.chain([first], batches)),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        generator=torch.Generator(),  # else it draws from the global one
        collate_fn=_as_it_is,
    )
    with workers_deaf():
        made_in_turn = iter(loader)
    try:
        for number, made in enumerate(made_in_turn):
            if isinstance(made, BadImageError):
                raise made
            images, count, said = made
            if images is None:
                room = making.room(number, count)
                assert room is not None
                images = room.pin_memory() if pin else room.clone()
            elif pin:
                images = images.pin_memory()
            yield images, said
    finally:
        del made_in_turn  # ends the workers, even where somebody keeps the error's traceback


def _share(room: Tensor) -> Tensor:
    try:
        return room.share_memory_()
    except RuntimeError as error:
        raise ScmdError(
            f"workers need {room.nbytes / 1e6:.0f} MB of shared memory, which cannot be had "
            f"({str(error).splitlines()[0]}). Pass --workers 0, or give the machine more "
            "(docker run --shm-size 1g)"
        ) from error


def _as_it_is(made: Any) -> Any:
    return made
