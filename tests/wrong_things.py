"""A folder of wrong things: data sets, manifests, settings, models and runs to give to commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scmd.cli import main
from scmd.config import save_config
from scmd.demo import demo_config

# fmt: off
SMALL = [
    "--method", "erm", "--student", "test_efficientnet", "--no-student-pretrained",
    "--image-size", "24", "--steps", "2", "--batch-per-domain", "2", "--average", "none",
    "--workers", "0",
]
# fmt: on
MANIFESTS = {
    "no-column.csv": b"path,domain\nimages/art/cat/0.png,art\n",
    "gone.csv": b"path,domain,class\nimages/art/cat/99.png,art,cat\n",
    "twice.csv": b"path,domain,class\n" + b"images/art/cat/0.png,art,cat\n" * 2,
    "header.csv": b"path,domain,class\n",
    "empty.csv": b"",
    "binary.csv": bytes(range(256)),
    "latin.csv": "path,domain,class\nimages/art/cat/0.png,art,élan\n".encode("latin-1"),
    "utf16.csv": "path,domain,class\nimages/art/cat/0.png,art,cat\n".encode("utf-16"),
    "blank.csv": b"path,domain,class\nimages/art/cat/0.png,art,\n",
    "open-quote.csv": b'path,domain,class\n"images/art/cat/0.png,art,cat\n',
    "folder.csv": b"path,domain,class\nimages/art,art,cat\n",
}
SETTINGS = {
    "unknown.toml": "[training]\nstpes = 3\n",
    "unknown-table.toml": "[trainign]\nsteps = 3\n",
    "type.toml": '[training]\nsteps = "three"\n',
    "range.toml": "[hparams]\nlr = -1.0\n",
    "nan.toml": "[hparams]\nlr = nan\n",
    "date.toml": "[training]\nsteps = 2024-01-01\n",
    "method.toml": 'method = "scdm"\n',
    "broken.toml": "[training\nsteps = 3\n",
    "deep.toml": ".".join(["a"] * 3000) + " = 1\n",
    "digits.toml": "[training]\nsteps = 0x" + "f" * 4000 + "\n",
    "search.toml": "[search]\nlr = 3\n",
    "search-name.toml": "[search]\nlearning_rate = [0.1, 0.2]\n",
    "search-huge.toml": "[search]\nlr = {low = 0.0, high = inf}\n",
    "names.toml": 'zebra = "a zebra"\n',
    "names.json": '{"cat": "a tabby", "dog": " "}',
}


def pictures(root: Path, domains: tuple[str, ...], classes: tuple[str, ...], count: int) -> None:
    """A data set of noise."""
    random = np.random.default_rng(0)
    for domain in domains:
        for label in classes:
            (root / domain / label).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / label / f"{index}.png")


def make(root: Path) -> None:
    """Everything that the examples name, in a folder that is there and is the working folder."""
    _data(root)
    for name, content in MANIFESTS.items():
        (root / name).write_bytes(content)
    for name, text in SETTINGS.items():
        (root / name).write_text(text)
    (root / "binary.toml").write_bytes(bytes(range(256)))
    (root / "notes").mkdir()
    (root / "notes" / "notes.txt").write_text("mine")
    (root / "page").mkdir()
    (root / "page" / "index.html").write_text("<p>mine</p>")
    (root / "file").write_text("a file")
    (root / "half.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    torch.save({"weights": torch.nn.Linear(1, 1)}, root / "unsafe.pt")
    _models(root)
    assert main(["train", "images", "--target", "sketch", *SMALL, "--out", "run"]) == 0
    _runs(root)


def _data(root: Path) -> None:
    pictures(root / "images", ("art", "photo", "sketch"), ("cat", "dog"), 5)
    pictures(root / "one-domain", ("art",), ("cat", "dog"), 5)
    pictures(root / "one-class", ("art", "photo"), ("cat",), 5)
    pictures(root / "few", ("art", "photo"), ("cat", "dog"), 1)
    pictures(root / "other", ("art", "photo"), ("cat", "zebra"), 5)
    pictures(root / "uneven", ("art", "photo"), ("cat", "dog"), 5)
    shutil.rmtree(root / "uneven" / "photo" / "dog")
    pictures(root / "broken", ("art", "photo"), ("cat", "dog"), 5)
    for file in (root / "broken" / "photo" / "dog").iterdir():
        file.write_bytes(b"no image")
    (root / "empty").mkdir()
    (root / "no-images" / "art" / "cat").mkdir(parents=True)
    (root / "no-classes" / "art").mkdir(parents=True)


def _models(root: Path) -> None:
    for name, config in (("teacher-empty", None), ("teacher-broken", "{"), ("teacher-odd", "{}")):
        (root / name).mkdir()
        if config is not None:
            (root / name / "open_clip_config.json").write_text(config)
    (root / "onnx-broken").mkdir()
    (root / "onnx-broken" / "model.onnx").write_bytes(b"no model")
    student = {
        "format": 1, "architecture": "test_vit", "args": [], "classes": ["cat", "dog"],
        "image_size": 24, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    about = json.dumps({"format": 1, "student": student})
    (root / "onnx-broken" / "preprocessing.json").write_text(about)
    (root / "onnx-alone").mkdir()
    (root / "onnx-alone" / "model.onnx").write_bytes(b"no model")


def _runs(root: Path) -> None:
    """Copies of ``run`` that lack a file, ``run-no-summary`` and the like, or have half of one."""
    files = {
        "summary": "summary.json", "log": "metrics.jsonl", "config": "config.toml",
        "model": "model.json", "weights": "model.safetensors", "samples": "samples.parquet",
    }  # fmt: skip
    for what, file in files.items():
        shutil.copytree(root / "run", root / f"run-no-{what}")
        (root / f"run-no-{what}" / file).unlink()
        half = root / f"run-half-{what}"
        shutil.copytree(root / "run", half)
        content = (half / file).read_bytes()
        content = content[: 2 * len(content) // 3]
        if what == "config":  # whole lines would be TOML
            content = content[: content.rindex(b"=")]
        (half / file).write_bytes(content)
    for name, change in {
        "run-odd-summary": lambda summary: summary.pop("results"),
        "run-odd-classes": lambda summary: summary["classes"].append("yak"),
    }.items():
        shutil.copytree(root / "run", root / name)
        summary = json.loads((root / name / "summary.json").read_text())
        change(summary)
        (root / name / "summary.json").write_text(json.dumps(summary))
    for name, plan in {
        "plan-broken": "{",
        "plan-odd": '{"../run": {"label": "erm", "draw": 0}}',
    }.items():
        (root / name).mkdir()
        (root / name / "plan.json").write_text(plan)
    (root / "plan-empty").mkdir()
    (root / "plan-empty" / "plan.json").write_text("{}")
    earlier = root / "earlier" / "photo-erm-seed0"
    earlier.mkdir(parents=True)
    settings = demo_config("erm", root / "earlier" / "digits", "photo", seed=0, steps=400)
    save_config(settings, earlier / "config.toml")
    (root / "fitting").mkdir()
    (root / "fitting" / "fit.json").write_text('{"steps": 5}')
