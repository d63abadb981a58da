"""A student, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import CLASSES, SIZE, method_of, save, student
from PIL import Image
from safetensors.torch import load_file, save_file
from toys import ToyBackbone

from scmd.deploy.classifier import Classifier, load
from scmd.errors import ScmdError
from scmd.methods import ERM, METHODS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", method_of(student()), student(), temperature=1.5)


# A model, saved and loaded.


@pytest.mark.parametrize("name", list(METHODS))
def test_a_saved_model_gives_identical_logits(tmp_path: Path, name: str):
    config = student(args=("drop_path_rate=0.1",))
    method = method_of(config, name)
    model = load(save(tmp_path / "run", method, config))
    images = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(model(images), method.predict(images))
        larger = torch.rand(2, 3, 50, 70)
        assert torch.equal(model(larger), method.predict(larger))
    assert not any(part.training for part in model.modules())


def test_its_normalisation_is_saved_to_the_bit(tmp_path: Path):
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    config = student(mean=mean, std=std)
    method = method_of(config)
    model = load(save(tmp_path / "run", method, config))
    assert torch.equal(model.backbone.normalize.mean, torch.tensor(mean).view(1, 3, 1, 1))
    assert torch.equal(model.backbone.normalize.std, torch.tensor(std).view(1, 3, 1, 1))


def test_a_model_knows_what_it_was_trained_on(tmp_path: Path):
    folder = save(tmp_path / "run", method_of(student()), student(), trained_on=["photo"])
    model = load(str(folder))
    assert isinstance(model, Classifier)
    assert model.classes == CLASSES
    assert model.image_size == SIZE
    assert model.description["trained_on"] == ["photo"]
    assert json.loads((folder / "model.json").read_text())["mean"] == [0.485, 0.456, 0.406]


def test_pictures_of_any_size_and_mode_become_probabilities(run: Path):
    model = load(run)
    pictures = [Image.new("RGB", (40, 20), "red"), Image.new("L", (7, 9), 100)]
    probabilities = model.predict(pictures)
    assert probabilities.shape == (2, len(CLASSES))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    own = torch.full((1, 3, SIZE, SIZE), 100, dtype=torch.uint8)
    expected = (model(own) / 1.5).softmax(1)
    torch.testing.assert_close(probabilities[1:], expected, rtol=1e-3, atol=1e-4)
    raw = model.predict(pictures, calibrated=False)
    torch.testing.assert_close(raw[1:], model(own).softmax(1), rtol=1e-3, atol=1e-4)


def test_of_no_picture_there_are_no_probabilities(run: Path):
    assert load(run).predict([]).shape == (0, len(CLASSES))


def test_only_a_timm_student_can_be_saved(tmp_path: Path):
    method = ERM(ToyBackbone(), None, num_classes=3)
    with pytest.raises(ScmdError, match="only a timm student"):
        save(tmp_path, method, student())


# Damaged and missing files.


def fails(run: Path, *messages: str) -> None:
    with pytest.raises(ScmdError) as error:
        load(run)
    assert "\n" not in str(error.value)
    for message in messages:
        assert message in str(error.value)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path, run: Path):
    fails(tmp_path, str(tmp_path), "holds no trained model", "Give the folder of a finished run")
    fails(tmp_path / "nowhere", "holds no trained model")
    (run / "model.safetensors").unlink()
    fails(run, "no such weight file", str(run / "model.safetensors"))


def test_damaged_weights_are_an_error(run: Path):
    file = run / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-10], whole[:100], b"", b"\xff" * 64):
        file.write_bytes(content)
        fails(run, str(file), "cannot be read as weights")
    file.write_bytes(whole)
    load(run)


def test_weights_that_do_not_fit_are_an_error(run: Path):
    file = run / "model.safetensors"
    state = load_file(file)
    save_file({n: v for n, v in state.items() if n != "classifier.bias"}, file)
    fails(run, str(file), "no classifier.bias")
    save_file(state | {"classifier.bias": torch.zeros(7)}, file)
    fails(run, "classifier.bias is [7] there and [4] here")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"format": 1}', "\udcff", '"format"']
)
def test_a_damaged_description_is_an_error(run: Path, text: str):
    (run / "model.json").write_bytes(text.encode(errors="surrogateescape"))
    fails(run, str(run / "model.json"), "damaged")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", 5),
        ("args", "pad_type=same"),
        ("args", [5]),
        ("image_size", "32"),
        ("image_size", 0),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", "b", "c"]),
        ("std", None),
        ("classes", "cat"),
        ("classes", [1, 2, 3]),
        ("temperature", 0),
        ("temperature", "1"),
        ("temperature", True),
    ],
)
def test_a_wrong_value_in_a_description_is_an_error(run: Path, key: str, value: Any):
    file = run / "model.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps(description | {key: value}))
    fails(run, str(file), f"{key} = {value!r}")


def test_another_format_is_an_error(run: Path):
    file = run / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    fails(run, "has format 99, this version reads 1")
