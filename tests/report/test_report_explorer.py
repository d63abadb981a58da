"""What the explorer counts, against counting by hand."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmd.data.folder import DomainImages, load_domains
from scmd.report.explorer import histories, read_selecting_steps, windows

LOSSES = st.floats(0, 9, width=32) | st.sampled_from([math.nan, math.inf])
# Per step, what was drawn: (place of the sample, loss, kept).
DRAWS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 11), LOSSES, st.booleans()),
        min_size=2,
        max_size=6,
        unique_by=lambda draw: draw[0],
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DomainImages:
    root = tmp_path_factory.mktemp("explorer")
    for domain in ("art", "photo"):
        for label in ("cat", "dog"):
            (root / domain / label).mkdir(parents=True)
            for index in range(3):
                (root / domain / label / f"{index}.png").touch()
    return load_domains(root)


def write(path: Path, data: DomainImages, draws) -> Path:
    rows = [(s, int(data.ids[p]), x, k) for s, step in enumerate(draws) for p, x, k in step]
    columns = list(zip(*rows, strict=True))
    types = (pa.int32(), pa.int64(), pa.float32(), pa.bool_())
    names = ("step", "sample_id", "loss", "kept")
    table = pa.table([pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=names)
    pq.write_table(table, path)
    return path


@settings(max_examples=60, deadline=None)
@given(DRAWS)
def test_histories_and_windows_are_counts(tmp_path_factory, data, draws):
    path = write(tmp_path_factory.mktemp("run") / "selection.parquet", data, draws)
    table = read_selecting_steps(path, data)
    selecting = [(s, step) for s, step in enumerate(draws) if not all(k for _, _, k in step)]
    by_sample: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for _, step in selecting:
        for place, loss, kept in step:
            by_sample[place].append((loss, kept))
    history = histories(table)
    assert history.rows.tolist() == sorted(by_sample)
    for i, place in enumerate(history.rows.tolist()):
        found = by_sample[place]
        kept = [k for _, k in found]
        assert history.drawn[i] == len(found)
        assert history.kept[i] == sum(kept)
        finite = [x for x, _ in found if math.isfinite(x)]
        mean = np.mean(finite) if finite else math.nan
        assert history.loss[i] == pytest.approx(mean, abs=1e-5, nan_ok=True)
        pairs = itertools.pairwise(kept)
        assert history.relapses[i] == sum(b and not a for a, b in pairs)
    condensed = windows(table, data)
    cells = condensed["cells"]
    assert sum(cell[3] for cell in cells) == sum(len(step) for _, step in selecting)
    assert sum(cell[4] for cell in cells) == sum(k for _, step in selecting for _, _, k in step)
    finite = sum(math.isfinite(x) for _, step in selecting for _, x, _ in step)
    assert sum(sum(cell[5]) for cell in cells) == finite
    assert all(sum(cell[5]) <= cell[3] for cell in cells)
    for window, domain, label, *_ in cells:
        low, high = condensed["edges"][window : window + 2]
        assert any(
            low <= s < high and data.domain_index[p] == domain and data.labels[p] == label
            for s, step in selecting
            for p, _, _ in step
        )


def test_groups(tmp_path, data):
    always = [(0, 5.0, True), (1, 0.1, False), (2, 1.0, False)]
    again = [(0, 4.0, True), (1, 0.2, False), (2, 2.0, True)]
    path = write(tmp_path / "selection.parquet", data, [always, again, [(3, 9.0, True)]])
    history = histories(read_selecting_steps(path, data))
    assert history.rows[history.always_hard()].tolist() == [0, 2]
    assert history.rows[history.never_hard()].tolist() == [1]
    assert history.rows[history.forgotten()].tolist() == [2]


def test_what_has_no_loss_is_counted_without_one(tmp_path, data):
    """As after rule ``random``, which takes no loss of what it does not keep."""
    none = math.nan
    steps = [
        [(0, 1.0, True), (1, none, False), (2, none, False)],
        [(0, none, False), (1, 3.0, True)],
    ]
    table = read_selecting_steps(write(tmp_path / "selection.parquet", data, steps), data)
    history = histories(table)
    assert history.loss.tolist() == pytest.approx([1.0, 3.0, none], nan_ok=True)
    assert history.drawn.tolist() == [2, 2, 1]
    cells = windows(table, data)["cells"]
    assert sum(cell[3] for cell in cells) == 5
    assert sum(cell[5][-1] for cell in cells) == 1
    assert sum(sum(cell[5]) for cell in cells) == 2


def test_a_run_that_selected_nothing(tmp_path, data):
    path = write(tmp_path / "selection.parquet", data, [[(0, 1.0, True), (1, 2.0, True)]])
    table = read_selecting_steps(path, data)
    assert len(histories(table).rows) == 0
    assert windows(table, data)["cells"] == []


def test_a_million_selections_are_condensed(tmp_path, data):
    draw = np.random.default_rng(0)
    n, batch = 1_000_000, 100
    table = pa.table(
        {
            "step": pa.array(np.repeat(np.arange(n // batch), batch), pa.int32()),
            "sample_id": data.ids[draw.integers(0, len(data), n)],
            "loss": pa.array(draw.exponential(1, n), pa.float32()),
            "kept": draw.random(n) < 0.2,
        }
    )
    pq.write_table(table, tmp_path / "selection.parquet")
    read = read_selecting_steps(tmp_path / "selection.parquet", data)
    condensed = windows(read, data)
    assert sum(cell[3] for cell in condensed["cells"]) == n
    assert histories(read).drawn.sum() == n
    assert len(str(condensed)) < 100_000
