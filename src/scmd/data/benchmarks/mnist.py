"""Rotated and coloured MNIST as image folders, from MNIST's own files.

After DomainBed's datasets.py (facebookresearch/DomainBed), with a fixed random state where it draws
anew in each trial, so that a data set is one data set.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.entries import Benchmark
from scmd.data.walking import files_in
from scmd.seeds import derive

_PAIRS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
_MOST_BYTES = 100_000_000
LABEL_NOISE = 0.25
"""So many labels of the coloured set are flipped."""
COLOUR_NOISE = {"plus_90": 0.1, "plus_80": 0.2, "minus_90": 0.9}
"""So many colours of each domain are not the label's; the order in which digits are dealt out."""


def read_idx(path: Path) -> np.ndarray:
    """An array of MNIST's own format, packed with gzip or not: uint8 [n] or [n, height, width].

    Raises:
        SourceError: It is something else, or damaged.
    """
    try:
        opening = gzip.open if path.suffix == ".gz" else open
        with opening(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"has a damaged file: {path.name}: {error}") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    size = int(np.prod(shape, dtype=object)) if dimensions in (1, 3) else -1
    if content[:3] != b"\x00\x00\x08" or len(content) != start + size:
        raise SourceError(f"has a damaged file: {path.name} is no array of bytes as MNIST has them")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All digits, those for training first.

    Returns:
        Images uint8 [n, 28, 28], labels uint8 [n].

    Raises:
        SourceError: A file is missing or damaged, is not MNIST's, or does not belong to the others.
    """
    images, labels = [], []
    for pair in _PAIRS:
        of_images, of_labels = (read_idx(_file(folder, name)) for name in pair)
        if of_images.shape != (*of_labels.shape, 28, 28) or (of_labels > 9).any():
            raise SourceError(f"has files that are no digits with labels: {pair[0]}, {pair[1]}")
        images.append(of_images)
        labels.append(of_labels)
    return np.concatenate(images), np.concatenate(labels)


def _file(folder: Path, name: str) -> Path:
    for path in files_in(folder, f"{name}*"):
        if path.name in (name, f"{name}.gz"):
            return path
    raise SourceError(f"lacks a file of MNIST: {name}.gz")


def digits_of(benchmark: Benchmark, folder: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """The images of a data set that is made of MNIST: domain, class, file name, PNG.

    A file is named by the digit's place in MNIST, 60,000 for training and then 10,000 to test.

    Raises:
        SourceError: MNIST's files are missing or damaged.
    """
    images, labels = read_mnist(folder)
    draw = np.random.default_rng(derive(benchmark.name))
    order = draw.permutation(len(images))
    if benchmark.layout == "rotated-mnist":
        for place, angle in enumerate(benchmark.domains):
            for row in order[place :: len(benchmark.domains)].tolist():
                turned = rotated(images[row], int(angle))
                yield angle, str(labels[row]), f"{row:05}.png", _png(turned)
        return
    for place, (domain, noise) in enumerate(COLOUR_NOISE.items()):
        rows = order[place :: len(COLOUR_NOISE)]
        low, colours = coloured_labels(labels[rows], noise, draw)
        for row, is_low, colour in zip(rows.tolist(), low, colours, strict=True):
            class_name = "0_to_4" if is_low else "5_to_9"
            yield domain, class_name, f"{row:05}.png", _png(coloured(images[row], int(colour)))


def rotated(digit: np.ndarray, angle: int) -> np.ndarray:
    """A digit, uint8 [28, 28], turned against the clock by so many degrees, black at the edges."""
    return np.asarray(Image.fromarray(digit).rotate(angle, Image.Resampling.BICUBIC, fillcolor=0))


def coloured_labels(
    digits: np.ndarray, noise: float, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy binary labels, and colours that follow them but for a part of ``noise``.

    Args:
        digits: From 0 to 9: [n].
        noise: The part of the colours that are not the label's.
        draw: The random state.

    Returns:
        Whether the label says "below five", bool [n], and the colours, 0 or 1: int64 [n].
    """
    low = (digits < 5) ^ (draw.random(len(digits)) < LABEL_NOISE)
    colours = low ^ (draw.random(len(digits)) < noise)
    return low, colours.astype(np.int64)


def coloured(digit: np.ndarray, colour: int) -> np.ndarray:
    """A digit, uint8 [28, 28], in red (0) or green (1): uint8 [28, 28, 3].

    DomainBed's images have these two channels; the third is there since networks want three.
    """
    image = np.zeros((*digit.shape, 3), dtype=np.uint8)
    image[..., colour] = digit
    return image


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
