"""Brightness, contrast, saturation and hue of images, changed by chance.

The changes are torchvision's ``ColorJitter`` and ``RandomGrayscale`` as they are on float images:
computed in float32, clamped after each, and rounded once, at the end. On a PIL picture torchvision
rounds after every change, and the hue to one of 256.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import mul

import numpy as np
import torch
from torch import Tensor

STRENGTH, GREY = 0.3, 0.1
"""How far colours are changed, and how often they are taken away."""
LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in grey: ITU-R BT.601, as Pillow has it."""
COLOURS = 9
"""Numbers that say how an image is changed: factors of brightness, contrast and saturation, the
turn of the hue in circles, the order of these four, and whether the image is grey in the end."""


def draw_colours(draw: random.Random) -> list[float]:
    """How to change an image, as torchvision draws it: [COLOURS]."""
    factors = [draw.uniform(1 - STRENGTH, 1 + STRENGTH) for _ in range(3)]
    hue = draw.uniform(-STRENGTH, STRENGTH)
    order = sorted(range(4), key=lambda _: draw.random())
    return [*factors, hue, *map(float, order), float(draw.random() < GREY)]


def change_colours(images: Tensor, colours: np.ndarray, out: Tensor | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue of every image, in an order of its own.

    Each of the four changes is torchvision's of a float image, clamped as there.

    Args:
        images: uint8 [B, 3, H, W], on any device.
        colours: float32 [B, COLOURS].
        out: Where the result goes; it may be ``images``. Default: new memory.

    Returns:
        uint8 [B, 3, H, W], on the images' device.
    """
    changed = torch.empty_like(images) if out is None else out
    rows = colours.tolist()
    # A GPU wants the whole batch; a single picture stays in a core's cache.
    at_once = 1 if images.device.type == "cpu" else max(1, len(rows))
    with torch.inference_mode(), _one_thread():
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            x = _changed(images[part].float(), rows[part])
            # By way of int16, since straight to uint8 no vector instructions are used.
            changed[part] = x.round_().to(torch.int16)
    return changed


@contextmanager
def _one_thread() -> Iterator[None]:
    """How work is shared among threads may change a last bit, and must not change a run."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _changed(x: Tensor, rows: list[list[float]]) -> Tensor:
    """Float images from 0 to 255, [B, 3, H, W], changed; ``x`` is used up."""
    changes = (_brightness, _contrast, _saturation, _hue)
    for stage in range(4, 8):
        kinds = [int(row[stage]) for row in rows]
        for kind in set(kinds):
            chosen = [place for place, own in enumerate(kinds) if own == kind]
            x = _apply(changes[kind], x, chosen, [rows[place][kind] for place in chosen])
    grey = [place for place, row in enumerate(rows) if row[8]]
    return _apply(_saturation, x, grey, [0.0] * len(grey))


def _apply(
    change: Callable[[Tensor, list[float]], Tensor],
    x: Tensor,
    chosen: list[int],
    numbers: list[float],
) -> Tensor:
    """Change the chosen ones of a batch, each by its number."""
    if len(chosen) in (0, x.shape[0]):
        return change(x, numbers) if chosen else x
    place = torch.tensor(chosen).to(x.device)
    x[place] = change(x[place], numbers)
    return x


# A number for a single image, else one for each of a batch: [B, 1, 1, 1]. For a single image
# the cost of many small operations counts.
def _factor(numbers: list[float], x: Tensor) -> float | Tensor:
    if len(numbers) == 1:
        return numbers[0]
    return torch.tensor(numbers).view(-1, 1, 1, 1).to(x.device)


def _clamped(x: Tensor, factor: float | Tensor) -> Tensor:
    """What was blended is within 0 to 255 where its factor is at most 1."""
    return x if isinstance(factor, float) and factor <= 1 else x.clamp_(0, 255)


def _brightness(x: Tensor, numbers: list[float]) -> Tensor:
    factor = _factor(numbers, x)
    return _clamped(x.mul_(factor), factor)


def _contrast(x: Tensor, numbers: list[float]) -> Tensor:
    factor = _factor(numbers, x)
    means = x.mean((2, 3), keepdim=True)
    mean = _grey(means) if x.shape[0] > 1 else sum(map(mul, LUMA, means.flatten().tolist()))
    return _clamped(x.mul_(factor).add_((1 - factor) * mean), factor)


def _saturation(x: Tensor, numbers: list[float]) -> Tensor:
    factor = _factor(numbers, x)
    return _clamped(x.lerp_(_grey(x), 1 - factor), factor)


def _grey(x: Tensor) -> Tensor:
    """[B, 3, H, W] to [B, 1, H, W]."""
    red, green, blue = x.chunk(3, 1)
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _hue(x: Tensor, numbers: list[float]) -> Tensor:
    """Turn every pixel's hue in HSV, by a part of the circle from -0.5 to 0.5.

    A turn by two sixths of the circle moves each channel to the place of the next. What is left
    is less than a sixth, in either direction.
    """
    ways = []
    for number in numbers:
        third = round(3 * number)
        rest = 6 * number - 2 * third
        ways.append((third, 1 if rest > 0 else -1, abs(rest)))
    for third, sign in {way[:2] for way in ways}:
        alike = [place for place, way in enumerate(ways) if way[:2] == (third, sign)]
        turn = partial(_turned, third=third, sign=sign)
        x = _apply(turn, x, alike, [ways[place][2] for place in alike])
    return x


def _turned(x: Tensor, sixths: list[float], third: int, sign: int) -> Tensor:
    """Turn the hue by two sixths times ``third``, and then by ``sign`` times ``sixths`` of 0 to 1.

    With V and m the largest and the smallest of a pixel's red R, green G and blue B, a turn
    keeps V and m, and makes each channel a trapezoid over the hue. Moving its flanks by f sixths,
    from red to green, is

        R' = clamp(2 R + 2 f B + (1 - f) (V + m) - (R + G + B), m, V),

    and the same with R, G, B for G, B, R and B, R, G. In the other direction R' is made of R and
    G, and so on.
    """
    if third:
        x = torch.cat([x[:, -third:], x[:, :-third]], 1)
    f = _factor(sixths, x)
    most, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    channels = x.chunk(3, 1)
    rest = (most + least).mul_(1 - f)
    for channel in channels:
        rest.sub_(channel)
    one, two, three = channels[::-sign]
    first = one.clone()
    for channel, other in ((one, two), (two, three), (three, first)):
        torch.add(rest, channel, alpha=2, out=channel)
        if isinstance(f, Tensor):
            channel.addcmul_(other, f, value=2)
        else:
            channel.add_(other, alpha=2 * f)
    return x.clamp_(least, most)
