"""What would be uploaded to the hub, and loading from a folder laid out as the hub's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deployed import file_limit
from rich.console import Console

import scmd
from scmd.averaging import AverageConfig
from scmd.cli import main
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.deploy import hub
from scmd.errors import ScmdError
from scmd.loop import train
from scmd.methods import METHODS
from scmd.models.student import StudentConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("hub")
    draw = np.random.default_rng(0)
    for domain in ("art", "photo"):
        for label in ("cat", "dog"):
            (root / "images" / domain / label).mkdir(parents=True)
            for index in range(6):
                pixels = draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / domain / label / f"{index}.png")
    config = RunConfig(
        method="erm",
        data=DataConfig(str(root / "images"), "photo", image_size=24),
        student=StudentConfig("test_efficientnet", pretrained=False, freeze_batch_norm=False),
        hparams=METHODS["erm"].Config(lr=1e-3),
        training=TrainingConfig(
            steps=2, batch_per_domain=4, evaluate_every=2, checkpoint_every=2, workers=0
        ),
        average=AverageConfig("none"),
    )
    train(config, root / "run", console=Console(quiet=True))
    return root / "run"


def test_a_dry_run_writes_what_would_be_uploaded(run, tmp_path, capsys):
    out = tmp_path / "staged"
    assert main(["push", str(run), "someone/pets", "--dry-run", str(out)]) == 0
    assert {"README.md", "model.json", "model.safetensors"} <= {p.name for p in out.iterdir()}
    said = capsys.readouterr().out
    assert all(str(file) in said for file in out.iterdir())
    everything = b"".join(f.read_bytes() for f in out.iterdir() if f.suffix in (".json", ".md"))
    assert str(run.parent).encode() not in everything  # nobody's disk is published
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: scmd\n")
    assert 'scmd.load("hub:someone/pets")' in card
    assert "| photo | target | 12 |" in card
    model = scmd.load(out)
    assert model.classes == ("cat", "dog")
    assert main(["push", str(run), "someone/pets", "--dry-run", str(out)]) == 2


def with_teacher(run: Path, copy: Path, teacher: str, **more: list[str] | str) -> Path:
    """A copy of a run that says that it had a teacher, and what else its model.json should say."""
    shutil.copytree(run, copy)
    for name, told in (
        ("model.json", {"teacher": teacher, **more}),
        ("summary.json", {"teacher": {"name": teacher, "fitted_on_domains": []}}),
    ):
        said = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(said | told))
    return copy


def staged(run: Path, out: Path) -> tuple[str, str, str]:
    """The teacher's name in the description and in the summary that are uploaded, and the card."""
    out.mkdir()
    hub.stage(run, "someone/pets", out)
    model, summary = (
        json.loads((out / name).read_text()) for name in ("model.json", "summary.json")
    )
    return model["teacher"], summary["teacher"]["name"], (out / "README.md").read_text()


@pytest.mark.parametrize(
    "teacher",
    ["{}/private/there", "{}/private/gone", "local-dir:{}/private/gone", "private/gone", "there"],
)
def test_where_a_teacher_lies_is_not_published(run, tmp_path, monkeypatch, teacher):
    (tmp_path / "private" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "private")
    copy = with_teacher(run, tmp_path / "run", teacher.format(tmp_path))
    name = teacher.rpartition("/")[2]
    described, summed_up, card = staged(copy, tmp_path / "out")
    assert (described, summed_up) == (name, name)
    assert f"Its teacher was `{name}`." in card
    assert not [f for f in (tmp_path / "out").iterdir() if b"private" in f.read_bytes()]
    images = torch.rand(2, 3, 24, 24)
    with torch.inference_mode():
        assert torch.equal(scmd.load(tmp_path / "out")(images), scmd.load(copy)(images))


def test_the_card_says_what_the_exported_one_says(run, tmp_path):
    """Of all that was held out, of what the teacher has seen, and of calibrated probabilities."""
    copy = with_teacher(run, tmp_path / "run", "embedded", method="scmd")
    summary = json.loads((copy / "summary.json").read_text())
    summary["results"]["art"]["role"] = "left out"
    summary["results"]["photo"]["ece_calibrated"] = 0.123
    summary["teacher"]["fitted_on_domains"] = ["art", "sketch"]
    (copy / "summary.json").write_text(json.dumps(summary))
    card = staged(copy, tmp_path / "out")[2]
    assert "which was fitted on images of art, sketch." in card
    assert "it was measured on art, photo only." in card
    assert "had seen images of art: the accuracy there is not one of an unseen domain." in card
    assert "| 0.123 |" in card
    assert card.split("---")[1].count("- scmd") == 1


@pytest.mark.parametrize(
    "teacher", ["embedded", "ViT-B-32-quickgelu/openai", "hf-hub:timm/ViT-B-16-SigLIP"]
)
def test_a_teacher_that_others_can_have_keeps_its_name(run, tmp_path, teacher):
    copy = with_teacher(run, tmp_path / "run", teacher)
    assert staged(copy, tmp_path / "out")[:2] == (teacher, teacher)


def test_the_file_that_a_student_began_with_is_not_published(run, tmp_path):
    """As timm is told of it."""
    args = ["drop_path_rate=0.0", "pretrained_cfg_overlay={'file': '/home/me/private.pth'}"]
    copy = with_teacher(run, tmp_path / "run", "embedded", args=args)
    staged(copy, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "model.json").read_text())["args"] == args[:1]
    images = torch.rand(2, 3, 24, 24)
    with torch.inference_mode():
        assert torch.equal(scmd.load(tmp_path / "out")(images), scmd.load(copy)(images))


def test_loading_from_the_hubs_cache(run, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "models--someone--pets"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, snapshot / name)

    def offline(repo, allow_patterns):
        from huggingface_hub import snapshot_download

        return snapshot_download(
            repo, allow_patterns=allow_patterns, cache_dir=tmp_path / "cache",
            local_files_only=True,
        )  # fmt: skip

    monkeypatch.setattr(hub, "snapshot_download", offline)
    images = torch.rand(2, 3, 24, 24)
    with torch.inference_mode():
        assert torch.equal(scmd.load("hub:someone/pets")(images), scmd.load(run)(images))
    with pytest.raises(ScmdError, match="hub:someone/else cannot be had"):
        scmd.load("hub:someone/else")


@pytest.mark.parametrize("name", ["pets", "a/b/c", "some one/pets", ""])
def test_names_that_are_none(run, name, capsys):
    assert main(["push", str(run), name, "--dry-run", "/nowhere"]) == 2
    assert "is no name of the hub" in capsys.readouterr().err


def test_what_is_uploaded_is_what_was_staged(run, monkeypatch, capsys):
    told = {}

    class Api:
        def create_repo(self, repo, private, exist_ok):
            told["repo"] = (repo, private)

        def upload_folder(self, repo_id, folder_path, commit_message):
            told["files"] = {file.name for file in Path(folder_path).iterdir()}
            return type("Commit", (), {"repo_url": f"https://huggingface.co/{repo_id}"})

    monkeypatch.setattr(hub, "HfApi", Api)
    assert main(["push", str(run), "someone/pets", "--private"]) == 0
    assert told["repo"] == ("someone/pets", True)
    assert "config.toml" not in told["files"]
    assert "https://huggingface.co/someone/pets" in capsys.readouterr().out


def test_a_hub_that_refuses(run, monkeypatch, capsys):
    class Api:
        def create_repo(self, *args, **kwargs):
            raise OSError("no connection\nand more")

    monkeypatch.setattr(hub, "HfApi", Api)
    assert main(["push", str(run), "someone/pets"]) == 2
    assert "cannot be uploaded: no connection. Log in" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached(run, tmp_path):
    """As the hub's own client says it, which is no OSError."""
    said = subprocess.run(
        [sys.executable, "-m", "scmd.cli", "push", str(run), "someone/pets"],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2, said.stderr
    (line,) = said.stderr.strip().splitlines()
    assert "someone/pets cannot be uploaded: " in line
    assert "check the connection" in line


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("")])
def test_an_error_without_words_has_its_name(run, monkeypatch, error):
    def failing(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub.HfApi, "create_repo", failing)
    monkeypatch.setattr(hub, "snapshot_download", failing)
    with pytest.raises(ScmdError, match=f"cannot be uploaded: {type(error).__name__}"):
        hub.push(run, "someone/pets")
    with pytest.raises(ScmdError, match=f"cannot be had: {type(error).__name__}"):
        hub.fetch("hub:someone/pets")


def test_a_dry_run_on_a_full_disk_leaves_no_half_of_the_model(run, tmp_path):
    out = tmp_path / "staged"
    out.mkdir()
    with (
        file_limit(50_000),
        pytest.raises(ScmdError, match=r"staged/model\.safetensors cannot be written: File too"),
    ):
        hub.stage(run, "someone/pets", out)
    assert not list(out.iterdir())


def test_a_name_with_a_bar_does_not_tear_the_table(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    summary = json.loads((copy / "summary.json").read_text())
    summary["results"]["a|b"] = summary["results"].pop("photo")
    (copy / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "out").mkdir()
    hub.stage(copy, "someone/pets", tmp_path / "out")
    assert "| a\\|b | target | 12 |" in (tmp_path / "out" / "README.md").read_text()
