"""A teacher's fit that is killed or asked to stop and resumed ends as one that was left alone."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from killing import Child
from rich.console import Console
from soaking import SOAK

import scmd.fit as fitting
from scmd.errors import ScmdError, Stopped
from scmd.fit import fit_teacher
from scmd.models.fit_config import FitConfig

QUIET = Console(quiet=True)


@pytest.fixture
def config(image_folder, clip_folder) -> FitConfig:
    images = image_folder(("art", "photo"), ("cat", "dog"), count=5)
    return FitConfig(
        data=str(images), model=str(clip_folder), steps=4, batch_per_domain=2, lr=1e-3,
        checkpoint_every=2, workers=0,
    )  # fmt: skip


def fit(config: FitConfig, out: Path, cache: Path) -> Callable[[], object]:
    def work() -> None:
        os.environ["SCMD_CACHE"] = str(cache)
        fit_teacher(config, out, resume=out.exists(), console=QUIET)

    return work


def outcome(out: Path) -> dict[str, object]:
    card = json.loads((out / "teacher.json").read_text())
    return {
        "card": {key: value for key, value in card.items() if key != "fitted"},
        "files": sorted(path.name for path in out.iterdir()),
        "weights": (out / "open_clip_model.safetensors").read_bytes(),
        "config": (out / "open_clip_config.json").read_bytes(),
    }


def test_killed_before_every_file_operation(config, tmp_path):
    assert Child(fit(config, tmp_path / "whole", tmp_path / "cache-whole")).wait() == [0]
    expected = outcome(tmp_path / "whole")
    operation, stride = 0, 1 if SOAK else 9
    while True:
        out = tmp_path / f"out-{operation}"
        work = fit(config, out, tmp_path / f"cache-{operation}")
        killed = Child(work, operations=operation, folder=out).wait() == [-9]
        if killed:
            assert Child(work).wait() == [0], f"not resumed after operation {operation}"
        assert outcome(out) == expected, f"operation {operation}"
        if not killed:
            break
        operation += stride
    assert operation >= 10


def test_a_signal_is_answered_by_a_checkpoint(config, tmp_path, monkeypatch):
    config = replace(config, checkpoint_every=100)
    fit(config, tmp_path / "whole", tmp_path / "cache")()
    loss = fitting._loss

    def asking(model, batch, normalize, captions, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch, normalize, captions, step)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "_loss", asking)
        with pytest.raises(Stopped, match=r"stopped after 3 steps. Pass --resume to go on"):
            fit_teacher(config, tmp_path / "out", console=QUIET)
    fit_teacher(config, tmp_path / "out", resume=True, console=QUIET)
    assert outcome(tmp_path / "out") == outcome(tmp_path / "whole")


def test_second_fit_in_one_folder_is_refused(config, tmp_path):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ScmdError, match="another process is training in"):
            fit_teacher(config, tmp_path / "out", console=QUIET)
