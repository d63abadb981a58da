"""How the cost grows: with the number of classes, of images, and with the batch."""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from scmd.bench.compare import Say, compare, mixed, ratio
from scmd.bench.processes import PROCESSES, seconds_of_mean_step
from scmd.bench.turns import side
from scmd.bench.work import Work, write_photographs
from scmd.data.folder import DomainImages, sample_id
from scmd.data.loader import DomainBatches

CLASSES = (7, 65, 345)
BATCHES = (8, 16, 32)
IMAGES = (10**2, 10**4, 10**6)
STEPS = 100


def growth_of_classes(work: Work, folder: Path, rounds: int, say: Say) -> list[tuple[str, ...]]:
    """Rows: classes, seconds of a mean step of the reference and of ours, their ratio."""
    rows = []
    for classes in CLASSES:
        data = write_photographs(folder / f"{classes}-classes", 3, classes, 5)
        rows.append((str(classes), *_compared(replace(work, data=data), rounds, say)))
    return rows


def growth_of_batch(work: Work, rounds: int, say: Say) -> list[tuple[str, ...]]:
    """Rows: images of a domain in a step, seconds of either side, their ratio."""
    return [
        (str(size), *_compared(replace(work, batch_per_domain=size), rounds, say))
        for size in BATCHES
    ]


def growth_of_processes(work: Work, say: Say) -> list[tuple[str, ...]]:
    """Rows: processes with one thread each that share a batch, seconds of a mean step of ours."""
    rows = []
    for processes in PROCESSES:
        say(f"{processes} processes")
        rows.append((str(processes), f"{seconds_of_mean_step(work, processes):.2f}"))
    return rows


def growth_of_images(say: Say) -> list[tuple[str, ...]]:
    """Rows: images, seconds for the slots of ``STEPS`` steps of 4 × 32, MB that the index takes."""
    rows = []
    for images in IMAGES:
        say(f"an index of {images:,} images")
        with side(f"{images:,} images", Index, images) as at_work:
            seconds = at_work.turn("draw", STEPS).seconds
            rows.append((f"{images:,}", f"{seconds:.2f}", f"{at_work.ask('megabytes'):.0f}"))
    return rows


class Index:
    """The index of a data set whose images are never opened.

    Args:
        images: How many it lists, in 4 domains of 7 classes.
    """

    def __init__(self, images: int) -> None:
        before = _megabytes()
        paths = tuple(f"domain{i % 4}/class{i // 4 % 7}/{i:08}.jpg" for i in range(images))
        self.data = DomainImages(
            source=Path(),
            root=Path(),
            domains=tuple(f"domain{i}" for i in range(4)),
            classes=tuple(f"class{i}" for i in range(7)),
            paths=paths,
            domain_index=np.arange(images, dtype=np.int32) % 4,
            labels=np.arange(images, dtype=np.int32) // 4 % 7,
            ids=np.fromiter(map(sample_id, paths), np.int64, images),
        )
        self._megabytes = _megabytes() - before

    def draw(self, steps: int) -> None:
        """Draw the slots of so many steps, from the start of the streams."""
        rows = [self.data.rows(domain) for domain in self.data.domains]
        for _ in DomainBatches(self.data, rows, 32, 0, 0, steps):
            pass

    def megabytes(self) -> float:
        """What the index takes."""
        return self._megabytes


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _compared(work: Work, rounds: int, say: Say) -> tuple[str, ...]:
    began = time.perf_counter()
    times = compare(work, rounds, say, more=False, same_allocator=False)
    say(f"took {time.perf_counter() - began:.0f} s")
    slow, fast = (mixed(work, times[name]) for name in ("reference", "ours"))
    return (f"{np.median(slow):.2f}", f"{np.median(fast):.2f}", str(ratio(slow, fast)))
