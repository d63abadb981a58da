"""A soup is the mean of its trials' weights, measured like a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hand_made import tiny
from rich.console import Console

from scmd.cache import Shared
from scmd.deploy.classifier import WEIGHTS
from scmd.models.weights import read_state_dict
from scmd.protocol.plan import plan
from scmd.protocol.present import TablesConfig, tables_of
from scmd.protocol.records import read_runs
from scmd.protocol.runner import run_plan
from scmd.protocol.soups import make_soups


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, clip_folder):
    from PIL import Image

    root = tmp_path_factory.mktemp("soups")
    draw = np.random.default_rng(0)
    for domain in ("art", "photo", "sketch"):
        for label in ("cat", "dog"):
            (root / "images" / domain / label).mkdir(parents=True)
            for index in range(8):
                pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / domain / label / f"{index}.png")
    config = tiny(root / "images", clip_folder, methods="erm", targets="art", trials=2)
    assert run_plan(plan(config), root / "out", Console(quiet=True)) == []
    return root / "out"


def test_a_soup_is_the_mean_and_has_a_row(comparison):
    said = make_soups(comparison, Shared())
    assert len(said) == 1
    assert "erm+soup, target art" in said[0]
    records, unfinished = read_runs([comparison])
    assert unfinished == []
    (made,) = (r for r in records if r.label == "erm+soup")
    weights = read_state_dict(made.folder / WEIGHTS)
    own = [read_state_dict(r.folder / WEIGHTS) for r in records if r.label == "erm"]
    name = "backbone.model.conv_stem.weight"
    torch.testing.assert_close(weights[name], (own[0][name] + own[1][name]) / 2)
    table = tables_of(TablesConfig((comparison,)))
    assert "erm+soup" in table


def test_a_soup_stands_beside_methods_that_were_searched(comparison, clip_folder, tmp_path):
    images = comparison.parent / "images"
    config = tiny(images, clip_folder, methods="erm", targets="art", trials=2, search=2)
    assert run_plan(plan(config), tmp_path / "out", Console(quiet=True)) == []
    make_soups(tmp_path / "out", Shared())
    assert "erm+soup" in tables_of(TablesConfig((tmp_path / "out",)))


def test_a_soup_is_made_once(comparison, monkeypatch):
    first = make_soups(comparison, Shared())
    monkeypatch.setattr("scmd.protocol.soups._make", None)
    assert make_soups(comparison, Shared()) == first
