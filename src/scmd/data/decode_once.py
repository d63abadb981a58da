"""Decode a data set's images once, for all runs on this machine."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from rich.console import Console

from scmd.data.decoded import INDEX, PIXELS, DecodedImages
from scmd.data.folder import DomainImages
from scmd.data.images import open_image, read_image, reduced_size
from scmd.data.transforms import evaluation_transform
from scmd.errors import BadImageError, ScmdError
from scmd.files import writing_aside
from scmd.progress import counting
from scmd.store import cache_root, exclusive

VERSION = 1
"""Of what the files hold, and of how images are decoded and reduced."""


def decode_once(
    data: DomainImages, shorter_side: int | None, scored_size: int, console: Console
) -> DecodedImages | None:
    """The images of a data set, decoded: now, unless an earlier run has.

    They lie under ``scmd.store.cache_root``, and are made anew when a file's size or time is
    another. Where they would take more than half of what is free on the disk, or more than the
    machine's memory, there are none, and every step decodes its images: a disk that has to
    deliver pixels is not faster than a processor that decodes them. Of several processes one
    decodes; if it is killed, the next one begins anew.

    Args:
        data: The data set.
        shorter_side: What training reduces larger images to, as for ``read_image``.
        scored_size: The side of the squares that images are scored as.
        console: For the progress, and for the reason where there are none.

    Returns:
        None where they do not fit, or the disk cannot be read or written.
    """
    folder = cache_root() / "decoded" / _key(data, shorter_side, scored_size)
    state = _state(data)
    if found := _open(folder, state):
        return found
    try:
        room = _room(folder)
    except OSError as error:
        return _unwritable(folder, error, console)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # decoding hints at it again
        plan = _plan(data, shorter_side, scored_size, room)
    if plan.length > room:
        console.print(
            f"images are decoded in every step: decoded, they would take more than the "
            f"{room / 1e9:.1f} GB that there is room for",
            markup=False,
        )
        return None
    if not plan.length:
        return None  # there is no image among them
    try:
        with exclusive(folder, lambda: console.print("another process decodes; waiting")):
            found = _open(folder, state)
            if not found:
                with counting(console, "decoding once") as progress:
                    _write(folder, data, plan, state, progress)
            return found or _open(folder, state)
    except (OSError, ScmdError) as error:
        return _unwritable(folder, error, console)


def _unwritable(folder: Path, error: OSError | ScmdError, console: Console) -> None:
    reason = error.strerror if isinstance(error, OSError) else error
    console.print(
        f"images are decoded in every step: {folder} cannot be written ({reason})", markup=False
    )


@dataclass(frozen=True)
class _Plan:
    """Which pictures there will be, and where."""

    shorter_side: int | None
    scored_size: int
    starts: np.ndarray
    """Per sample, of the picture to train on and of the one to score: int64 [N, 2]."""
    areas: np.ndarray
    """Per sample, pixels of both: int64 [N, 2]; 0 for what is no image."""
    length: int
    """Bytes of all."""


def _key(data: DomainImages, shorter_side: int | None, scored_size: int) -> str:
    digest = hashlib.blake2b(os.fsencode(data.root.resolve()), digest_size=16)
    digest.update("\0".join(data.paths).encode())
    digest.update(repr((VERSION, PIL.__version__, shorter_side, scored_size)).encode())
    return digest.hexdigest()


def _state(data: DomainImages) -> str:
    """Of all files: their sizes and times."""
    digest = hashlib.blake2b(digest_size=16)
    for path in data.paths:
        try:
            status = os.stat(os.path.join(data.root, path))  # Path takes longer than the system
            digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
        except OSError:
            digest.update(b"-")
    return digest.hexdigest()


def _open(folder: Path, state: str) -> DecodedImages | None:
    try:
        found = DecodedImages(folder)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None  # absent or damaged: it is made anew
    return found if found.state == state else None


def _room(folder: Path) -> int:
    """Bytes that may be taken."""
    there = folder
    while not there.exists():
        there = there.parent
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(shutil.disk_usage(there).free // 2, memory)


def _plan(data: DomainImages, shorter_side: int | None, scored_size: int, room: int) -> _Plan:
    """Look at the images' sizes, not further than there is room for."""
    starts, areas = np.zeros((len(data), 2), np.int64), np.zeros((len(data), 2), np.int64)
    length = 0
    for row, path in enumerate(data.paths):
        try:
            with open_image(data.root / path) as image:
                whole = image.size
        except Exception:  # as in read_image, which will say what is wrong with it
            continue
        starts[row], areas[row] = length, math.prod(reduced_size(whole, shorter_side))
        length += 3 * int(areas[row, 0])
        if reduced_size(whole, shorter_side) != whole:
            starts[row, 1], areas[row, 1] = length, scored_size**2
            length += 3 * scored_size**2
        if length > room:
            break
    return _Plan(shorter_side, scored_size, starts, areas, length)


def _write(
    folder: Path,
    data: DomainImages,
    plan: _Plan,
    state: str,
    progress: Callable[[int, int], None],
) -> None:
    # First the index goes, and last it comes: without it there is nothing here.
    (folder / INDEX).unlink(missing_ok=True)
    shapes = np.zeros((len(data), 2, 2), np.int32)
    aside = folder / f".{PIXELS}"
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with aside.open("wb") as file:
            file.truncate(plan.length)

            def decode(row: int) -> None:
                for which, pixels in enumerate(_pictures(data, row, plan)):
                    shapes[row, which] = pixels.shape[:2]
                    _write_at(file.fileno(), pixels, plan.starts[row, which])

            for done, _ in enumerate(pool.map(decode, range(len(data))), 1):
                progress(done, len(data))
            os.fsync(file.fileno())
        os.replace(aside, folder / PIXELS)
    finally:
        pool.shutdown(cancel_futures=True)
        aside.unlink(missing_ok=True)
    with writing_aside(folder / INDEX) as index:
        np.savez(
            index,
            state=state,
            starts=plan.starts,
            shapes=shapes,
            shorter_side=plan.shorter_side or 0,
            scored_size=plan.scored_size,
            length=plan.length,
        )


def _pictures(data: DomainImages, row: int, plan: _Plan) -> list[np.ndarray]:
    """To train on and to score, uint8 [h, w, 3]; none where they are not what was planned."""
    try:
        whole = read_image(data.root / data.paths[row])
        to_train = to_score = np.asarray(whole)
        if plan.starts[row, 0] != plan.starts[row, 1]:
            to_train = np.asarray(read_image(data.root / data.paths[row], plan.shorter_side))
            to_score = evaluation_transform(plan.scored_size)(whole).permute(1, 2, 0).numpy()
    except BadImageError:
        return []
    pictures = [to_train, to_score]
    areas = [picture.shape[0] * picture.shape[1] for picture in pictures]
    return pictures if areas == plan.areas[row].tolist() else []


def _write_at(file: int, pixels: np.ndarray, start: int) -> None:
    if os.pwrite(file, np.ascontiguousarray(pixels).data, start) != pixels.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
