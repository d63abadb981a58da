from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from deployed import file_limit
from PIL import Image

from scmd.cli import main
from scmd.deploy import export as exporting
from scmd.deploy.classifier import load
from scmd.deploy.export import check, compare, export_run
from scmd.deploy.onnx import OnnxClassifier, load_onnx
from scmd.deploy.predict import predict_files
from scmd.deploy.programs import open_program, write_program
from scmd.deploy.source_images import read_source_images
from scmd.errors import ScmdError
from scmd.models.student import StudentConfig, create_backbone

ROOT = Path(__file__).parents[1]
SIZE = 32


class Finished(NamedTuple):
    run: Path
    data: Path
    exported: Path
    printed: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run on sources that differ in brightness by class, trained and exported by commands."""
    folder = tmp_path_factory.mktemp("export")
    data, run, exported = folder / "images", folder / "run", folder / "exported"
    random = np.random.default_rng(0)
    for domain in ("art", "photo", "sketch"):
        for label, name in enumerate(("cat", "dog", "élan")):
            (data / domain / name).mkdir(parents=True)
            for index in range(15 if domain == "photo" else 6):
                pixels = random.integers(60 * label, 60 * label + 120, (24, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(data / domain / name / f"{index}.png")
    # fmt: off
    settings = [
        "--student", "test_efficientnet", "--no-student-pretrained", "--no-freeze-batch-norm",
        "--image-size", str(SIZE), "--steps", "12", "--batch-per-domain", "4", "--lr", "0.01",
        "--average", "none", "--workers", "0",
    ]
    # fmt: on
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMD_CACHE", str(folder / "cache"))
        arguments = ["--target", "sketch", "--method", "erm", "--out", str(run)]
        assert main(["train", str(data), *arguments, *settings]) == 0
        console = folder / "printed"
        with console.open("w") as file:
            patch.setattr(sys, "stdout", file)
            command = ["export", str(run), "--out", str(exported), "--int8", "--benchmark"]
            assert main(command) == 0
    return Finished(run, data, exported, " ".join(console.read_text().split()))


@pytest.fixture
def instant(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter, which takes seconds, hands out what it has made before."""

    def copy(model: object, form: object, file: Path) -> None:
        shutil.copy(finished.exported / "model.onnx", file)

    monkeypatch.setattr(exporting, "write_program", copy)


# What is written and printed.


def test_the_folder_is_complete(finished: Finished):
    assert sorted(path.name for path in finished.exported.iterdir()) == [
        "README.md", "model-int8.onnx", "model.onnx", "preprocessing.json",
    ]  # fmt: skip
    about = json.loads((finished.exported / "preprocessing.json").read_text())
    student = json.loads((finished.run / "model.json").read_text())
    assert about["classes"] == ["cat", "dog", "élan"]
    assert about["input"]["shape"] == ["batch", 3, SIZE, SIZE]
    assert about["student"] == student
    assert about["temperature"] == student.get("temperature", 1.0)
    assert about["check"]["agreement"] == about["check"]["images"]
    assert set(about["benchmark"]) == {"PyTorch", "model.onnx", "model-int8.onnx"}
    assert not [path for path in finished.exported.parent.iterdir() if path.name[0] == "."]
    assert finished.exported.stat().st_mode & 0o777 == finished.run.stat().st_mode & 0o777


def test_it_tells_nothing_of_the_machine(finished: Finished):
    for path in finished.exported.iterdir():
        content = path.read_bytes()
        for place in (ROOT, finished.data, Path(torch.__file__).parent):
            assert str(place).encode() not in content


def test_where_the_teacher_lies_is_not_told(finished: Finished, tmp_path: Path, instant: None):
    run, out, teacher = tmp_path / "run", tmp_path / "exported", str(tmp_path / "private" / "mine")
    shutil.copytree(finished.run, run)
    for name, told in (
        ("model.json", {"teacher": teacher}),
        ("summary.json", {"teacher": {"name": teacher}}),
    ):
        said = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(said | told))
    assert export_run(run, out)["student"]["teacher"] == "mine"
    assert load_onnx(out).description["teacher"] == "mine"
    assert "Its teacher was `mine`;" in (out / "README.md").read_text()
    assert not [path for path in out.iterdir() if b"private" in path.read_bytes()]


def test_what_is_printed(finished: Finished):
    about = json.loads((finished.exported / "preprocessing.json").read_text())
    for text in (
        "model.onnx (opset 18)",
        f"{about['check']['largest_difference']:.2g}",
        f"{about['check']['agreement']} of {about['check']['images']} predictions agree",
        f"{about['int8']['accuracy']:.3f} in int8",
        "ms an image",
    ):
        assert text in finished.printed


def test_the_card_has_the_runs_numbers(finished: Finished):
    card = (finished.exported / "README.md").read_text()
    summary = json.loads((finished.run / "summary.json").read_text())
    for domain, result in summary["results"].items():
        low, high = result["interval"]
        (row,) = (line for line in card.splitlines() if line.startswith(f"| {domain} |"))
        assert f"{result['accuracy']:.3f} | {low:.3f} – {high:.3f}" in row
    assert "on the domains art, photo;" in card
    assert "measured on sketch only" in card
    assert "cat, dog, élan" in card


# Used.


def python_of(page: Path) -> str:
    (example,) = re.findall(r"```python\n(import json\n.*?)```", page.read_text(), re.DOTALL)
    return example


def test_the_example_of_the_docs_says_what_predict_says(
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    """On a photograph that lies on its side, and is neither square nor of the model's size."""
    example = python_of(ROOT / "docs" / "tutorials" / "deploy.md")
    imported = {
        (node.module or "").split(".")[0]
        if isinstance(node, ast.ImportFrom)
        else node.names[0].name
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"json", "numpy", "onnxruntime", "PIL"}
    picture = tmp_path / "picture.jpg"
    pixels = np.random.default_rng(1).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(picture, exif=exif)
    (tmp_path / "exported").symlink_to(finished.exported)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/tutorials/deploy.md", "exec"), {})
    name, probability = capsys.readouterr().out.split()
    (prediction,) = predict_files(finished.run, [picture], workers=0)
    assert (name, pytest.approx(float(probability), abs=1e-4)) == prediction.ranked[0]


def test_the_card_has_the_example_of_the_docs(finished: Finished):
    example = python_of(ROOT / "docs" / "tutorials" / "deploy.md").replace("exported/", "")
    assert python_of(finished.exported / "README.md") == example


def test_any_batch_size_gives_the_students_logits(finished: Finished):
    images = torch.rand(5, 3, SIZE, SIZE)
    exported = load_onnx(finished.exported)
    together = exported(images)
    alone = torch.cat([exported(image[None]) for image in images])
    torch.testing.assert_close(alone, together)
    with torch.inference_mode():
        expected = load(finished.run)(images)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)


def test_an_exported_model_stands_in_for_the_classifier(finished: Finished):
    exported, own = load_onnx(str(finished.exported)), load(finished.run)
    assert isinstance(exported, OnnxClassifier)
    assert (exported.classes, exported.image_size) == (own.classes, own.image_size)
    assert exported.description == own.description
    pictures = [Image.new("RGB", (40, 20), "red"), Image.new("L", (7, 9), 100)]
    for calibrated in (True, False):
        torch.testing.assert_close(
            exported.predict(pictures, calibrated),
            own.predict(pictures, calibrated),
            rtol=1e-4,
            atol=1e-4,
        )
    assert exported.predict([]).shape == own.predict([]).shape == (0, 3)
    with pytest.raises(ScmdError, match="takes \\[B, 3, 32, 32\\]"):
        exported(torch.rand(1, 3, 24, 24))


def test_predict_runs_what_was_exported(finished: Finished):
    of_run = list(predict_files(finished.run, [finished.data], 3, 0))
    for place in (finished.exported, finished.exported / "model.onnx"):
        of_export = list(predict_files(place, [finished.data], 3, 0))
        for own, other in zip(of_run, of_export, strict=True):
            assert own.file == other.file
            probabilities = dict(other.ranked)
            assert {n: pytest.approx(p, abs=1e-4) for n, p in own.ranked} == probabilities


def test_a_transformer_exports_too(tmp_path: Path):
    torch.manual_seed(0)
    config = StudentConfig("test_vit", pretrained=False, args=("img_size=32",))
    model = load_untrained(config)
    file = tmp_path / "model.onnx"
    images = torch.rand(3, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = model(images)
    write_program(model, "onnx", file)
    predict = open_program(file)
    torch.testing.assert_close(predict(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predict(images[:1]), expected[:1], rtol=1e-4, atol=1e-4)


def load_untrained(config: StudentConfig):
    from scmd.deploy.classifier import Classifier

    description = {"architecture": config.name, "image_size": SIZE}
    return Classifier(create_backbone(config, SIZE), ("a", "b"), description).eval()


# int8.


def test_int8_is_quantised_per_channel_and_measured(finished: Finished):
    import onnx

    model = onnx.load(finished.exported / "model-int8.onnx")
    scales = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    per_channel = [
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and list(scales.get(node.input[1], ())) not in ([], [1])
    ]
    assert len(per_channel) > 10
    about = json.loads((finished.exported / "preprocessing.json").read_text())["int8"]
    student = load(finished.run)
    held_out = read_source_images(finished.run, student.classes, SIZE, "holdout", 512)
    logits = load_onnx(finished.exported / "model-int8.onnx")(held_out.images)
    right = (logits.argmax(1) == held_out.labels).float().mean()
    assert about["accuracy"] == pytest.approx(float(right))
    assert about["images"] == len(held_out)
    n, loss = len(held_out), about["accuracy_fp32"] - about["accuracy"]
    assert round(loss * n) == about["lost"] - about["won"]


def test_comparing_two_sets_of_predictions():
    classes = torch.eye(3)
    labels = torch.tensor([0, 1, 2, 0])
    before = classes[torch.tensor([0, 1, 0, 1])]
    after = classes[torch.tensor([0, 2, 2, 2])]
    assert compare(before, after, labels) == {
        "images": 4, "accuracy_fp32": 0.5, "accuracy": 0.5, "agreement": 1, "lost": 1, "won": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("to", "failing"), [("onnx", ""), ("torch", ""), ("onnx", "quantize")])
def test_a_full_disk_is_not_the_students_fault(
    finished: Finished, tmp_path: Path, monkeypatch, to, failing
):
    """Of torch's own writer, which ends the process then, as well."""
    name = failing or "write_program"
    written = getattr(exporting, name)

    def limited(*args: object) -> None:
        with file_limit(50_000):
            written(*args)

    monkeypatch.setattr(exporting, name, limited)
    with pytest.raises(ScmdError, match=r"exported cannot be written: File too large\. Choose"):
        export_run(finished.run, tmp_path / "exported", to, int8=bool(failing))
    assert not list(tmp_path.iterdir())


# The images to check on.


def test_images_are_a_seeded_choice_of_the_sources(finished: Finished):
    classes = load(finished.run).classes

    def read(count: int, seed: int = 0):
        return read_source_images(finished.run, classes, SIZE, "train", count, seed=seed)

    everything = read(10_000)
    assert len(everything) == 15 + 36  # four of five images of art and photo
    some = read(20)
    assert len(some) == 20
    assert torch.equal(some.images, read(20).images)
    assert not torch.equal(some.images, read(20, seed=1).images)
    target = {
        np.asarray(Image.open(path).resize((SIZE, SIZE), Image.Resampling.BILINEAR)).tobytes()
        for path in (finished.data / "sketch").rglob("*.png")
    }
    shown = {image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in everything.images}
    assert len(shown) == len(everything)
    assert not shown & target


def test_data_that_moved(finished: Finished, tmp_path: Path):
    classes = load(finished.run).classes
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    config = run / "config.toml"
    config.write_text(config.read_text().replace(str(finished.data), str(tmp_path / "gone")))
    with pytest.raises(ScmdError, match=r"is not there\. Say with --data"):
        read_source_images(run, classes, SIZE, "holdout", 9)
    moved = read_source_images(run, classes, SIZE, "holdout", 9, finished.data)
    before = read_source_images(finished.run, classes, SIZE, "holdout", 9)
    assert torch.equal(moved.images, before.images)
    (run / "samples.parquet").unlink()
    with pytest.raises(ScmdError, match="Give the folder of a finished run"):
        read_source_images(run, classes, SIZE, "holdout", 9)


@pytest.mark.parametrize(("root", "manifest"), [("data", "list.txt"), ("pictures.csv", "")])
def test_a_manifest_is_a_file_whatever_its_name(
    finished: Finished, tmp_path: Path, root: str, manifest: str
):
    """And a folder is none, as in training."""
    classes = load(finished.run).classes
    run, data = tmp_path / "run", tmp_path / root
    shutil.copytree(finished.run, run)
    shutil.copytree(finished.data, data)
    source = data / manifest
    if manifest:
        source.write_text("path,domain,class\n")
    config = run / "config.toml"
    config.write_text(config.read_text().replace(str(finished.data), str(source)))
    expected = read_source_images(finished.run, classes, SIZE, "holdout", 9)
    for given in (None, source):
        found = read_source_images(run, classes, SIZE, "holdout", 9, given)
        assert torch.equal(found.images, expected.images)


# PyTorch's own format.


def test_a_torch_program_needs_none_of_the_extra(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "exported"
    about = export_run(finished.run, out, "torch")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "model.pt2", "preprocessing.json"]
    assert about["check"]["largest_difference"] <= about["check"]["tolerance"]
    images = torch.rand(5, 3, SIZE, SIZE)
    program = open_program(out / "model.pt2")
    with torch.inference_mode():
        expected = load(finished.run)(images)
        torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(program(images[:1]), expected[:1], rtol=1e-4, atol=1e-4)
    assert "torch.export.load" in (out / "README.md").read_text()
    assert str(ROOT).encode() not in (out / "model.pt2").read_bytes()


# What goes wrong.


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run ``scmd export``; it ends with status 2 and one line, which is returned."""
    assert main(["export", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_a_model_that_is_not_the_student_is_not_left_behind(
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    instant: None,
    error: float,
):
    def wrong(file: Path, threads: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
        right = open_program(file, threads)
        return lambda images: right(images) + error

    monkeypatch.setattr(exporting, "open_program", wrong)
    line = fails(capsys, finished.run, "--out", tmp_path / "deep" / "exported")
    assert f"differs by {error:.3g}"[:14] in line
    assert "is allowed" in line
    assert os.listdir(tmp_path / "deep") == []


def test_the_tolerance_grows_with_the_logits():
    expected = torch.tensor([[10.0, 0.0], [0.0, 5.0]])
    assert check(expected, expected + 0.0009)["tolerance"] == pytest.approx(0.001)
    with pytest.raises(ScmdError, match="a logit differs by"):
        check(expected, expected + 0.0011)
    with pytest.raises(ScmdError, match="a logit differs by"):
        check(expected / 100, expected / 100 + 0.00011)


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra(
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
):
    monkeypatch.setitem(sys.modules, name, None)
    line = fails(capsys, finished.run, "--out", tmp_path / "exported")
    assert f"needs {name}, not installed here" in line
    assert "pip install 'scmd[export]'" in line
    assert os.listdir(tmp_path) == []
    if name == "onnxruntime":
        with pytest.raises(ScmdError, match="needs onnxruntime"):
            load_onnx(finished.exported)


def test_what_is_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], instant: None
):
    assert "exists already" in fails(capsys, finished.run, "--out", finished.exported)
    out = tmp_path / "out"
    assert "for onnx, not for torch" in fails(
        capsys, finished.run, "--out", out, "--to", "torch", "--int8"
    )
    assert "holds no trained model" in fails(capsys, tmp_path, "--out", out)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(capsys, finished.run, "--out", tmp_path / "file" / "out")
    assert not out.exists()


def test_damaged_exports_are_errors(finished: Finished, tmp_path: Path):
    folder = tmp_path / "exported"
    shutil.copytree(finished.exported, folder)
    about, model = folder / "preprocessing.json", folder / "model.onnx"
    whole = json.loads(about.read_text())

    def rejects(message: str) -> None:
        with pytest.raises(ScmdError, match=message) as error:
            load_onnx(folder)
        assert "\n" not in str(error.value)

    about.write_text(json.dumps(whole | {"format": 99}))
    rejects("has format 99")
    about.write_text(json.dumps({"format": 1}))
    rejects("is damaged: 'student'")
    about.write_text("{")
    rejects("is damaged")
    student = whole["student"]
    about.write_text(json.dumps(whole | {"student": student | {"classes": ["cat"]}}))
    rejects("does not fit")
    about.unlink()
    rejects("preprocessing.json cannot be read")
    about.write_text(json.dumps(whole))
    model.write_bytes(model.read_bytes()[:1000])
    rejects("cannot be read as an ONNX model")
    model.unlink()
    rejects("no exported model")
