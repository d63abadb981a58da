"""Make the teacher that is shipped in the package: a tiny CLIP that has read many digits.

    python scripts/embedded_teacher.py

It renders digits in many fonts, shapes and colours on many papers, and fits an open_clip model to
them with ``scmd teacher fit``. What it must not see, it cannot: nothing here draws as the embedded
data set does, the two photographs of scikit-learn are not read, and the only handwriting is that of
the digits which are kept out of the set.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich.console import Console

from scmd.data.digits import NAMES, digit, kept_out, label
from scmd.files import write_json
from scmd.fit import fit_teacher
from scmd.models.fit_config import FitConfig

PACKAGED = Path(__file__).parents[1] / "src" / "scmd" / "embedded" / "teacher"
SIZE, BIG = 32, 96
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSans-Oblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralBolIta", "STIXGeneralItalic", "cmb10", "cmr10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip
KINDS = ("filled", "hollow", "textured", "inverted")
MODEL = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "timm_model_name": "test_resnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": [64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear",
        "resize_mode": "squash",
    },
}  # fmt: skip


def glyph(number: int, handwriting: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A digit's shape: from a font, or handwritten; float [96, 96], 0 to 1."""
    canvas = Image.new("L", (BIG, BIG))
    if rng.random() < 0.45:
        strokes = digit(int(rng.choice(handwriting)))
        side = int(rng.uniform(0.7, 0.95) * BIG)
        big = Image.fromarray((strokes * 255).astype(np.uint8))
        big = big.resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(big, ((BIG - side) // 2, (BIG - side) // 2))
        shape = np.asarray(canvas, dtype=float) / 255
        return ((shape - rng.uniform(0.3, 0.6)) / rng.uniform(0.1, 0.3) + 0.5).clip(0, 1)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(folder / f"{rng.choice(FONTS)}.ttf", int(rng.uniform(0.7, 1) * BIG))
    ImageDraw.Draw(canvas).text((BIG / 2, BIG / 2), str(number), 255, font, anchor="mm")
    weight = rng.integers(-1, 4)
    if weight > 0:
        canvas = canvas.filter(ImageFilter.MaxFilter(int(2 * weight + 1)))
    return np.asarray(canvas, dtype=float) / 255


def distort(shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, shear, stretch, shift and bend."""
    y, x = np.mgrid[:BIG, :BIG].astype(float) - BIG / 2
    angle = np.radians(rng.normal(0, 9))
    scale = rng.uniform(0.85, 1.45) * np.array([rng.uniform(0.85, 1.2), rng.uniform(0.85, 1.2)])
    shear = rng.normal(0, 0.12)
    u = scale[0] * (np.cos(angle) * x + np.sin(angle) * y + shear * y)
    v = scale[1] * (-np.sin(angle) * x + np.cos(angle) * y)
    u += BIG / 2 + rng.normal(0, 4) + smooth(rng, int(rng.integers(3, 7)), BIG) * rng.uniform(0, 3)
    v += BIG / 2 + rng.normal(0, 4) + smooth(rng, int(rng.integers(3, 7)), BIG) * rng.uniform(0, 3)
    inside = (u >= 0) & (v >= 0) & (u < BIG - 1) & (v < BIG - 1)
    column, row = u.clip(0, BIG - 2), v.clip(0, BIG - 2)
    i, j = row.astype(int), column.astype(int)
    di, dj = row - i, column - j
    bent = (shape[i, j] * (1 - di) + shape[i + 1, j] * di) * (1 - dj) + (
        shape[i, j + 1] * (1 - di) + shape[i + 1, j + 1] * di
    ) * dj
    return bent * inside


def smooth(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise with about unit variance: [size, size]."""
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=float)


def contour(shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The edge of a shape, thin or thick, sometimes with gaps."""
    solid = Image.fromarray(np.where(shape > 0.5, 255, 0).astype(np.uint8))
    wide = solid.filter(ImageFilter.MaxFilter(int(rng.choice([3, 3, 5, 7]))))
    narrow = solid.filter(ImageFilter.MinFilter(int(rng.choice([1, 3, 3, 5]))))
    edge = (np.asarray(wide, dtype=float) - np.asarray(narrow, dtype=float)) / 255
    if rng.random() < 0.2:
        edge *= smooth(rng, 9, BIG) > rng.uniform(-1.5, -0.6)
    return edge * rng.uniform(0.6, 1)


def paper(rng: np.random.Generator, rich: bool) -> np.ndarray:
    """A background: flat or shaded, or (rich) a made-up scene; float [96, 96, 3], 0 to 255."""
    base = rng.uniform(0, 255, 3) if rng.random() < 0.6 else np.full(3, rng.uniform(0, 255))
    if not rich and rng.random() < 0.4:
        base = np.full(3, rng.uniform(200, 255)) if rng.random() < 0.6 else rng.uniform(0, 60, 3)
    image = np.broadcast_to(base, (BIG, BIG, 3)).copy()
    if rng.random() < 0.5:
        shade = smooth(rng, int(rng.integers(2, 6)), BIG)[..., None]
        image += shade * rng.uniform(0, 25) * rng.uniform(0.3, 1, 3)
    if rich:
        picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        for _ in range(rng.integers(2, 14)):
            colour = tuple(int(c) for c in rng.uniform(0, 255, 3))
            x0, y0 = rng.uniform(-30, BIG, 2)
            x1, y1 = np.array([x0, y0]) + rng.uniform(4, 80, 2)
            form = rng.integers(4)
            if form == 0:
                draw.ellipse((x0, y0, x1, y1), colour)
            elif form == 1:
                draw.rectangle((x0, y0, x1, y1), colour)
            elif form == 2:
                draw.line((x0, y0, x1, y1), colour, int(rng.integers(1, 12)))
            else:
                draw.polygon([tuple(p) for p in rng.uniform(0, BIG, (3, 2)).tolist()], colour)
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 1, 2, 5]))))
        image = np.asarray(picture, dtype=float)
        for cells in (int(rng.integers(6, 14)), int(rng.integers(20, 48))):
            image = image + smooth(rng, cells, BIG)[..., None] * rng.uniform(0, 30)
        if rng.random() < 0.3:
            y, x = np.mgrid[:BIG, :BIG]
            wave = np.sin((x * rng.normal() + y * rng.normal()) / rng.uniform(1.5, 6))
            image = image + wave[..., None] * rng.uniform(5, 45)
    return image.clip(0, 255)


def ink(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour that can be told from the background."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if rng.random() < 0.4:
            colour = np.full(3, rng.choice([rng.uniform(0, 60), rng.uniform(200, 255)]))
        if abs(colour.mean() - background.mean()) > 70:
            return colour


def render(
    number: int, kind: str, handwriting: np.ndarray, rng: np.random.Generator
) -> Image.Image:
    """One picture of a digit, RGB, 32 × 32."""
    shape = distort(glyph(number, handwriting, rng), rng)
    rich = kind == "inverted" or (kind == "textured" and rng.random() < 0.8)
    back = paper(rng, rich)
    alpha = shape[..., None]
    if kind == "hollow":
        alpha = contour(shape, rng)[..., None]
        if rng.random() < 0.2:
            back = back * (1 - shape[..., None]) + paper(rng, False) * shape[..., None]
    if kind == "textured" or rng.random() < 0.25:
        grain = rng.uniform(rng.uniform(0, 1), 1, (BIG // 3, BIG // 3)).astype(np.float32)
        grain = Image.fromarray(grain).resize((BIG, BIG), Image.Resampling.NEAREST)
        alpha = alpha * np.asarray(grain)[..., None]
    if kind == "inverted":
        image = back * (1 - alpha) + (255 - back) * alpha
    elif rng.random() < 0.15:
        image = back * (1 - alpha) + paper(rng, True) * alpha
        image = image + (ink(back, rng) - image) * 0.6 * alpha
    else:
        image = back * (1 - alpha) + ink(back, rng) * alpha
    picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    small = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=float)
    small = small + rng.normal(0, rng.uniform(0, 14), small.shape)
    return Image.fromarray(small.clip(0, 255).astype(np.uint8))


def write_images(folder: Path, per_kind_and_digit: int, seed: int) -> None:
    """Write ``kind/digit/number.png``."""
    rng = np.random.default_rng(seed)
    written = {number: [i for i in kept_out() if label(int(i)) == number] for number in range(10)}
    for kind in KINDS:
        for number, name in enumerate(NAMES):
            (folder / kind / name).mkdir(parents=True)
            for index in range(per_kind_and_digit):
                picture = render(number, kind, np.array(written[number]), rng)
                picture.save(folder / kind / name / f"{index:04d}.png")


def main(
    work: Path = Path("runs/embedded-teacher"),
    out: Path = PACKAGED,
    per_kind_and_digit: int = 800,
    steps: int = 2500,
    seed: int = 0,
) -> None:
    """Render, fit, and put the result into the package.

    Args:
        work: Where the rendered images and the fit are kept; the images are made once.
        out: Where the teacher goes.
        per_kind_and_digit: Images of each digit in each of the four kinds.
        steps: Optimizer steps.
        seed: Of the images and the fit.
    """
    images = work / "images"
    if not images.exists():
        write_images(work / "unfinished", per_kind_and_digit, seed)
        (work / "unfinished").rename(images)
    (work / "model.json").write_text(json.dumps(MODEL))
    config = FitConfig(
        data=str(images), model=str(work / "model.json"), from_scratch=True, lr=2e-3,
        captions=(
            "a {class}", "this is a photo of a {class}", "the digit {class}", "a {domain} {class}",
        ),
        steps=steps, batch_per_domain=32, weight_decay=0.05, flip=False, half=True, holdout=0.05,
        seed=seed, checkpoint_every=500, augmentation="torchvision",
    )  # fmt: skip
    fitted = work / f"fit-{steps}-seed{seed}"
    card = fit_teacher(config, fitted, resume=fitted.exists(), console=Console())
    print(json.dumps(card["zero_shot_on_held_out_images"], indent=2))
    out.mkdir(parents=True, exist_ok=True)
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "teacher.json"):
        shutil.copyfile(fitted / name, out / name)
    card["architecture"] = "timm's test_resnet and a text transformer of width 32, two layers"
    card["seen"]["data"] = "digits rendered by scripts/embedded_teacher.py"
    write_json(out / "teacher.json", card)


if __name__ == "__main__":
    tyro.cli(main)
