"""A summary says where its numbers come from, and what it says is so."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image

import scmd.provenance as provenance
from scmd.data.folder import load_domains


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *names, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The package's folder in a repository of its own."""
    package = tmp_path / "checkout" / "src" / "scmd"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-q", "-m", "x")
    provenance.revision.cache_clear()
    return package


def revision(folder: Path):
    provenance.revision.cache_clear()
    return provenance.revision(folder)


def test_revision_of_a_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert revision(checkout) == {"commit": commit, "changed": False}
    (checkout.parents[1] / "notes.txt").write_text("not the package")
    assert revision(checkout) == {"commit": commit, "changed": False}
    (checkout / "new.py").write_text("")
    assert revision(checkout) == {"commit": commit, "changed": True}
    (checkout / "new.py").unlink()
    (checkout / "__init__.py").write_text("x = 1")
    assert revision(checkout) == {"commit": commit, "changed": True}


def test_no_revision_where_it_is_installed(checkout, tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "scmd"
    shutil.copytree(checkout, installed)
    assert revision(installed) is None
    inside = checkout.parents[1] / ".venv" / "scmd"  # in a repository that is not the package's
    shutil.copytree(checkout, inside)
    assert revision(inside) is None
    monkeypatch.setenv("GIT_DIR", str(checkout.parents[1] / ".git"))  # as in a hook
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout.parents[1]))
    assert revision(installed) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(checkout) is None


def test_fingerprint_changes_with_names_labels_and_sizes_alone(image_folder, tmp_path):
    root = image_folder()
    data = load_domains(root)
    before = provenance.fingerprint(data)
    copy = shutil.copytree(root, tmp_path / "copy")
    os.utime(copy / data.paths[0], (1, 1))
    assert provenance.fingerprint(load_domains(copy)) == before
    seen = {before}
    Image.new("RGB", (40, 40)).save(copy / data.paths[0])
    seen.add(provenance.fingerprint(load_domains(copy)))
    (copy / data.paths[0]).rename(copy / "photo" / "cat" / "new.png")
    seen.add(provenance.fingerprint(load_domains(copy)))
    (copy / "photo" / "cat" / "new.png").rename(copy / "photo" / "dog" / "new.png")
    seen.add(provenance.fingerprint(load_domains(copy)))
    lines = [f"{p},{p.split('/')[0]},{p.split('/')[1]}" for p in data.paths]
    (root / "same.csv").write_text("\n".join(["path,domain,class", *lines]))
    assert provenance.fingerprint(load_domains(root / "same.csv")) == before
    lines[0] = lines[0].replace(",cat", ",dog")
    (root / "other.csv").write_text("\n".join(["path,domain,class", *lines]))
    seen.add(provenance.fingerprint(load_domains(root / "other.csv")))
    for name in ("labels", "domain_index"):  # in the same order of files
        other = replace(data, **{name: getattr(data, name)[::-1].copy()})
        seen.add(provenance.fingerprint(other))
    assert len(seen) == 7


def test_summary_says_where_its_numbers_come_from(image_folder, tmp_path):
    root = image_folder(("art", "photo"), count=6, size=24)
    out = tmp_path / "run"
    arguments = [
        "train", str(root), "--target", "photo", "--out", str(out), "--method", "erm",
        "--image-size", "24", "--student", "test_efficientnet", "--no-student-pretrained",
        "--steps", "1", "--batch-per-domain", "2", "--workers", "0", "--device", "cpu",
        "--seed", "3",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scmd.cli", *arguments]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 3
    assert summary["precision"] in ("fp32", "bf16")
    for name in ("scmd", "torch", "torchvision", "timm", "open_clip_torch", "pillow", "numpy"):
        assert summary["versions"][name] == version(name)
    assert summary["versions"]["python"] == platform.python_version()
    said = summary["provenance"]
    assert said["command"].startswith(f"scmd train {root} --target photo")
    assert said["data"]["fingerprint"] == provenance.fingerprint(load_domains(root))
    assert said["data"]["images"] == 24
    assert said["revision"] == revision(Path(provenance.__file__).parent)
    assert said["device"] == "cpu"
    assert said["machine"]["cores"] == os.cpu_count()
    assert platform.node() == "" or platform.node() not in json.dumps(said["machine"])


def test_device_of_the_summary(image_folder):
    data = load_domains(image_folder())
    assert provenance.provenance(data, torch.device("cpu"))["device"] == "cpu"


def test_a_package_that_is_not_installed_ends_no_run(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    found = provenance.versions()
    assert found["torch"] == version("torch")
    assert found["no-such-package"] == "not installed"
