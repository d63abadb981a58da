"""How the domains of the embedded digits look, and writing them out as an ordinary folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from scmd.data.digits import DOMAINS, NAMES, digit, label, members
from scmd.errors import ScmdError
from scmd.limits import nearest
from scmd.seeds import derive

SIZE = 32
"""Side of a picture in pixels."""
FURTHER_STYLES = ("halftone", "neon")
"""Styles that nobody trains on, to see how far a teacher reaches."""

Strokes = np.ndarray
Draw = Callable[[Strokes, np.random.Generator], np.ndarray]


def write_digits(folder: Path, styles: Sequence[str] = DOMAINS) -> None:
    """Write ``style/class/number.png``, 375 pictures of 32 × 32 a style.

    A domain's own digits are drawn in its style; a further style draws those of ``ink`` and
    ``chalk`` alternately. The pictures depend on nothing but the style and the digit.

    Raises:
        ScmdError: An unknown style, or the folder exists and is not empty.
    """
    if not styles:
        raise ScmdError(f"no style. Choose from {', '.join(STYLES)}")
    for style in styles:
        if style not in STYLES:
            raise ScmdError(f"there is no style {style!r}. {nearest(style, STYLES)}")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ScmdError(f"{folder} is not empty. Choose another folder")
    made = not folder.exists()
    try:
        for style in styles:
            for name in NAMES:
                (folder / style / name).mkdir(parents=True, exist_ok=True)
            for index in _digits_of(style):
                picture = render(int(index), style)
                picture.save(folder / style / NAMES[label(int(index))] / f"{index:04d}.png")
    except OSError as error:
        for path in [folder] if made else [folder / style for style in styles]:
            shutil.rmtree(path, ignore_errors=True)
        raise ScmdError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder"
        ) from error


def _digits_of(style: str) -> np.ndarray:
    if style in DOMAINS:
        return members(style)
    return np.sort(np.concatenate([members("ink")[::2], members("chalk")[::2]]))


def render(index: int, style: str) -> Image.Image:
    """One digit in one style, RGB, 32 × 32."""
    generator = np.random.default_rng(derive("digits", style, index))
    pixels = STYLES[style](_strokes(digit(index), generator), generator)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _strokes(strokes: np.ndarray, generator: np.random.Generator) -> Strokes:
    """Scaled up smoothly, a little turned, scaled and shifted: float [32, 32], 0 to 1."""
    big = Image.fromarray((strokes * 255).astype(np.uint8)).resize(
        (24, 24), Image.Resampling.BICUBIC
    )
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(big, (4, 4))
    angle, zoom = np.radians(generator.uniform(-8, 8)), 1 / generator.uniform(0.9, 1.1)
    shift = SIZE / 2 + generator.uniform(-2, 2, 2)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    x0 = SIZE / 2 - cos * shift[0] - sin * shift[1]
    y0 = SIZE / 2 + sin * shift[0] - cos * shift[1]
    turned = canvas.transform(
        canvas.size, Image.Transform.AFFINE, (cos, sin, x0, -sin, cos, y0), Image.Resampling.BICUBIC
    )
    return np.asarray(turned, dtype=float) / 255


def _sharpened(strokes: Strokes, width: float = 0.45, softness: float = 0.15) -> Strokes:
    return ((strokes - width) / softness + 0.5).clip(0, 1)


def _blend(paper: np.ndarray, ink: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return paper * (1 - alpha[..., None]) + ink * alpha[..., None]


def _ink(strokes: Strokes, generator: np.random.Generator) -> np.ndarray:
    paper = generator.uniform(215, 255) + generator.normal(0, 4, (SIZE, SIZE, 1)) * np.ones(3)
    ink = generator.uniform(0, 70, 3) + np.array([0, 0, generator.uniform(0, 90)])
    return _blend(paper, ink, _sharpened(strokes))


def _chalk(strokes: Strokes, generator: np.random.Generator) -> np.ndarray:
    board = np.array([38, 58, 46]) + generator.uniform(-15, 15) + _smooth(generator, 4, 18)
    grain = generator.uniform(0.25, 1, (SIZE, SIZE))
    chalk = np.array([225, 225, 215]) - generator.uniform(0, 30, 3)
    dust = 12 * _smooth(generator, 3, 1).clip(0)
    return _blend(board + dust, chalk, _sharpened(strokes, 0.35, 0.3) * grain)


def _outline(strokes: Strokes, generator: np.random.Generator) -> np.ndarray:
    filled = Image.fromarray((_sharpened(strokes, 0.4, 0.05) * 255).astype(np.uint8))
    filled = filled.resize((4 * SIZE, 4 * SIZE), Image.Resampling.BICUBIC)
    solid = filled.point([0] * 128 + [255] * 128)
    edge = np.asarray(solid.filter(ImageFilter.MaxFilter(5)), dtype=float)
    edge -= np.asarray(solid.filter(ImageFilter.MinFilter(3)), dtype=float)
    line = np.asarray(
        Image.fromarray(edge.clip(0, 255).astype(np.uint8)).resize(
            (SIZE, SIZE), Image.Resampling.BOX
        ),
        dtype=float,
    )
    paper = generator.uniform(235, 255) * np.ones((SIZE, SIZE, 3))
    return _blend(paper, generator.uniform(10, 60) * np.ones(3), line / 255)


def _photo(strokes: Strokes, generator: np.random.Generator) -> np.ndarray:
    """As MNIST-M (Ganin and Lempitsky, 2015): a crop, inverted where the strokes are."""
    crop = _photograph_crop(generator)
    alpha = _sharpened(strokes, 0.4, 0.3)[..., None]
    return crop * (1 - alpha) + (255 - crop) * alpha


def _neon(strokes: Strokes, generator: np.random.Generator) -> np.ndarray:
    colour = generator.permutation([255.0, generator.uniform(40, 255), generator.uniform(0, 80)])
    tube = Image.fromarray((_sharpened(strokes, 0.55, 0.2) * 255).astype(np.uint8))
    glow = np.asarray(tube.filter(ImageFilter.GaussianBlur(2.5)), dtype=float)[..., None] / 255
    core = np.asarray(tube, dtype=float)[..., None] / 255
    night = generator.uniform(0, 30) + generator.normal(0, 3, (SIZE, SIZE, 3))
    return night + 0.9 * glow * colour + 0.7 * core * (255 - 0.3 * colour)


def _halftone(strokes: Strokes, generator: np.random.Generator) -> np.ndarray:
    tone = (
        0.12
        + 0.75
        * np.asarray(
            Image.fromarray((_sharpened(strokes) * 255).astype(np.uint8)).resize(
                (4 * SIZE, 4 * SIZE), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        / 255
    )
    y, x = np.mgrid[: 4 * SIZE, : 4 * SIZE] + generator.uniform(0, 12, 2).reshape(2, 1, 1)
    angle = generator.uniform(0.6, 1)
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    screen = 0.5 + 0.25 * (np.cos(2 * np.pi * u / 10) + np.cos(2 * np.pi * v / 10))
    dots = np.where(tone > screen, 0, 255).astype(np.uint8)
    dots = Image.fromarray(dots).resize((SIZE, SIZE), Image.Resampling.BOX)
    grey = np.asarray(dots, dtype=float)[..., None]
    return grey / 255 * np.array([244, 240, 225]) + (1 - grey / 255) * 30


STYLES: dict[str, Draw] = {
    "chalk": _chalk,
    "ink": _ink,
    "outline": _outline,
    "photo": _photo,
    "halftone": _halftone,
    "neon": _neon,
}


def _smooth(generator: np.random.Generator, cells: int, strength: float) -> np.ndarray:
    """Smooth random shades, [32, 32, 1]."""
    coarse = generator.normal(0, 1, (cells, cells)).astype(np.float32)
    fine = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return strength * np.asarray(fine, dtype=float)[..., None]


@cache
def _photographs() -> list[Image.Image]:
    return [Image.fromarray(image) for image in load_sample_images().images]


def _photograph_crop(generator: np.random.Generator) -> np.ndarray:
    photographs = _photographs()
    photograph = photographs[generator.integers(len(photographs))]
    side = int(generator.integers(48, 200))
    left = int(generator.integers(photograph.width - side))
    top = int(generator.integers(photograph.height - side))
    crop = photograph.crop((left, top, left + side, top + side))
    return np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=float)
