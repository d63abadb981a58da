"""A run that is killed, at whatever moment, and resumed ends as one that was left alone."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import Child, differences, outcome, training
from soaking import SOAK

from scmd.averaging import AverageConfig
from scmd.config import DataConfig, RunConfig, TrainingConfig
from scmd.methods import METHODS
from scmd.methods.scmd import SCMDConfig
from scmd.models.student import StudentConfig
from scmd.models.teacher import TeacherConfig
from scmd.selection import SelectionConfig

STEPS = 9


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder(("art", "photo", "sketch"), ("cat", "dog"), count=8)


def config_for(
    images: Path, teacher: Path, method: str = "scmd", average: str = "sma", **changes: Any
) -> RunConfig:
    hparams = METHODS[method].Config(lr=1e-3)
    if isinstance(hparams, SCMDConfig):
        hparams = replace(hparams, selection=SelectionConfig(fraction=0.5))
    return RunConfig(
        method=method,
        data=DataConfig(path=str(images), target="sketch", image_size=24),
        student=StudentConfig(name="test_efficientnet", pretrained=False, freeze_batch_norm=True),
        teacher=TeacherConfig(str(teacher), view=changes.pop("view", "augmented")),
        hparams=hparams,
        training=TrainingConfig(
            steps=STEPS,
            batch_per_domain=4,
            evaluate_every=3,
            checkpoint_every=2,
            log_every=1,
            workers=changes.pop("workers", 0),
        ),
        average=AverageConfig(average=average, average_start=3),  # type: ignore[arg-type]
    )


COMBINATIONS = [
    {"method": "scmd", "average": "sma", "view": "fixed"},
    {"method": "erm", "average": "swad", "workers": 2},
    {"method": "kd", "average": "ema", "processes": 2},
    {"method": "groupdro", "average": "none"},
    {"method": "scmd", "average": "swad", "processes": 2, "workers": 1},
    {"method": "miro", "average": "sma-released", "view": "clean"},
    {"method": "dann", "average": "ema", "workers": 1},
    {"method": "scmd", "average": "ema", "processes": 2, "view": "fixed"},
    {"method": "vrex", "average": "sma"},
    {"method": "rise", "average": "swad", "workers": 2},
]


def whole(config: RunConfig, tmp_path: Path, processes: int) -> dict[str, object]:
    """The outcome of the run that nobody stops."""
    out = tmp_path / "whole"
    assert set(Child(training(config, out, tmp_path / "cache-whole"), processes).wait()) == {0}
    return outcome(out)


@pytest.mark.soak
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(map(str, c.values())))
def test_killed_at_random_moments(images, clip_folder, tmp_path, combination, record_property):
    combination = dict(combination)
    processes = combination.pop("processes", 1)
    config = config_for(images, clip_folder, **combination)
    began = time.perf_counter()
    expected = whole(config, tmp_path, processes)
    lasts = time.perf_counter() - began
    draw = random.Random(str(combination))
    kills = 0
    for attempt in range(3):
        out, cache = tmp_path / f"killed-{attempt}", tmp_path / f"cache-{attempt}"
        for _ in range(3):
            child = Child(training(config, out, cache), processes)
            if not child.kill(draw.uniform(0, lasts)):
                break
            kills += 1
        statuses = Child(training(config, out, cache), processes).wait()
        assert set(statuses) == {0}, statuses
        assert differences(outcome(out), expected) == []
    record_property("kills", kills)
    assert kills >= 3


@pytest.mark.parametrize("where", ["out", "cache"])
def test_killed_before_every_file_operation(images, clip_folder, tmp_path, where):
    """Checkpoints, logs, parts, scores, the end; and what is remembered of images and teacher."""
    config = config_for(images, clip_folder, view="fixed")
    config = replace(config, training=replace(config.training, steps=4, checkpoint_every=3))
    expected = whole(config, tmp_path, 1)
    operation, stride = 0, 3 if SOAK else 9
    while True:
        out, cache = tmp_path / f"out-{operation}", tmp_path / f"cache-{operation}"
        work = training(config, out, cache)
        watched = out if where == "out" else cache
        killed = Child(work, operations=operation, folder=watched).wait() == [-9]
        assert killed or operation, "nothing was written there"
        if killed:
            assert Child(work).wait() == [0], f"not resumed after operation {operation}"
        assert differences(outcome(out), expected) == [], f"operation {operation}"
        if not killed:
            break
        operation += stride
    assert operation >= (10 if where == "out" else 5)
