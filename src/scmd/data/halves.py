"""A data set in two random halves, so that a teacher can see one and its students the other."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scmd.data.check import check_images
from scmd.data.folder import MANIFEST_COLUMNS, DomainImages
from scmd.errors import ScmdError
from scmd.files import writing_aside
from scmd.seeds import derive

NAMES = ("a.csv", "b.csv")


def split_in_halves(
    data: DomainImages, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Halve every class of every domain at random, so that equal pictures stay together.

    Args:
        data: The data set; its images are decoded, to compare them by content.
        seed: Of the choice.
        progress: Called with the number of images done and the number of all.

    Returns:
        Per sample, whether it is in the second half: bool [N]. The halves of a class of a domain
        differ by one image at most where no picture is there twice.
    """
    twice = [f for f in check_images(data, progress).findings if f.kind.startswith("duplicate")]
    units = [np.array(finding.rows) for finding in twice]
    alone = np.setdiff1d(np.arange(len(data)), np.concatenate([[], *units]).astype(np.int64))
    units += [np.array([row]) for row in alone]
    cells = data.domain_index.astype(np.int64) * len(data.classes) + data.labels
    draw = np.random.default_rng(derive("halves", seed))
    second = np.zeros(len(data), dtype=bool)
    for cell in np.unique(cells):
        own = sorted((unit for unit in units if cells[unit[0]] == cell), key=lambda u: u[0])
        # Large units first, so that what is alone can level the halves.
        order = sorted(draw.permutation(len(own)), key=lambda place: -len(own[place]))
        sizes = [0, 0]
        for place in order:
            half = int(draw.integers(2)) if sizes[0] == sizes[1] else int(sizes[1] < sizes[0])
            second[own[place]] = half == 1
            sizes[half] += len(own[place])
    return second


def write_halves(
    data: DomainImages,
    out: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Path]:
    """Write the halves of ``split_in_halves`` as two manifests, ``a.csv`` and ``b.csv``.

    Args:
        data: The data set.
        out: The folder; paths in the manifests are relative to it.
        seed: Of the choice.
        progress: Called with the number of images done and the number of all.

    Raises:
        ScmdError: A manifest is there already, or the folder cannot be written.
    """
    for name in NAMES:
        if (out / name).exists():
            raise ScmdError(f"{out / name} is there already. Choose another --out, or remove it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScmdError(f"{out} cannot be made: {error.strerror}. Choose another --out") from error
    second = split_in_halves(data, seed, progress)
    start = os.path.relpath(data.root.resolve(), out.resolve())
    for name, chosen in zip(NAMES, (~second, second), strict=True):
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(MANIFEST_COLUMNS)
        for row in np.flatnonzero(chosen).tolist():
            sample = data[row]
            path = Path(start, data.paths[row]).as_posix()
            rows.writerow((path, sample.domain, sample.class_name))
        with writing_aside(out / name) as file:
            file.write(text.getvalue().encode())
    return out / NAMES[0], out / NAMES[1]
