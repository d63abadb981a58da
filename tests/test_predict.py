from __future__ import annotations

import csv
import io
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from deployed import CLASSES, method_of, save, student
from PIL import Image
from rich.console import Console

from scmd.cli import main
from scmd.deploy import predict as predicting
from scmd.deploy.classifier import Classifier, load, save_temperature
from scmd.deploy.inputs import find_images
from scmd.deploy.predict import load_any, predict_files
from scmd.errors import BadImageError, ScmdError, ScmdWarning
from scmd.progress import counting


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", method_of(student()), student(), temperature=1.5)


# Files, classified.


@pytest.fixture
def pictures(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Six images, one of them unreadable, and a text."""
    folder = tmp_path / "pictures"
    for name in ("b.png", "a.jpg", "deep/er/c.PNG", "deep/d.webp", "z.png"):
        write_image(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image, and not meant as one")
    return folder


def test_each_file_gets_its_own_ranking(run: Path, pictures: Path):
    model = load(run)
    predictions = list(predict_files(run, [pictures], top=2, workers=0))
    assert [p.file for p in predictions] == list(find_images([pictures]))
    for prediction in predictions:
        if prediction.file.name == "broken.png":
            assert prediction.ranked == ()
            assert prediction.error is not None
            assert "broken.png" in prediction.error
            continue
        assert prediction.error is None
        probabilities = model.predict([Image.open(prediction.file)])[0]
        best = probabilities.topk(2)
        names = [CLASSES[index] for index in best.indices.tolist()]
        assert [name for name, _ in prediction.ranked] == names
        found = [probability for _, probability in prediction.ranked]
        assert found == pytest.approx(best.values.tolist(), abs=1e-5)


def test_paths_that_lead_to_no_image_are_errors(run: Path, tmp_path: Path):
    with pytest.raises(ScmdError, match=r"no such image: .*nowhere\.png"):
        predict_files(run, [tmp_path / "nowhere.png"])


def test_more_ranks_than_classes_are_all_classes(run: Path, pictures: Path):
    (prediction,) = predict_files(run, [pictures / "a.jpg"], top=99, workers=0)
    assert sorted(name for name, _ in prediction.ranked) == sorted(CLASSES)
    assert sum(p for _, p in prediction.ranked) == pytest.approx(1, abs=1e-5)


def test_workers_change_nothing(run: Path, pictures: Path):
    alone, together = (
        list(predict_files(run, [pictures], top=3, workers=workers)) for workers in (0, 2)
    )
    assert alone == together


def test_a_batch_is_one_file_of_the_workers(run: Path, pictures: Path, monkeypatch):
    """And not one for every image, of which a system may have no more than 1,024 open."""
    sent: list[Any] = []
    loader = predicting.DataLoader

    def listening(*args: Any, **settings: Any) -> Any:
        for batch in loader(*args, **settings):
            sent.append(batch)
            yield batch

    monkeypatch.setattr(predicting, "DataLoader", listening)
    assert len(list(predict_files(run, [pictures] * 3, workers=2))) == 18
    (batch,) = sent
    assert [type(part) for part in batch] == [torch.Tensor, list]
    assert len(batch[0]) == 15
    assert [error is None for error in batch[1]].count(False) == 3


def test_workers_leave_signals_to_who_started_them(run: Path, pictures: Path, monkeypatch):
    """Who ends with a traceback of the DataLoader where a worker is gone before it."""

    def told(path: Path) -> Any:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        raise BadImageError(str({signal.SIGINT, signal.SIGTERM} <= blocked))

    monkeypatch.setattr(predicting, "read_image", told)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert {p.error for p in predict_files(run, [pictures], workers=1)} == {"True"}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_nothing_but_unreadable_images(run: Path, pictures: Path):
    (prediction,) = predict_files(run, [pictures / "broken.png"], workers=0)
    assert prediction.error


# The temperature.


def test_a_model_of_an_earlier_version_has_temperature_1_and_says_so(run: Path, pictures: Path):
    file = run / "model.json"
    description = json.loads(file.read_text())
    save_temperature(run, 2.5)
    assert json.loads(file.read_text()) == description | {"temperature": 2.5}
    assert load(run).temperature == 2.5
    del description["temperature"]
    file.write_text(json.dumps(description))
    assert load(run).temperature == 1
    with pytest.warns(ScmdWarning, match="not calibrated"):
        uncalibrated = list(predict_files(run, [pictures], workers=0))
    assert uncalibrated == list(predict_files(run, [pictures], workers=0, calibrated=False))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 10.0])
def test_calibration_changes_probabilities_and_never_the_ranking(
    run: Path, pictures: Path, temperature: float
):
    save_temperature(run, temperature)
    raw, calibrated = (
        [p for p in predict_files(run, [pictures], 4, 0, calibrated=on) if not p.error]
        for on in (False, True)
    )
    for one, other in zip(raw, calibrated, strict=True):
        assert [name for name, _ in one.ranked] == [name for name, _ in other.ranked]
        powers = torch.tensor([p for _, p in one.ranked], dtype=torch.float64) ** (1 / temperature)
        found = torch.tensor([p for _, p in other.ranked], dtype=torch.float64)
        torch.testing.assert_close(found, powers / powers.sum(), rtol=1e-3, atol=1e-6)


def test_classes_whose_probability_is_0_are_ranked_by_their_logits(run: Path, pictures: Path):
    method = method_of(student())
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.copy_(torch.tensor([-500.0, -400.0, 0.0, -300.0]))
    save(run, method, student(), temperature=0.1)
    (prediction,) = predict_files(run, [pictures / "a.jpg"], top=4, workers=0)
    assert prediction.ranked == (("yak", 1.0), ("élan", 0.0), ("dog", 0.0), ("cat", 0.0))


# Abstaining, and what else can be asked for.


def test_it_abstains_where_the_best_class_is_less_probable(run: Path, pictures: Path):
    sure = [p for p in predict_files(run, [pictures], workers=0) if not p.error]
    bar = sorted(p.ranked[0][1] for p in sure)[2]
    asked = [
        p for p in predict_files(run, [pictures], workers=0, min_confidence=bar) if not p.error
    ]
    assert [p.ranked for p in asked] == [p.ranked for p in sure]
    assert [p.abstained for p in asked] == [p.ranked[0][1] < bar for p in sure]
    assert sum(p.abstained for p in asked) == 2
    assert not any(p.abstained for p in sure)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0}, "top = 0: give a whole number from 1"),
        ({"min_confidence": 1.2}, "give a probability, from 0 to 1"),
        ({"min_confidence": float("nan")}, "give a probability, from 0 to 1"),
    ],
)
def test_bad_settings_are_errors(run: Path, pictures: Path, settings: Any, message: str):
    with pytest.raises(ScmdError, match=message):
        predict_files(run, [pictures], **settings)


def test_progress_is_told(run: Path, pictures: Path):
    told: list[tuple[int, int]] = []
    list(predict_files(run, [pictures], workers=0, progress=lambda *done: told.append(done)))
    assert told == [(6, 6)]


def test_a_bar_leaves_the_standard_output_alone(capsys: pytest.CaptureFixture[str]):
    """rich would print what is written to it at the bar's terminal, which is not where it goes."""
    terminal = io.StringIO()
    with counting(Console(file=terminal, force_terminal=True), "classifying") as progress:
        progress(1, 2)
        print("a,b")
    assert capsys.readouterr().out == "a,b\n"
    assert "classifying" in terminal.getvalue()


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_list_with_what_cannot_be_read_is_classified_by_the_command(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    lines = [pictures / "a.jpg", pictures / "nowhere.png", pictures / "broken.png", pictures]
    given = "\n".join(map(str, lines)).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    out = tmp_path / "out"
    command = ["predict", str(run), "-", "--workers", "0", "--format", form, "--out", str(out)]
    assert main([*command, "--min-confidence", "0"]) == 0
    if form == "parquet":
        rows = pq.read_table(out).to_pylist()
    elif form == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
    else:
        rows = [{"class": None, "error": None, **json.loads(x)} for x in out.open()]
    assert [row["file"] for row in rows] == list(map(str, lines))
    assert [bool(row["class"]) for row in rows] == [True, False, False, False]
    assert [bool(row["error"]) for row in rows] == [False, True, True, True]
    assert "No such file" in rows[1]["error"]


# What was exported.


def test_a_run_goes_before_what_was_exported_into_its_folder(run: Path):
    (run / "model.onnx").touch()  # exported into the run's own folder
    assert isinstance(load_any(run), Classifier)
