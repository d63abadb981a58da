"""What a run selected, condensed to what a page can hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scmd.data.folder import DomainImages
from scmd.errors import ScmdError

WINDOWS = 20
LOSS_BINS = 24
LISTED = 24
"""Samples of each kind that are shown."""


@dataclass(frozen=True)
class SampleHistory:
    """Per sample that was drawn, over the steps that selected; arrays [n] in one order."""

    rows: np.ndarray
    """Rows of the data set."""
    drawn: np.ndarray
    """How often it was in a batch."""
    kept: np.ndarray
    """How often it was selected."""
    loss: np.ndarray
    """Mean of the losses that are finite; NaN where none is, as of what ``random`` never kept."""
    relapses: np.ndarray
    """How often it was selected after it had not been at the draw before: learned, then forgotten
    (cf. Toneva et al., ICLR 2019, arXiv:1812.05159, where it is the prediction that counts)."""

    @property
    def share(self) -> np.ndarray:
        """Of its draws, how many were selected."""
        return self.kept / self.drawn

    def always_hard(self, most: int = LISTED) -> np.ndarray:
        """Places of the samples that were selected most, of those drawn at least twice."""
        return self._ordered((self.drawn >= 2) & (self.kept > 0), self.share, self.loss, most)

    def never_hard(self, most: int = LISTED) -> np.ndarray:
        """Places of the samples that were never selected, the most often drawn first."""
        return self._ordered(self.kept == 0, self.drawn, -self.loss, most)

    def forgotten(self, most: int = LISTED) -> np.ndarray:
        """Places of the samples that relapsed most."""
        return self._ordered(self.relapses > 0, self.relapses, self.loss, most)

    def _ordered(
        self, mask: np.ndarray, first: np.ndarray, second: np.ndarray, most: int
    ) -> np.ndarray:
        places = np.flatnonzero(mask)
        order = np.lexsort((-second[places], -first[places]))
        return places[order[:most]]


def read_selecting_steps(path: Path, data: DomainImages) -> pa.Table:
    """The steps of ``selection.parquet`` in which something was left out, with a column ``row``."""
    try:
        names = ["step", "sample_id", "loss", "kept"]
        table = pq.read_table(path, columns=names).select(names)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ScmdError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    unknown = np.setdiff1d(table["sample_id"].to_numpy(), data.ids)
    if len(unknown):
        raise ScmdError(f"{path} has the sample {unknown[0]}, which is not in {data.source}")
    all_kept = table.group_by("step").aggregate([("kept", "all")])
    selecting = all_kept.filter(~pc.field("kept_all"))["step"].combine_chunks()
    table = table.filter(pc.field("step").isin(selecting))
    order = np.argsort(data.ids)
    places = np.searchsorted(data.ids, table["sample_id"].to_numpy(), sorter=order)
    return table.append_column("row", pa.array(order[places]))


def histories(table: pa.Table) -> SampleHistory:
    """Count for every sample; ``table`` is of ``read_selecting_steps``."""
    table = table.sort_by([("row", "ascending"), ("step", "ascending")])
    rows = table["row"].to_numpy()
    kept = table["kept"].to_numpy(zero_copy_only=False).astype(np.int64)
    loss = table["loss"].to_numpy().astype(np.float64)
    if not len(rows):
        empty = np.zeros(0, dtype=np.int64)
        return SampleHistory(empty, empty, empty, empty.astype(float), empty)
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    relapse = np.r_[0, (kept[1:] == 1) & (kept[:-1] == 0) & (rows[1:] == rows[:-1])].astype(int)
    finite = np.isfinite(loss)
    total = np.add.reduceat(np.where(finite, loss, 0), starts)
    known = np.add.reduceat(finite.astype(np.int64), starts)
    return SampleHistory(
        rows[starts],
        np.diff(np.r_[starts, len(rows)]),
        np.add.reduceat(kept, starts),
        np.where(known > 0, total / np.maximum(known, 1), np.nan),
        np.add.reduceat(relapse, starts),
    )


def windows(table: pa.Table, data: DomainImages) -> dict[str, Any]:
    """How much was drawn and selected of each domain and class, over time.

    Returns:
        ``edges`` (of the windows, in steps), ``loss_edges``, and ``cells``: a list
        ``[window, domain, class, drawn, kept, histogram of finite losses]`` of what is not empty.
    """
    steps = table["step"].to_numpy()
    if not len(steps):
        return {"edges": [0, 0], "loss_edges": [0, 1], "cells": []}
    first, last = int(steps.min()), int(steps.max()) + 1
    edges = np.unique(np.linspace(first, last, min(WINDOWS, last - first) + 1).astype(int))
    window = np.searchsorted(edges, steps, side="right") - 1
    rows = table["row"].to_numpy()
    domain, label = data.domain_index[rows].astype(int), data.labels[rows].astype(int)
    loss = table["loss"].to_numpy()
    known = np.isfinite(loss)
    finite = loss[known]
    top = float(np.quantile(finite, 0.995)) if len(finite) else 1.0
    loss_edges = np.linspace(0, max(top, 1e-6), LOSS_BINS + 1)
    bins = np.clip(np.searchsorted(loss_edges, finite, side="right") - 1, 0, LOSS_BINS - 1)
    kept = table["kept"].to_numpy(zero_copy_only=False)
    shape = (len(edges) - 1, len(data.domains), len(data.classes))
    key = np.ravel_multi_index((window, domain, label), shape)
    cells, place = np.unique(key, return_inverse=True)
    drawn = np.bincount(place)
    selected = np.bincount(place, weights=kept)
    histogram = np.zeros((len(cells), LOSS_BINS), dtype=int)
    np.add.at(histogram, (place[known], bins), 1)
    return {
        "edges": edges.tolist(),
        "loss_edges": [round(float(edge), 3) for edge in loss_edges],
        "cells": [
            [*map(int, np.unravel_index(cell, shape)), int(n), int(k), hist.tolist()]
            for cell, n, k, hist in zip(cells, drawn, selected, histogram, strict=True)
        ],
    }
