"""Halving a data set: seeded, balanced, equal pictures together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scmd.cli import main
from scmd.data.folder import load_domains
from scmd.data.halves import split_in_halves, write_halves
from scmd.errors import ScmdError

Folders = Callable[..., Path]


def test_every_class_of_every_domain_is_halved(image_folder: Folders) -> None:
    data = load_domains(image_folder(count={("photo", "cat"): 7, ("sketch", "dog"): 10}))
    second = split_in_halves(data, seed=3)
    for domain in range(2):
        for label in range(2):
            cell = second[(data.domain_index == domain) & (data.labels == label)]
            assert abs(2 * cell.sum() - len(cell)) <= 1


def test_the_choice_depends_on_the_seed_alone(image_folder: Folders) -> None:
    data = load_domains(image_folder(count=20))
    assert (split_in_halves(data, 1) == split_in_halves(data, 1)).all()
    assert (split_in_halves(data, 1) != split_in_halves(data, 2)).any()


@pytest.mark.parametrize("seed", range(5))
def test_equal_pictures_stay_together(image_folder: Folders, seed: int) -> None:
    root = image_folder(count=8)
    for copy in ("photo/cat/copy1.png", "photo/cat/copy2.png", "sketch/dog/copy.png"):
        shutil.copy(root / "photo/cat/000.png", root / copy)
    data = load_domains(root)
    second = split_in_halves(data, seed)
    names = ("photo/cat/000.png", "photo/cat/copy1.png", "photo/cat/copy2.png")
    equal = [data.paths.index(name) for name in (*names, "sketch/dog/copy.png")]
    assert len(set(second[equal])) == 1
    cell = second[(data.domain_index == 0) & (data.labels == 0)]
    assert 3 <= cell.sum() <= 7


def test_the_manifests_are_the_data_set(image_folder: Folders, tmp_path: Path) -> None:
    data = load_domains(image_folder(count=5))
    manifests = write_halves(data, tmp_path / "new" / "halves")
    halves = [load_domains(manifest) for manifest in manifests]
    found = [
        (sample.path.resolve(), sample.domain, sample.class_name)
        for half in halves
        for sample in (half[row] for row in range(len(half)))
    ]
    samples = [data[row] for row in range(len(data))]
    assert sorted(found) == sorted((s.path.resolve(), s.domain, s.class_name) for s in samples)


def test_nothing_is_overwritten(image_folder: Folders, tmp_path: Path) -> None:
    data = load_domains(image_folder())
    (tmp_path / "b.csv").write_text("mine")
    with pytest.raises(ScmdError, match=r"b\.csv is there already"):
        write_halves(data, tmp_path)
    assert (tmp_path / "b.csv").read_text() == "mine"
    assert not (tmp_path / "a.csv").exists()


def test_the_command(
    image_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(image_folder(count=4))
    assert main(["data", "halves", folder, "--out", str(tmp_path / "h"), "--seed", "1"]) == 0
    assert "8 images of 2 domains" in capsys.readouterr().out
    assert main(["data", "halves", folder, "--out", str(tmp_path / "h")]) == 2


def test_pacs_keeps_its_duplicates_together(test_data: Path) -> None:
    from scmd.data.check import check_images

    data = load_domains(test_data / "data" / "PACS")
    second = split_in_halves(data)
    groups = [f.rows for f in check_images(data).findings if f.kind.startswith("duplicate")]
    assert all(len(np.unique(second[list(rows)])) == 1 for rows in groups)
    assert abs(second.mean() - 0.5) < 0.01
