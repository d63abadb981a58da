"""The commands as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scmd
from scmd.cli import COMMANDS, main
from scmd.config import load_config

# fmt: off
SMALL = [
    "--student", "test_efficientnet", "--no-student-pretrained", "--image-size", "24",
    "--steps", "3", "--batch-per-domain", "2", "--average", "none", "--workers", "0",
]
# fmt: on


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=5)


@pytest.fixture
def run(images, tmp_path, monkeypatch) -> Path:
    """A finished ERM run, made by the command itself."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(images), "--target", "sketch", "--method", "erm", *SMALL]) == 0
    return tmp_path / "runs" / "images-sketch-erm-seed0"


def test_every_command_has_help(capsys):
    assert main([]) == main(["--help"]) == 0
    top = capsys.readouterr().out
    for name in COMMANDS:
        assert name in top
        with pytest.raises(SystemExit) as end:
            main([*name.split(), "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert f"usage: scmd {name}" in text
        assert not re.search(r"--(run|data|student|teacher|hparams|training)\.[a-z]", text)
        assert "MISSING" not in text


def test_help_shows_the_chosen_methods_own_settings(capsys):
    for method, shown in (("erm", False), ("kd", False), ("scmd", True)):
        with pytest.raises(SystemExit):
            main(["train", "--method", method, "--help"])
        assert ("--selection.fraction" in capsys.readouterr().out) == shown


def test_train_on_a_target_then_evaluate_and_predict(run, images, capsys):
    assert load_config(run / "config.toml").data.target == "sketch"
    capsys.readouterr()
    assert main(["evaluate", str(run), str(images), "--json", str(run / "again.json")]) == 0
    printed = capsys.readouterr().out
    assert "sketch" in printed
    summary = json.loads((run / "summary.json").read_text())
    again = json.loads((run / "again.json").read_text())
    target = summary["results"]["sketch"]
    assert again["results"]["sketch"]["accuracy"] == target["accuracy"]
    assert again["results"]["sketch"]["confusion"] == target["confusion"]

    assert main(["predict", str(run), str(images / "sketch"), "--workers", "0"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1"] * 10
    right = sum(row["class"] == Path(row["file"]).parent.name for row in rows)
    assert right / 10 == pytest.approx(target["accuracy"])

    assert (
        main(f"predict {run} {images / 'sketch'} --format jsonl --top 2 --workers 0".split()) == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["class"] for line in lines] == [row["class"] for row in rows]
    assert sum(entry["probability"] for entry in lines[0]["top"]) == pytest.approx(1, abs=1e-5)


def test_a_runs_own_configuration_is_enough_to_rerun_it(run, tmp_path):
    assert main(["train", "--config", str(run / "config.toml"), "--out", str(tmp_path / "b")]) == 0
    for name in ("config.toml", "metrics.jsonl", "model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_preset_then_file_then_flags(images, tmp_path, monkeypatch):
    import scmd.loop

    seen = []
    monkeypatch.setattr(scmd.loop, "train", lambda config, *rest: seen.append(config) or {})
    file = tmp_path / "settings.toml"
    file.write_text("[training]\nsteps = 7\nseed = 4\n[hparams]\nlr = 0.5\n")
    arguments = ["train", str(images), "--preset", "paper", "--config", str(file), "--seed", "9"]
    assert main(arguments) == 0
    (config,) = seen
    assert config.average.average == "sma-released"  # the preset's
    assert config.training.steps == 7  # the file's, over the preset's
    assert config.hparams.lr == 0.5
    assert config.training.seed == 9  # the flag's, over the file's


def test_train_without_target_makes_every_domain_a_source(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(images), "--method", "erm", *SMALL]) == 0
    summary = json.loads((tmp_path / "runs/images-all-erm-seed0/summary.json").read_text())
    assert summary["sources"] == ["art", "photo", "sketch"]


def test_teacher_eval(images, clip_folder, tmp_path, capsys):
    out = tmp_path / "zero-shot.json"
    arguments = ["teacher", "eval", str(clip_folder), str(images), "--json", str(out)]
    assert main([*arguments, "--workers", "0", "--prompts", "a {}", "one {}"]) == 0
    printed = capsys.readouterr().out
    for word in ("art", "photo", "sketch", "cat", "dog"):
        assert word in printed
    results = json.loads(out.read_text())["results"]
    assert {name: result["n"] for name, result in results.items()} == {
        "art": 10, "photo": 10, "sketch": 10,
    }  # fmt: skip


def test_data_check_says_what_is_wrong_by_its_exit_status(images, capsys):
    assert main(["data", "check", str(images)]) == 0
    assert "30 images" in capsys.readouterr().out.replace("\n", " ")
    (images / "art" / "cat" / "empty.png").touch()
    assert main(["data", "check", str(images)]) == 1
    assert "empty.png" in capsys.readouterr().out


def test_unreadable_image_is_reported_and_not_fatal(run, images, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    good = next((images / "photo" / "cat").iterdir())
    capsys.readouterr()
    assert main(["predict", str(run), str(broken), str(good), "--workers", "0"]) == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert "cannot be decoded" in first["error"]
    assert second["class"] in ("cat", "dog")


BAD = {
    "trian": "there is no command 'trian'",
    "teacher evil": "there is no command 'teacher evil'",
    "train": "no data given",
    "train nowhere": "no such folder or manifest: nowhere",
    "train {images} --target skech": "Did you mean 'sketch'?",
    "train {images} --method scdm": "Did you mean 'scmd'?",
    "train {images} --preset papre": "there is no preset 'papre'",
    "train {images} --config nowhere.toml": "nowhere.toml cannot be read",
    "train {images} --holdout 1.5": "holdout = 1.5: give a number between 0 and 1",
    "train {images} --steps 0": "steps = 0: give a whole number from 1",
    "train {images} --method erm --lr -1": "lr = -1.0: give a number above 0",
    "train {images} --selection.fraction 0": "selection.fraction = 0.0: give a number in (0, 1]",
    "train {images} --teacher ViT-B-32": "names no weights",
    "train {images} --teacher nothing/here": "neither a folder nor a model",
    "train {images} --method erm --student resnet51": "timm has no model 'resnet51'",
    "train {images} --method erm --student-weights nowhere.safetensors": "no such weight file",
    "train {images} --method erm --student test_vit --student-args size": "name=value",
    "evaluate nowhere {images}": "nowhere holds no trained model",
    "predict nowhere {images}": "nowhere holds no trained model",
    "predict {images} nowhere.jpg": "no such image: nowhere.jpg",
    "predict {images}": "no image given",
    "train {images} --method erm --student test_vit --no-student-pretrained --image-size 50": (
        "does not take images of 50 px"
    ),
    "train {images} --method erm --student resnet18.none": "no weights tagged 'none'",
    "teacher eval embedded {images} --json nowhere/x.json": "there is no folder nowhere",
    "teacher fit --out t": "no data given",
    "teacher fit {images} --captions photo --out t": "does not say where the class goes",
    "data digits out --styles oil": "there is no style 'oil'",
    "teacher eval nowhere {images}": "neither a folder nor a model",
    "data check nowhere": "no such folder or manifest",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_status_2(line, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(line.format(images=images).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert BAD[line] in captured.err
    assert sorted(tmp_path.rglob("*")) == before  # nothing is left behind


@pytest.mark.parametrize("line", ["train {images} --stpes 3", "train {images} --steps three"])
def test_unknown_and_malformed_flags_exit_with_2(line, images, capsys):
    assert main(line.format(images=images).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "--steps" in said


def test_evaluate_refuses_classes_that_the_model_does_not_know(run, image_folder, capsys):
    other = image_folder(("art",), ("cat", "zebra"), name="other")
    assert main(["evaluate", str(run), str(other)]) == 2
    assert "has the class 'zebra'" in capsys.readouterr().err


def test_as_a_program(images):
    """In a process of its own: the status and the message reach the shell, without a traceback."""
    command = [sys.executable, "-m", "scmd.cli", "train", str(images), "--target", "skech"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_predicts_any_image_type(run, tmp_path, capsys):
    folder = tmp_path / "pictures with spaces"
    folder.mkdir()
    Image.new("L", (9, 30), 40).save(folder / "grey ü.gif")
    Image.new("RGBA", (64, 64), (1, 2, 3, 0)).save(folder / "alpha.webp")
    Image.new("CMYK", (8, 8)).save(folder / "print.tiff")
    capsys.readouterr()
    assert main(["predict", str(run), str(folder), "--format", "jsonl", "--workers", "0"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["alpha.webp", "grey ü.gif", "print.tiff"]
    assert all("class" in line for line in lines)


def test_python_predicts_what_the_command_predicts(run, tmp_path, capsys):
    """On pictures that need more than a conversion: turned, transparent, 16-bit."""
    rng = np.random.default_rng(0)
    files = [tmp_path / name for name in ("turned.jpg", "clear.png", "deep.png")]
    turned = Image.Exif()
    turned[0x0112] = 6
    half = np.kron(np.array([[255, 0]], dtype=np.uint8), np.ones((40, 20), dtype=np.uint8))
    Image.fromarray(half).convert("RGB").save(files[0], exif=turned)
    Image.fromarray(rng.integers(0, 256, (30, 30, 4), dtype=np.uint8)).save(files[1])
    Image.fromarray(rng.integers(0, 2**16, (30, 30)).astype(np.uint16)).save(files[2])
    capsys.readouterr()
    assert main(["predict", str(run), *map(str, files), "--top", "2", "--workers", "0"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    model = scmd.load(run)
    probabilities = model.predict([Image.open(file) for file in files])
    for index, file in enumerate(files):
        for row in (row for row in rows if row["file"] == str(file)):
            expected = probabilities[index, model.classes.index(row["class"])]
            assert float(row["probability"]) == pytest.approx(float(expected), abs=1e-5)


def test_predict_fails_only_where_nothing_could_be_classified(run, tmp_path):
    (tmp_path / "empty.png").touch()
    out = tmp_path / "out.csv"
    arguments = ["predict", str(run), str(tmp_path / "empty.png"), "--workers", "0"]
    assert main([*arguments, "--out", str(out)]) == 1
    assert "cannot be decoded" in out.read_text()


def test_predictions_appear_when_they_are_complete(run, images, tmp_path, monkeypatch):
    import scmd.deploy.predict as predicting

    out = tmp_path / "out.csv"
    out.write_text("before")
    arguments = ["predict", str(run), str(images), "--workers", "0", "--out", str(out)]

    def breaking(self, index):
        if index == 5:
            raise KeyboardInterrupt
        return decode(self, index)

    decode = predicting._Files.__getitem__
    with monkeypatch.context() as patch:
        patch.setattr(predicting._Files, "__getitem__", breaking)
        assert main(arguments) == 130
    assert out.read_text() == "before"
    assert main(arguments) == 0
    assert len(out.read_text().splitlines()) == 31


def test_reader_that_leaves_is_no_error(run, images):
    command = f"{sys.executable} -m scmd.cli predict {run} {images} --workers 0 | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "file,rank,class,probability,error\n"
    assert done.stderr == ""


def test_letters_that_the_terminal_lacks_are_no_error(run, images, tmp_path):
    """In JSON they stay what they are, elsewhere their numbers are shown."""
    name = "写 é.png"
    (images / "art" / "cat" / "000.png").rename(tmp_path / name)

    def said(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "scmd.cli", *command], check=True, capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert b"Traceback" not in done.stderr
        return done.stdout.decode("ascii")

    pictures = ("predict", str(run), str(tmp_path / name), "--workers", "0")
    assert json.loads(said(*pictures, "--format", "jsonl"))["file"] == str(tmp_path / name)
    assert "\\u5199" in said(*pictures)
    assert "sketch" in said("evaluate", str(run), str(images), "--workers", "0")


def test_what_is_no_file_is_not_replaced_by_one(run, images, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for command in (["evaluate", "--json"], ["predict", "--out"]):
        name, flag = command
        assert main([name, str(run), str(images), flag, str(pipe)]) == 2
        assert f"{pipe} cannot be written: it is no regular file" in capsys.readouterr().err
        assert pipe.is_fifo()


def test_resume_takes_the_runs_own_configuration(run, tmp_path, capsys):
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert "finished already" in capsys.readouterr().err
    (run / "summary.json").unlink()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert main(["train", "--out", str(run), "--resume", "--lr", "0.3"]) == 2
    assert "another configuration (hparams.lr" in capsys.readouterr().err


def test_default_folder_is_named_by_data_target_method_and_seed(images, tmp_path, monkeypatch):
    from scmd.commands.models import default_folder
    from scmd.config import DataConfig, RunConfig

    monkeypatch.chdir(images)
    for path, name in ((".", "images"), ("../my.images/", "my.images"), ("a/b.csv", "b")):
        folder = default_folder(RunConfig(data=DataConfig(path)))
        assert folder == Path("runs") / f"{name}-all-scmd-seed0"


def test_names_are_printed_as_they_are(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = image_folder(("[bold]art", "photo", "[x]"), ("[ink]cat", "dog"), count=5)
    assert main(["train", str(images), "--target", "photo", "--method", "erm", *SMALL]) == 0
    captured = capsys.readouterr()
    assert "[bold]art" in captured.out
    assert "[bold]art, [x]" in captured.err
    run = tmp_path / "runs" / "images-photo-erm-seed0"
    assert main(["evaluate", str(run), str(images)]) == 0
    assert "[ink]cat" in capsys.readouterr().out


def test_measuring_on_one_domain_is_no_reason_to_warn(run, image_folder, capsys):
    other = image_folder(("somewhere",), ("cat", "dog"), name="new")
    assert main(["evaluate", str(run), str(other)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["train", str(other), "--method", "erm", *SMALL, "--steps", "1"]) in (0, 2)
    assert "has a single domain" in capsys.readouterr().err
