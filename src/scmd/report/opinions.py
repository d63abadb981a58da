"""What the student and the teacher say about a run's images, asked once and kept in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from torch import Tensor

from scmd.config import RunConfig
from scmd.data.folder import DomainImages
from scmd.data.loader import evaluation_batches
from scmd.deploy.classifier import Classifier
from scmd.evaluate import EVALUATION_BATCH, collect_logits
from scmd.files import writing_aside
from scmd.models.remembered import remember
from scmd.models.teacher import load_teacher

STUDENT, TEACHER = "student-opinions.parquet", "teacher-opinions.parquet"


@dataclass(frozen=True)
class Opinions:
    """Probabilities of some images' classes; rows are in the order of ``rows``."""

    rows: np.ndarray
    """Rows of the data set, int64 [n]."""
    probabilities: np.ndarray
    """float32 [n, C]."""

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class, int64 [n]."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> np.ndarray:
        """Its probability, [n]."""
        return self.probabilities.max(1)


def student_opinions(
    run: Path, model: Classifier, data: DomainImages, rows: np.ndarray, workers: int
) -> Opinions:
    """The deployed weights' probabilities, without calibration."""

    def ask() -> Tensor:
        device = next(model.parameters()).device
        batches = evaluation_batches(data, rows, model.image_size, EVALUATION_BATCH, workers)
        return collect_logits(model, batches, device)

    return _remembered(run / STUDENT, data, rows, ask)


def teacher_opinions(
    run: Path, config: RunConfig, data: DomainImages, rows: np.ndarray
) -> Opinions:
    """The teacher's zero-shot probabilities, with its own image transform.

    A run that was trained with a clean view has asked about most of these images already.
    """

    def ask() -> Tensor:
        teacher = load_teacher(config.teacher, data.classes)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size, workers = config.data.image_size, config.training.workers
        if config.teacher.view == "clean":
            quiet = Console(quiet=True)
            known = remember(
                teacher, config.teacher, data, rows, size, True, workers, device, quiet
            )
            ids = torch.from_numpy(data.ids[rows]).split(EVALUATION_BATCH)
            return torch.cat([known.logits(torch.empty(0), part).cpu() for part in ids])
        teacher.to(device)
        batches = evaluation_batches(
            data, rows, teacher.image_size, EVALUATION_BATCH, workers, teacher.preprocess
        )
        return collect_logits(teacher.normalized_logits, batches, device)

    return _remembered(run / TEACHER, data, rows, ask)


def _read(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Sample ids [n] and probabilities [n, C]; None where they are absent or damaged."""
    try:
        table = pq.read_table(path)
        ids = table["sample_id"].to_numpy()
        flat = table["probabilities"].combine_chunks().flatten().to_numpy()
        probabilities = flat.reshape(len(ids), classes).astype(np.float32)
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        return None
    sums = probabilities.sum(1)
    return (ids, probabilities) if np.allclose(sums, 1, atol=1e-3) else None


def _remembered(
    path: Path, data: DomainImages, rows: np.ndarray, ask: Callable[[], Tensor]
) -> Opinions:
    ids = data.ids[rows]
    known = _read(path, len(data.classes))
    if known is not None and known[0].tolist() == ids.tolist():
        return Opinions(rows, known[1])
    probabilities = ask().softmax(1).numpy()
    size = probabilities.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), size)
    with writing_aside(path) as file:
        table = pa.table({"sample_id": ids, "probabilities": column})
        pq.write_table(table, file, compression="zstd")
    return Opinions(rows, probabilities)
