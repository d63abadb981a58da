"""The table of embeddings on the disk: whatever happens to its end, what is there is right."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from scmd.errors import ScmdError
from scmd.models.embeddings import EMBEDDINGS, KEYS, EmbeddingTable

WIDTH = 3
GENERATOR = np.random.default_rng(0)
NUMBERS = GENERATOR.integers(0, 2**63 - 1, 8)
ROWS = GENERATOR.normal(size=(8, WIDTH)).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable(tmp_path, WIDTH)


def right(table: EmbeddingTable, count: int) -> bool:
    """The first rows are there and the others are not."""
    places = table.places(NUMBERS)
    return (
        len(table) == count
        and bool((places[count:] == -1).all())
        and np.array_equal(table.rows()[places[:count]], ROWS[:count].astype(np.float16))
    )


def test_rows_are_found_by_their_numbers(table):
    assert right(table, 0)
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        table.append(NUMBERS[start:stop], ROWS[start:stop])
        assert right(table, stop)
    assert right(EmbeddingTable(table.folder, WIDTH), 8)
    assert table.places(np.array([NUMBERS[5], 7, NUMBERS[5]])).tolist() == [5, -1, 5]


def test_what_is_looked_at_does_not_change_with_what_is_added(table):
    table.append(NUMBERS[:2], ROWS[:2])
    before = table.rows()
    table.append(NUMBERS[2:], ROWS[2:])
    assert before.shape == (2, WIDTH)
    assert np.array_equal(before, ROWS[:2].astype(np.float16))


@pytest.mark.parametrize("name", [KEYS, EMBEDDINGS])
def test_a_file_cut_anywhere_is_gone_on_with(table, name):
    """As a kill leaves it, or a full disk."""
    table.append(NUMBERS[:4], ROWS[:4])
    path = table.folder / name
    whole = {path: path.read_bytes() for path in table.folder.iterdir()}
    per_row = len(whole[path]) // 4
    for size in range(len(whole[path]) + 1):
        for each, content in whole.items():
            each.write_bytes(content)
        path.write_bytes(whole[path][:size])
        left = size // per_row
        assert right(table, left)
        table.append(NUMBERS[left:], ROWS[left:])
        assert right(table, 8)


def test_full_disk_is_said_and_what_was_there_stays(table, monkeypatch):
    table.append(NUMBERS[:4], ROWS[:4])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ScmdError, match=r"No space left on device.*SCMD_CACHE") as error:
            table.append(NUMBERS[4:], ROWS[4:])
    assert "\n" not in str(error.value)
    assert right(table, 4)
    table.append(NUMBERS[4:], ROWS[4:])
    assert right(table, 8)
