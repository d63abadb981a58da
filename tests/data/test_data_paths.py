"""Packed paths are to whoever reads them the tuple of texts that they were made of."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmd.data.paths import Paths, sample_id

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20)


@given(texts)
def test_packed_paths_are_as_a_tuple(names):
    paths, expected = Paths.of(names), tuple(names)
    assert paths == expected
    assert tuple(paths) == expected == paths[:]
    assert [paths[place] for place in range(-len(names), len(names))] == names + names
    assert paths[1::2] == expected[1::2]
    assert len(paths) == len(names)
    assert hash(paths) == hash(expected)
    assert pickle.loads(pickle.dumps(paths)) == paths
    assert paths.ids().tolist() == list(map(sample_id, names))
    with pytest.raises(IndexError):
        paths[len(names)]


@given(texts, texts)
def test_joined_and_chosen(names, others):
    both = Paths.joined([Paths.of(names), Paths.of([]), Paths.of(others)])
    assert both == Paths.of(names + others) == (*names, *others)
    mask = np.arange(len(both)) % 3 == 0
    assert both.where(mask) == (*names, *others)[::3]
    assert (Paths.of(names) == Paths.of(others)) == (names == others)


def test_more_than_is_decoded_at_once():
    names = [f"{index % 977}.jpg" for index in range(150_000)]
    assert list(Paths.of(names)) == names


def test_packed_paths_take_less_than_half_the_memory():
    names = [f"domain/class/{index:06}.jpg" for index in range(1000)]
    paths = Paths.of(names)
    packed = sys.getsizeof(paths.text) + paths.ends.nbytes
    assert 2 * packed < sys.getsizeof(names) + sum(map(sys.getsizeof, names))
