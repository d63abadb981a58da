"""A student that classifies against any text."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import CLASSES, SIZE, method_of, save, student
from torch.nn import functional as F

import scmd.deploy.promptable as promptable
from scmd.cli import main
from scmd.deploy.description import public_description
from scmd.deploy.predict import predict_files
from scmd.deploy.promptable import (
    load_promptable,
    parse_classes,
    prompts_for,
    save_classes,
    text_embeddings,
)
from scmd.errors import ScmdError
from scmd.methods import SCMD
from scmd.models.pretrained import encode_prompts, open_pretrained
from scmd.models.prompts import PromptConfig
from scmd.models.teacher import TeacherConfig, load_teacher
from scmd.store import cache_root

TEXTS = ("cat", "zebra", "a picture of nothing")
READ = (["this is a photo of a cat"], ["this is a photo of a zebra"], ["a picture of nothing"])


@pytest.fixture
def teacher(clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "teacher"))


@pytest.fixture
def method(teacher: Path) -> SCMD:
    made = method_of(student(), "scmd", load_teacher(TeacherConfig(str(teacher)), CLASSES))
    assert isinstance(made, SCMD)
    with torch.no_grad():
        made.log_scale.fill_(1.7)
        made.projection.weight.normal_()
    return made


@pytest.fixture
def run(method: SCMD, teacher: Path, tmp_path: Path) -> Path:
    return save(tmp_path / "run", method, student(), method="scmd", teacher=str(teacher))


def refuse(*args: Any) -> Any:
    raise AssertionError("the teacher was asked")


@pytest.fixture
def no_teacher(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """To be called when no text tower may be loaded any more."""
    return lambda: monkeypatch.setattr(promptable, "open_pretrained", refuse)


def test_texts_are_compared_as_in_the_paper(run: Path, method: SCMD, teacher: Path):
    """g cos(P f(x), t), by hand, and its softmax in the predictions."""
    images = torch.rand(3, 3, SIZE, SIZE)
    clip, _, tokenizer = open_pretrained(str(teacher))
    with torch.no_grad():
        t = F.normalize(
            torch.cat([clip.encode_text(tokenizer(prompts)) for prompts in READ]), dim=1
        )
        projected = method.backbone(images) @ method.projection.weight.T
        expected = torch.exp(torch.tensor(1.7)) * F.cosine_similarity(
            projected[:, None], t[None], dim=2
        )
        model = load_promptable(run, TEXTS)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert model.classes == TEXTS
    assert model.image_size == SIZE


def test_trained_classes_as_texts_are_what_training_compared(run: Path, method: SCMD):
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        projected = F.normalize(method.projection(method.backbone(images)), dim=1)
        own = method.log_scale.exp() * projected @ method.teacher.text_embeddings.T
        torch.testing.assert_close(load_promptable(run, CLASSES)(images), own)


def test_files_are_classified_by_text(run: Path, tmp_path: Path, write_image):
    file = write_image(tmp_path / "a.png", SIZE)
    (prediction,) = predict_files(run, [file], top=3, workers=0, classes=TEXTS)
    assert sorted(name for name, _ in prediction.ranked) == sorted(TEXTS)
    assert sum(p for _, p in prediction.ranked) == pytest.approx(1, abs=1e-5)
    (again,) = predict_files(run, [file], top=3, workers=0, classes=TEXTS[::-1])
    assert dict(again.ranked) == pytest.approx(dict(prediction.ranked), abs=1e-6)


# What the text tower reads.


def test_words_are_put_into_the_prompt_and_texts_are_not():
    assert prompts_for(TEXTS, CLASSES) == list(READ)
    config = PromptConfig(("a {}", "one {}"))
    assert prompts_for(["polar_bear", "a polar bear"], CLASSES, config) == [
        ["a polar bear", "one polar bear"],
        ["a polar bear"],
    ]


def test_trained_classes_keep_the_prompts_of_their_training(tmp_path: Path):
    file = tmp_path / "names.toml"
    file.write_text('cat = "tabby"')
    config = PromptConfig(("a {}",), class_names=file)
    assert prompts_for(["cat", "zebra"], ("cat", "art painting"), config) == [
        ["a tabby"], ["a zebra"],
    ]  # fmt: skip
    assert prompts_for(["cat", "art painting"], ("cat", "art painting"), config) == [
        ["a tabby"], ["a art painting"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["cat"], "at least two texts"),
        (["cat", " "], "none of them empty"),
        (["cat", "dog", "cat"], "'cat' is there twice"),
    ],
)
def test_texts_that_tell_nothing_apart_are_errors(texts: list[str], message: str):
    with pytest.raises(ScmdError, match=message):
        prompts_for(texts, CLASSES)


def test_the_flag():
    assert parse_classes("zebra, lion,a picture of nothing ") == [
        "zebra", "lion", "a picture of nothing",
    ]  # fmt: skip
    assert parse_classes("@some") == "some"


# Remembered.


def test_embeddings_are_asked_for_once(teacher: Path, no_teacher: Callable[[], None]):
    clip, _, tokenizer = open_pretrained(str(teacher))
    first = text_embeddings(str(teacher), READ)
    torch.testing.assert_close(first, encode_prompts(clip, tokenizer, READ))
    no_teacher()
    assert torch.equal(text_embeddings(str(teacher), READ), first)
    with pytest.raises(AssertionError, match="was asked"):
        text_embeddings(str(teacher), READ[::-1])
    (teacher / "open_clip_model.safetensors").touch()  # fitted anew, it may say otherwise
    with pytest.raises(AssertionError, match="was asked"):
        text_embeddings(str(teacher), READ)


def test_the_cache_may_lie_below_the_home(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCMD_CACHE", "~/kept")
    monkeypatch.chdir(tmp_path)
    text_embeddings(str(teacher), READ)
    assert len(list((tmp_path / "home" / "kept" / "texts").iterdir())) == 1
    assert not (tmp_path / "~").exists()


def test_a_damaged_memory_is_made_anew(teacher: Path):
    first = text_embeddings(str(teacher), READ)
    (file,) = (cache_root() / "texts").iterdir()
    for content in (b"", b"\xff" * 100):
        file.write_bytes(content)
        assert torch.equal(text_embeddings(str(teacher), READ), first)


def test_saved_classes_need_no_teacher(run: Path, teacher: Path, no_teacher: Callable[[], None]):
    images = torch.rand(2, 3, SIZE, SIZE)
    model = load_promptable(run, TEXTS)
    file = save_classes(run, "some", model)
    assert file == run / "classes-some.safetensors"
    no_teacher()
    shutil.rmtree(teacher)
    shutil.rmtree(cache_root())
    again = load_promptable(run, "some")
    assert again.classes == TEXTS
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


def test_a_published_student_takes_the_runs_texts(
    run: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Which name the teacher's folder in full, as the student itself does not any more."""
    images = torch.rand(2, 3, SIZE, SIZE)
    model = load_promptable(run, TEXTS)
    save_classes(run, "some", model)
    description = json.loads((run / "model.json").read_text())
    assert description["teacher"] == str(teacher)
    (run / "model.json").write_text(json.dumps(public_description(description)))
    with pytest.raises(ScmdError, match=f"teacher '{teacher.name}' is neither a folder nor"):
        load_promptable(run, TEXTS)
    monkeypatch.chdir(tmp_path)  # where the teacher is
    with torch.no_grad():
        for classes in (TEXTS, "some"):
            assert torch.equal(load_promptable(run, classes)(images), model(images))


def test_bad_saved_classes_are_errors(run: Path, tmp_path: Path):
    with pytest.raises(ScmdError, match=r"no saved classes 'other' \(saved: none\)"):
        load_promptable(run, "other")
    with pytest.raises(ScmdError, match="give a name of letters"):
        load_promptable(run, "../other")
    file = save_classes(run, "some", load_promptable(run, TEXTS))
    with pytest.raises(ScmdError, match=r"\(saved: some\)"):
        load_promptable(run, "other")
    whole = file.read_bytes()
    for content in (b"", whole[:-5], b"\xff" * 100):
        file.write_bytes(content)
        with pytest.raises(ScmdError, match="is damaged"):
            load_promptable(run, "some")
    file.write_bytes(whole)
    description = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(description | {"teacher": "another"}))
    with pytest.raises(ScmdError, match="was trained with 'another'"):
        load_promptable(run, "some")


# Runs that have no text space.


def test_saved_classes_without_their_sign_are_recognised(run: Path):
    save_classes(run, "some", load_promptable(run, TEXTS))
    with pytest.raises(ScmdError, match="give at least two texts, or @some"):
        load_promptable(run, ["some"])
    with pytest.raises(ScmdError, match="give at least two texts, none"):
        load_promptable(run, ["a/b" * 999])


def test_an_exported_student_takes_no_texts(tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ScmdError, match="was exported, and takes no other classes"):
        load_promptable(tmp_path, TEXTS)


@pytest.mark.parametrize("name", ["erm", "kd", "rise"])
def test_other_methods_are_not_promptable(tmp_path: Path, name: str):
    run = save(tmp_path / "other", method_of(student(), name), student(), method=name)
    with pytest.raises(ScmdError, match=f"was trained by {name}, .* Give a run of scmd") as error:
        load_promptable(run, TEXTS)
    assert "\n" not in str(error.value)


def test_a_projection_that_learned_nothing_is_an_error(run: Path):
    (run / "config.toml").write_text('method = "scmd"\n[hparams]\nlambda2 = 0.0\n')
    with pytest.raises(ScmdError, match="lambda2 = 0"):
        load_promptable(run, TEXTS)


def test_another_teachers_space_is_an_error(tmp_path: Path, teacher: Path):
    run = save(tmp_path / "toy", method_of(student(), "scmd"), student(), teacher=str(teacher))
    with pytest.raises(ScmdError, match=r"embeddings of 16 numbers, the projection .* has 5"):
        load_promptable(run, TEXTS)


# From training to the command.


def test_a_run_is_calibrated_and_promptable(
    tmp_path: Path,
    image_folder: Callable[..., Path],
    clip_folder: Path,
    capsys: pytest.CaptureFixture[str],
    no_teacher: Callable[[], None],
):
    images, run = image_folder(("art", "photo", "sketch"), count=5), tmp_path / "run"
    # fmt: off
    arguments = [
        "train", images, "--target", "sketch", "--out", run, "--teacher", clip_folder,
        "--prompts", "one {}", "--student", "test_efficientnet", "--no-student-pretrained",
        "--image-size", "24", "--steps", "2", "--batch-per-domain", "2", "--average", "none",
        "--workers", "0",
    ]
    # fmt: on
    assert main(list(map(str, arguments))) == 0
    assert "calibration: temperature" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    calibration = summary["calibration"]
    model = json.loads((run / "model.json").read_text())
    assert model["temperature"] == calibration["temperature"]
    before, after = calibration["holdout"]["cross_entropy"]
    assert after <= before
    target = summary["results"]["sketch"]
    assert calibration["target"]["ece"] == [target["ece"], target["ece_calibrated"]]
    assert main(["evaluate", str(run), str(images), "--json", str(run / "again.json")]) == 0
    assert "cal." in capsys.readouterr().out
    again = json.loads((run / "again.json").read_text())["results"]["sketch"]
    assert again["ece_calibrated"] == pytest.approx(target["ece_calibrated"], abs=1e-6)

    assert promptable.prompt_config(run).templates == ("one {}",)
    predict = ["predict", str(run), str(images / "sketch"), "--workers", "0"]
    assert main([*predict, "--classes", "cat, zebra, no animal", "--save-classes", "three"]) == 0
    printed = capsys.readouterr()
    assert "classes-three.safetensors: saved" in printed.err
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert {row["class"] for row in rows} <= {"cat", "zebra", "no animal"}
    no_teacher()
    assert main([*predict, "--classes", "@three"]) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == rows
    assert main(["predict", str(run), "--classes", "@three", "--save-classes", "again"]) == 0
    assert main([*predict, "--save-classes", "again"]) == 2
    assert "no classes to save" in capsys.readouterr().err
