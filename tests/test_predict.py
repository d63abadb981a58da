from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from toys import ToyBackbone, ToyTeacher

from scmd.deploy.classifier import Classifier, load, save_classifier
from scmd.deploy.predict import Prediction, find_images, predict_files, write_predictions
from scmd.errors import ScmdError
from scmd.methods import ERM, METHODS, Method
from scmd.models.student import StudentConfig, create_backbone

CLASSES = ("cat", "dog", "yak", "élan")
SIZE = 32


def student(**settings: Any) -> StudentConfig:
    return StudentConfig(name="test_efficientnet", pretrained=False, **settings)


def method_of(config: StudentConfig, name: str = "erm") -> Method:
    torch.manual_seed(0)
    backbone = create_backbone(config, SIZE)
    with torch.no_grad():
        for part in backbone.modules():  # a trained network's statistics are not all 0 and 1
            if isinstance(part, torch.nn.BatchNorm2d):
                assert part.running_mean is not None
                part.running_mean.normal_(0, 0.05)
    method = METHODS[name](backbone, ToyTeacher(), num_classes=len(CLASSES), num_domains=2)
    with torch.no_grad():
        method.classifier.weight.mul_(20)
    return method.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save(folder: Path, method: Method, config: StudentConfig, **about: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_classifier(folder, method, method.state_dict(), config, CLASSES, about)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", method_of(student()), student())


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
    torch.testing.assert_close(probabilities[1:], model(own).softmax(1), rtol=1e-3, atol=1e-4)


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


def test_images_are_found_in_folders_in_order(pictures: Path):
    found = [path.relative_to(pictures).as_posix() for path in find_images([pictures])]
    assert found == ["a.jpg", "b.png", "broken.png", "deep/d.webp", "deep/er/c.PNG", "z.png"]
    assert list(find_images([pictures / "z.png", pictures / "deep"])) == [
        pictures / "z.png", pictures / "deep" / "d.webp", pictures / "deep" / "er" / "c.PNG",
    ]  # fmt: skip


def test_paths_that_lead_to_no_image_are_errors(run: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScmdError, match=r"no image in .*empty"):
        predict_files(run, [tmp_path / "empty"])
    with pytest.raises(ScmdError, match=r"no such image: .*nowhere\.png"):
        predict_files(run, [tmp_path / "nowhere.png"])


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


def test_more_ranks_than_classes_are_all_classes(run: Path, pictures: Path):
    (prediction,) = predict_files(run, [pictures / "a.jpg"], top=99, workers=0)
    assert sorted(name for name, _ in prediction.ranked) == sorted(CLASSES)
    assert sum(p for _, p in prediction.ranked) == pytest.approx(1, abs=1e-5)


def test_workers_change_nothing(run: Path, pictures: Path):
    alone, together = (
        list(predict_files(run, [pictures], top=3, workers=workers)) for workers in (0, 2)
    )
    assert alone == together


def test_nothing_but_unreadable_images(run: Path, pictures: Path):
    (prediction,) = predict_files(run, [pictures / "broken.png"], workers=0)
    assert prediction.error


# Written down.

PREDICTIONS = [
    Prediction(Path("a, b.png"), (("élan", 0.75), ("cat", 0.2))),
    Prediction(Path("broken.png"), (), "broken.png cannot be decoded"),
]


def test_predictions_as_csv(tmp_path: Path):
    out = tmp_path / "out.csv"
    write_predictions(PREDICTIONS, "csv", out)
    with out.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["file", "rank", "class", "probability", "error"],
            ["a, b.png", "1", "élan", "0.750000", ""],
            ["a, b.png", "2", "cat", "0.200000", ""],
            ["broken.png", "", "", "", "broken.png cannot be decoded"],
        ]


def test_predictions_as_json_lines(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    write_predictions(iter(PREDICTIONS), "jsonl", out)
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == [
        {
            "file": "a, b.png",
            "class": "élan",
            "probability": 0.75,
            "top": [{"class": "élan", "probability": 0.75}, {"class": "cat", "probability": 0.2}],
        },
        {"file": "broken.png", "error": "broken.png cannot be decoded"},
    ]


def test_predictions_go_to_the_standard_output_by_default(capsys: pytest.CaptureFixture[str]):
    write_predictions(PREDICTIONS, "csv")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "file,rank,class,probability,error"
    assert lines[1] == '"a, b.png",1,élan,0.750000,'
    assert len(lines) == 4


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path):
    with pytest.raises(ScmdError, match="cannot be written"):
        write_predictions(PREDICTIONS, "csv", tmp_path / "nowhere" / "out.csv")


def test_a_bad_model_leaves_no_file_behind(tmp_path: Path, pictures: Path):
    out = tmp_path / "out.csv"
    with pytest.raises(ScmdError, match="holds no trained model"):
        write_predictions(predict_files(tmp_path, [pictures]), "csv", out)
    assert not out.exists()
