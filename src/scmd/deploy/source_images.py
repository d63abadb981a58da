"""Images of a finished run's sources: what an exported model is checked and calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import ArrowException
from torch import Tensor

from scmd.config import load_config
from scmd.data.images import read_image
from scmd.data.transforms import evaluation_transform
from scmd.errors import BadImageError, ScmdError
from scmd.run_folder import CONFIG, SAMPLES

_SCHEMA = pa.schema([(name, pa.string()) for name in ("path", "domain", "class", "split")])


@dataclass(frozen=True, eq=False)
class SourceImages:
    """Some images of one split of the sources, as the student sees them in evaluation."""

    images: Tensor
    """uint8 [N, 3, size, size]."""
    labels: Tensor
    """int64 [N], places in the student's classes."""
    split: str
    """``holdout`` or ``train``."""

    def __len__(self) -> int:
        return len(self.images)


def read_source_images(
    run: Path,
    classes: tuple[str, ...],
    size: int,
    split: str,
    count: int,
    data: str | Path | None = None,
    seed: int = 0,
) -> SourceImages:
    """Decode a seeded choice of a run's images, as many of every source domain.

    Args:
        run: The folder of a finished run; its ``samples.parquet`` says which images there are.
        classes: The student's classes.
        size: Side of the result in pixels.
        split: ``holdout`` or ``train``.
        count: How many images at most. A small domain gives all that it has.
        data: The data set, a folder or a manifest, where it is no longer where ``config.toml``
            says.
        seed: Of the choice.

    Raises:
        ScmdError: ``samples.parquet`` is missing or damaged, or the data are not there.
        BadImageError: An image cannot be decoded.
    """
    rows = [row for row in _samples(run / SAMPLES) if row["split"] == split]
    if unknown := [row["class"] for row in rows if row["class"] not in classes]:
        raise ScmdError(
            f"{run / SAMPLES} is damaged: its class {unknown[0]!r} is not the student's. "
            "Restore it, or train again"
        )
    if not rows:
        raise ScmdError(f"{run / SAMPLES} has no {split} images of the sources")
    source = Path(data if data is not None else load_config(run / CONFIG).data.path)
    root = source.parent if source.is_file() else source
    random = np.random.default_rng(seed)
    domains = sorted({row["domain"] for row in rows})
    chosen = []
    for domain in domains:
        own = [row for row in rows if row["domain"] == domain]
        some = random.permutation(len(own))[: max(1, count // len(domains))]
        chosen.extend(own[i] for i in sorted(some))
    transform = evaluation_transform(size)
    pixels = []
    for row in chosen:
        file = root / row["path"]
        if not file.is_file():
            raise ScmdError(
                f"{file}, which {run} was trained on, is not there. "
                "Say with --data where the data set is now"
            )
        try:
            pixels.append(transform(read_image(file)))
        except BadImageError as error:
            raise BadImageError(f"{error}. Repair it") from error
    labels = torch.tensor([classes.index(row["class"]) for row in chosen])
    return SourceImages(torch.stack(pixels), labels, split)


def _samples(path: Path) -> list[dict[str, str]]:
    try:
        return pq.read_table(path, columns=_SCHEMA.names).cast(_SCHEMA).to_pylist()
    except FileNotFoundError as error:
        raise ScmdError(
            f"{path} is missing, and it says which images to check the export on. "
            "Give the folder of a finished run"
        ) from error
    except (ArrowException, OSError) as error:
        raise ScmdError(f"{path} is damaged: {error}. Restore it, or train again") from error
